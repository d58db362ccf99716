from dataclasses import fields, replace

import pytest
from results_maker import run_of

from codi_patching.reporting.names import counted, data_name, model_name, run_name, title
from codi_patching.results.description import RunLabel


@pytest.mark.parametrize(
    ("run", "name"),
    [
        (run_of(), "codi-tiny_word-problems_position"),
        (run_of("layer"), "codi-tiny_word-problems_layer"),
        (run_of("layer", latents="recomputed"), "codi-tiny_word-problems_layer_recomputed"),
        (run_of("iterative"), "codi-tiny_word-problems_iterative_relay"),
        (
            run_of("iterative", strategy="cumulative", direction="noising"),
            "codi-tiny_word-problems_iterative_cumulative_noising",
        ),
        (
            run_of(source="random_pair", control="none"),
            "codi-tiny_word-problems_position_random-pair",
        ),
        (run_of(control="none"), "codi-tiny_word-problems_position_no-control"),
        (run_of(control="random_pair"), "codi-tiny_word-problems_position_control-random-pair"),
        (run_of("knockout", control="words"), "codi-tiny_word-problems_knockout"),
        (run_of("head", site="head"), "codi-tiny_word-problems_head"),
        (run_of(site="kv"), "codi-tiny_word-problems_position_kv"),
        (run_of(positions="all"), "codi-tiny_word-problems_position_all-positions"),
        (run_of(positions="2"), "codi-tiny_word-problems_position_position-2"),
        (run_of(positions="readout 2"), "codi-tiny_word-problems_position_readout-token-2"),
        (run_of(model="zen-E/CODI-gpt2", data="d/gsm8k.jsonl"), "CODI-gpt2_gsm8k_position"),
    ],
)
def test_names_of_runs(run, name):
    assert run_name(run) == name
    known = RunLabel(**{field.name: getattr(run, field.name) for field in fields(RunLabel)})
    assert run_name(known) == name  # before its model is loaded


def test_the_name_of_a_model_is_its_last_part():
    for model in ("zen-E/CODI-gpt2", "/m/CODI-gpt2", "/m/CODI-gpt2/pytorch_model.bin"):
        assert model_name(replace(run_of(), model=model)) == "CODI-gpt2"
    assert model_name(replace(run_of(), model="pytorch_model.bin")) == "pytorch_model.bin"
    assert data_name(replace(run_of(), data="/data/my pairs.json")) == "my pairs"
    assert run_name(replace(run_of(), data="/data/my pairs.json")) == "codi-tiny_my-pairs_position"


def test_names_of_files_neither_hide_nor_leave_their_folder():
    for model, name in (("/models/.hidden", "hidden"), ("...", "unnamed"), ("-", "unnamed")):
        assert run_name(replace(run_of(), model=model)) == f"{name}_word-problems_position"


def test_numbers_of_things():
    said = [counted(number, "pair") for number in (0, 1, 2, 12345)]
    assert said == ["0 pairs", "1 pair", "2 pairs", "12,345 pairs"]


def test_titles():
    assert title(run_of()) == "Position patching of codi-tiny on word-problems"
    assert title(run_of(positions="readout 2")).endswith(" on word-problems, readout token 2")
    assert title(run_of("iterative", source="random_pair")) == (
        "Iterative patching, relay of codi-tiny on word-problems, random pair"
    )
