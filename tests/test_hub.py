"""Checkpoints by their Hub id, against a small Hub of our own on the loopback address."""

import hashlib
import json
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import huggingface_hub
import pytest
import torch
from foreign_models import Coconut, PublishedCodi

from codi_patching.models.loading import hub, known
from codi_patching.models.loading.checkpoint import (
    CheckpointError,
    load_checkpoint,
    save_checkpoint,
)
from scripts.make_random_checkpoint import train_tokenizer

COMMIT = "c" * 40


class Handler(BaseHTTPRequestHandler):
    """As much of the Hub as downloads need."""

    def do_HEAD(self):
        self.answer()

    def do_GET(self):
        self.answer()

    def log_message(self, *args):
        pass

    def answer(self):
        hub = self.server
        parts = self.path.partition("?")[0].strip("/").split("/")
        listing = parts[:2] == ["api", "models"]
        repository = "/".join(parts[2:4] if listing else parts[:2])
        token = self.headers.get("Authorization", "")
        files = hub.repositories.get(repository)
        if files is None:
            self.reply(401, {"X-Error-Code": "RepoNotFound"})
        elif listing:
            siblings = [{"rfilename": name} for name in files]
            self.reply(200, {}, json.dumps({"id": repository, "siblings": siblings}).encode())
        elif repository in hub.gated and token != "Bearer hf_good":
            self.reply(401, {"X-Error-Code": "GatedRepo"})
        elif parts[4] not in files:
            self.reply(404, {"X-Error-Code": "EntryNotFound", "X-Repo-Commit": COMMIT})
        else:
            if self.command == "GET":
                hub.downloads.append(f"{repository}/{parts[4]}")
            body = files[parts[4]]
            etag = hashlib.sha256(body).hexdigest()
            self.reply(200, {"X-Repo-Commit": COMMIT, "ETag": f'"{etag}"'}, body)

    def reply(self, status, headers, body=b""):
        self.send_response(status)
        for name, value in headers.items():
            self.send_header(name, value)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        if self.command == "GET":
            self.wfile.write(body)


@pytest.fixture
def server(monkeypatch, tmp_path):
    """A Hub; `server.stop()` takes the network away."""
    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.repositories, server.gated, server.downloads = {}, set(), []
    threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
    endpoint = f"http://127.0.0.1:{server.server_port}"
    constants = huggingface_hub.constants
    monkeypatch.setattr(constants, "ENDPOINT", endpoint)
    monkeypatch.setattr(
        constants,
        "HUGGINGFACE_CO_URL_TEMPLATE",
        endpoint + "/{repo_id}/resolve/{revision}/{filename}",
    )
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_TOKEN_PATH", str(tmp_path / "token"))
    monkeypatch.delenv("HF_TOKEN", raising=False)

    def stop():
        server.shutdown()
        server.server_close()

    server.stop = stop
    yield server
    stop()


@pytest.fixture(scope="module")
def tokenizer():
    return train_tokenizer("gpt2", problems=300)


@pytest.fixture
def publish(server, tokenizer, tmp_path):
    """Put a module's file and its base model on the Hub, under the ids of a known model."""

    def publish(name, file, module):
        base = tmp_path / "base"
        tokenizer.save_pretrained(base)
        (base / "config.json").write_text(json.dumps(module.base_config, default=str))
        path = tmp_path / "weights"
        torch.save(module.state_dict(), path)
        server.repositories[name] = {file: path.read_bytes(), "README.md": b"", "other.pt": b"x"}
        server.repositories[known.GPT2] = {
            **{file.name: file.read_bytes() for file in base.iterdir()},
            "model.safetensors": b"weights that nobody needs",
        }

    return publish


def codi_gpt2(publish, tokenizer):
    module = PublishedCodi("gpt2", len(tokenizer))
    publish("zen-E/CODI-gpt2", "pytorch_model.bin", module)
    return module


def thoughts(model):
    return model.think(*model.encode([model.prompt_ids("Tom has 16 pears.")]))[0][0]


def test_a_known_model_needs_only_its_id_and_works_offline_afterwards(server, publish, tokenizer):
    module = codi_gpt2(publish, tokenizer)
    model, report = load_checkpoint("zen-E/CODI-gpt2")
    ids = model.prompt_ids("Tom has 16 pears.")
    expected = module.infer(ids, 6, [1])[0]
    torch.testing.assert_close(thoughts(model), expected, rtol=0, atol=1e-4)
    assert model.num_latents == 6
    assert report.source == report.known_as == "zen-E/CODI-gpt2"
    assert report.base_model == known.GPT2
    wanted = {"zen-E/CODI-gpt2/pytorch_model.bin"} | {
        f"{known.GPT2}/{name}" for name in ("config.json", "tokenizer.json")
    }
    assert wanted <= set(server.downloads)
    unneeded = ("model.safetensors", "other.pt", "README.md")
    assert not any(name.endswith(unneeded) for name in server.downloads)
    server.downloads.clear()
    load_checkpoint("zen-E/CODI-gpt2")
    assert server.downloads == []
    server.stop()
    again, _ = load_checkpoint("zen-E/CODI-gpt2")
    assert torch.equal(thoughts(again), thoughts(model))


def test_options_override_the_table(publish, tokenizer):
    codi_gpt2(publish, tokenizer)
    model, _ = load_checkpoint(
        "zen-E/CODI-gpt2", num_latents=3, answer_prefix="", prompt_eos=True, lora_alpha=16
    )
    plain, report = load_checkpoint("zen-E/CODI-gpt2", num_latents=3)
    assert model.settings.bot_ids == (1, *plain.settings.bot_ids)
    assert model.settings.eot_ids == (plain.settings.eot_id, 1)
    assert model.settings.answer_prefix == ""
    assert model.num_latents == 3
    assert report.lora_alpha == 32
    assert not torch.allclose(
        model.backbone.transformer.h[0].attn.c_attn.weight,
        plain.backbone.transformer.h[0].attn.c_attn.weight,
    )


def test_of_a_known_model_it_is_known_how_many_thoughts_it_was_trained_with(
    publish, tokenizer, caplog
):
    codi_gpt2(publish, tokenizer)
    caplog.clear()
    load_checkpoint("zen-E/CODI-gpt2", num_latents=6)
    assert not caplog.records
    load_checkpoint("zen-E/CODI-gpt2", num_latents=7)
    said = [record.getMessage().partition(":")[0] for record in caplog.records]
    assert said == ["7 latent thoughts are run, where the model was trained with 6"]


def test_coconut_by_its_id(publish, tokenizer):
    module = Coconut("gpt2", len(tokenizer), decoder=True)
    publish("internlm/SIM_COT-GPT2-Coconut", "checkpoint_28", module)
    model, report = load_checkpoint("internlm/SIM_COT-GPT2-Coconut")
    ids = tokenizer("Tom has 16 pears.\n")["input_ids"] + [module.start_id]
    torch.testing.assert_close(thoughts(model), module.infer(ids, 10, [1])[0], rtol=0, atol=1e-4)
    assert model.settings.answer_prefix == "###"
    assert report.layout == "coconut"


def test_a_folder_named_like_the_id_takes_its_row(publish, server, tokenizer, tmp_path):
    """As `hf download ID --local-dir ID` makes it; without a network, with a base folder."""
    codi_gpt2(publish, tokenizer)
    folder = tmp_path / "zen-E" / "CODI-gpt2"
    folder.mkdir(parents=True)
    for name, content in server.repositories["zen-E/CODI-gpt2"].items():
        (folder / name).write_bytes(content)
    server.stop()
    model, report = load_checkpoint(folder, base_model=str(tmp_path / "base"))
    assert model.num_latents == 6
    assert "taken for zen-E/CODI-gpt2" in str(report)


def test_our_own_layout_on_the_hub(server, model, tmp_path):
    save_checkpoint(model.float(), tmp_path / "own")
    files = {file.name: file.read_bytes() for file in (tmp_path / "own").iterdir()}
    server.repositories["me/mine"] = {**files, "optimizer.pt": b"x"}
    loaded, report = load_checkpoint("me/mine")
    assert loaded.settings == model.settings
    assert torch.equal(thoughts(loaded), thoughts(model))
    assert report.layout == "own"
    assert "me/mine/optimizer.pt" not in server.downloads


def test_a_model_that_the_table_does_not_know(publish, server, tokenizer, tmp_path):
    codi_gpt2(publish, tokenizer)
    server.repositories["me/unknown"] = server.repositories["zen-E/CODI-gpt2"]
    with pytest.raises(CheckpointError, match=r"trained from: set base_model, or set .*zen"):
        load_checkpoint("me/unknown")
    model, report = load_checkpoint("me/unknown", base_model=known.GPT2)
    assert model.num_latents == 5
    assert report.known_as is None


def test_of_a_sharded_checkpoint_the_index_comes_first_and_then_each_shard_once(server):
    index, shards = "model.safetensors.index.json", ["w-1.safetensors", "w-2.safetensors"]
    weights = {"a": shards[1], "b": shards[0], "c": shards[1]}
    server.repositories["me/shards"] = {
        **{name: name.encode() for name in (*shards, "w-3.safetensors", "tokenizer.json")},
        index: json.dumps({"weight_map": weights}).encode(),
    }
    path = hub.fetch_checkpoint("me/shards")
    assert path.name == index
    assert server.downloads == [f"me/shards/{n}" for n in (index, "tokenizer.json", *shards)]
    assert [(path.parent / name).read_text() for name in shards] == shards


def test_several_files_of_weights_must_be_named(publish, server, tokenizer):
    module = Coconut("gpt2", len(tokenizer))
    publish("me/epochs", "checkpoint_3", module)
    files = server.repositories["me/epochs"]
    files["checkpoint_4"] = files["checkpoint_3"]
    options = {"base_model": known.GPT2, "num_latents": 2}
    with pytest.raises(
        CheckpointError, match=r"got checkpoint_3, checkpoint_4 .*me/epochs/FILE, with"
    ):
        load_checkpoint("me/epochs", **options)
    load_checkpoint("me/epochs/checkpoint_4", **options)
    assert "me/epochs/checkpoint_3" not in server.downloads


def test_without_a_network_the_error_says_what_to_download(server):
    server.stop()
    message = (
        r"zen-E/CODI-gpt2 is no file here and not complete in the cache .*cache, and "
        r"the Hub .* cannot be reached "
        r"\(.*\): where there is a network, run `hf download zen-E/CODI-gpt2` and `hf download "
        r"openai-community/gpt2 --include '\*\.json'`, and copy its cache here or set HF_HUB_CACHE"
    )
    with pytest.raises(CheckpointError, match=message):
        load_checkpoint("zen-E/CODI-gpt2")


def test_half_a_cache_without_a_network(publish, server, tokenizer):
    codi_gpt2(publish, tokenizer)
    hub.fetch_checkpoint("zen-E/CODI-gpt2")
    server.stop()
    with pytest.raises(CheckpointError, match=r"run `hf download openai-community/gpt2 --include"):
        load_checkpoint("zen-E/CODI-gpt2")


def test_a_repository_without_weights(server):
    server.repositories["zen-E/CODI-gpt2"] = {"README.md": b""}
    with pytest.raises(CheckpointError, match=r"one file of weights .* got none among README\.md"):
        load_checkpoint("zen-E/CODI-gpt2")


def test_a_base_model_without_config(publish, server, tokenizer):
    codi_gpt2(publish, tokenizer)
    server.repositories[known.GPT2] = {"README.md": b""}
    with pytest.raises(
        CheckpointError, match=r"config\.json in openai-community/gpt2 .*base_model"
    ):
        load_checkpoint("zen-E/CODI-gpt2")


def test_a_wrong_id(server):
    with pytest.raises(CheckpointError, match=r"me/nothing is neither a file here nor a model on"):
        load_checkpoint("me/nothing", base_model=known.GPT2)


def test_a_gated_base_model_needs_a_token(publish, server, tokenizer, monkeypatch):
    codi_gpt2(publish, tokenizer)
    server.gated.add(known.GPT2)
    with pytest.raises(CheckpointError, match=r"gpt2 is gated: accept its licence at .* HF_TOKEN"):
        load_checkpoint("zen-E/CODI-gpt2")
    monkeypatch.setenv("HF_TOKEN", "hf_good")
    load_checkpoint("zen-E/CODI-gpt2")


def test_the_table_is_complete():
    for name, row in known.KNOWN_MODELS.items():
        assert hub.is_hub_id(name)
        assert hub.is_hub_id(row.base_model)
        assert row.accuracy is None or 0 < row.accuracy < 1
        assert (row.lora_alpha is None) == (row.layout == "coconut")
        assert known.known_id(name) == known.known_id(f"{name}/file.bin") == name
        assert known.known_id(Path("models") / name / "file.bin") == name
    assert known.known_id("CODI-gpt2") is None
    assert known.known_id("codi-tiny") is None


def test_what_can_be_an_id():
    assert hub.is_hub_id("zen-E/CODI-llama3.2-1b-Instruct")
    assert hub.is_hub_id("me/model/checkpoint_28")
    for path in (
        "codi-tiny",
        "./me/model",
        "/me/model",
        "../me/model",
        "a/b/c/d",
        "~/a/b",
        "a b/c",
    ):
        assert not hub.is_hub_id(path), path
