"""Files from the Hugging Face Hub: only those that are needed, through its cache.

`huggingface_hub` keeps what it downloads under `HF_HUB_CACHE` and reads tokens from `HF_TOKEN` or
`hf auth login`. Without a network, what is in the cache is used.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from pathlib import Path

from huggingface_hub import HfApi, constants, hf_hub_download
from huggingface_hub.errors import (
    GatedRepoError,
    HfHubHTTPError,
    HFValidationError,
    HTTPError,
    RepositoryNotFoundError,
)
from huggingface_hub.file_download import repo_folder_name

from codi_patching.models.loading import own
from codi_patching.models.loading.files import CheckpointError, shards, weight_names

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "vocab.json",
    "merges.txt",
    "tokenizer.model",
)
_TIMEOUT_S = 20.0

_Choose = Callable[[set[str]], list[str]]


def is_hub_id(name: str) -> bool:
    """Whether a name can be `owner/model` or `owner/model/file` on the Hub."""
    return re.fullmatch(r"\w[\w.-]*/[\w.-]+(/[\w.-]+)?", name) is not None


def fetch_checkpoint(name: str, base_model: str | None = None) -> Path:
    """Bring a checkpoint here; returns its weights file, or its folder if in our own layout.

    Args:
        name: `owner/model`, or `owner/model/file` where a repository holds several.
        base_model: For the advice of an error: what else has to be downloaded.

    Raises:
        CheckpointError: It is not on the Hub, needs a token, or there is no network and it is not
            in the cache.
    """
    repository, _, file = name.partition("/")[2].partition("/")
    repository = f"{name.partition('/')[0]}/{repository}"
    folder, files = _fetch(
        repository, lambda names: _checkpoint_files(names, repository, file), base_model
    )
    return folder if files[0] == own.SETTINGS else folder / files[0]


def fetch_base_model(repository: str) -> Path:
    """Bring a base model's config and tokenizer here, none of its weights; returns their folder.

    Raises:
        CheckpointError: As for `fetch_checkpoint`.
    """

    def choose(names: set[str]) -> list[str]:
        if "config.json" not in names:
            raise CheckpointError(
                f"expected a model's config.json in {repository} on the Hub, got "
                f"{', '.join(sorted(names)[:5]) or 'nothing'}: set [[model.base_model]]"
            )
        return ["config.json", *(name for name in _TOKENIZER_FILES if name in names)]

    return _fetch(repository, choose, repository)[0]


def _checkpoint_files(names: set[str], repository: str, file: str) -> list[str]:
    """The files to load a model from, the one to open first."""
    if not file and own.SETTINGS in names:
        return [own.SETTINGS, *(name for name in own.FILES if name != own.SETTINGS)]
    fitting = [name for name in weight_names(names) if not file or name == file]
    if file and not fitting and file in names:
        fitting = [file]
    if "model.safetensors" in fitting:
        fitting = ["model.safetensors"]
    if len(fitting) != 1:
        raise CheckpointError(
            f"expected one file of weights in {repository} on the Hub, got "
            f"{', '.join(fitting) or 'none'} among {', '.join(sorted(names)[:8])}: "
            f"name one, {repository}/FILE, with [[model.checkpoint]]"
        )
    beside = (*_TOKENIZER_FILES, "adapter_config.json")
    return [fitting[0], *(name for name in beside if name in names)]


def _fetch(repository: str, choose: _Choose, base_model: str | None) -> tuple[Path, list[str]]:
    """The folder of a repository's snapshot, and the chosen files, which are in it."""
    try:
        listed = HfApi().model_info(repository, timeout=_TIMEOUT_S).siblings or []
        files = choose({file.rfilename for file in listed})
        folder = _download(repository, files)
    except GatedRepoError as error:
        raise CheckpointError(_gated(repository)) from error
    except (RepositoryNotFoundError, HFValidationError) as error:
        raise CheckpointError(
            f"{repository} is neither a file here nor a model on the Hub ({constants.ENDPOINT}) "
            "that this token may read: set [[model.checkpoint]] or [[model.base_model]]; for a "
            "private one run `hf auth login` or set HF_TOKEN"
        ) from error
    except (HTTPError, HfHubHTTPError, OSError) as error:
        return _from_cache(repository, choose, base_model, error)
    return folder, files


def _download(repository: str, files: Iterable[str]) -> Path:
    """Bring files into the cache, with the shards of an index; returns their folder."""
    paths = [Path(hf_hub_download(repository, name)) for name in files]
    for path in paths:
        if path.name.endswith(".index.json"):
            for name in sorted(set(shards(path).values())):
                hf_hub_download(repository, name)
    return paths[0].parent


def _from_cache(
    repository: str, choose: _Choose, base_model: str | None, error: Exception
) -> tuple[Path, list[str]]:
    """What was downloaded before, without a network."""
    cache = Path(constants.HF_HUB_CACHE)
    root = cache / repo_folder_name(repo_id=repository, repo_type="model")
    reference = root / "refs" / "main"
    commit = reference.read_text().strip() if reference.is_file() else ""
    folder = root / "snapshots" / commit
    if commit and folder.is_dir():
        names = {file.name for file in folder.iterdir()}
        files = choose(names)
        if set(files) <= names:
            return folder, files
    reason = (str(error).strip() or type(error).__name__).splitlines()[0]
    raise CheckpointError(
        f"{repository} is no file here and not complete in the cache {cache}, and the Hub "
        f"({constants.ENDPOINT}) cannot be reached ({reason[:120]}): where there is a network, run "
        f"{_commands(repository, base_model)}, and copy its cache here or set HF_HUB_CACHE to it"
    ) from error


def _commands(repository: str, base_model: str | None) -> str:
    """The downloads that make a model usable without a network."""
    commands = [] if repository == base_model else [f"`hf download {repository}`"]
    if base_model is not None and is_hub_id(base_model):
        commands.append(f"`hf download {base_model} --include '*.json'`")
    return " and ".join(commands)


def _gated(repository: str) -> str:
    return (
        f"{repository} is gated: accept its licence at {constants.ENDPOINT}/{repository}, then run "
        "`hf auth login` or set HF_TOKEN to a token of that account. Of a base model only config "
        "and tokenizer are needed: [[model.base_model]] takes a folder with them, or the id of a "
        "copy of it"
    )
