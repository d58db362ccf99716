"""One entry for every layout: from a name, a Hub id, a folder or a file to a model."""

from __future__ import annotations

import logging
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from torch import Tensor

from codi_patching.errors import path_text
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading import coconut, hub, own, published
from codi_patching.models.loading.base_model import read_base_model
from codi_patching.models.loading.files import CheckpointError, shorten, weight_files
from codi_patching.models.loading.known import KNOWN_MODELS, known_id
from codi_patching.models.loading.load_report import LoadReport
from codi_patching.models.loading.options import Asked, LoadOptions, choose_options
from codi_patching.models.loading.tensors import read_weights, rename, unwrap
from codi_patching.models.vocabulary import control_tokens
from codi_patching.shipped import SHIPPED

LAYOUTS: tuple[ModuleType, ...] = (coconut, published)
"""Layouts of others, each a module with `FIRST`, where its names begin, and `load(…)`."""

_log = logging.getLogger(__name__)


def load_checkpoint(
    checkpoint: str | Path,
    num_latents: int | None = None,
    base_model: str | None = None,
    lora_alpha: float | None = None,
    prompt_eos: bool | None = None,
    answer_prefix: str | None = None,
) -> tuple[CodiModel, LoadReport]:
    """Load a model in torch's default dtype, in evaluation mode.

    Args:
        checkpoint: A shipped model, an id on the Hugging Face Hub (`owner/model`, or
            `owner/model/file`), a folder in the package's own layout, or a file (or folder of
            one) in a layout of others.
        num_latents: K; by default the known model's or the checkpoint's own, 5 if neither says.
        base_model: Hugging Face id or folder with config and tokenizer, for layouts of others.
        lora_alpha: For CODI's layout; by the record, else the known model's, else 32.
        prompt_eos: Whether the prompt ends with eos and bot, and the readout starts with eot and
            eos; for CODI's layout. By default as the known model says, else bot and eot alone.
        answer_prefix: Text before the answer, "" for none; by default the model's.

    Raises:
        CheckpointError: A file is missing or unreadable, or a weight missing, unexpected or
            misshapen.
    """
    path = path_text(checkpoint, "model.checkpoint")
    asked = Asked(path, num_latents, base_model, lora_alpha, prompt_eos, answer_prefix)
    model, report = _load(asked)
    _apply(asked, model)
    return model.eval().requires_grad_(False), report


def _load(asked: Asked) -> tuple[CodiModel, LoadReport]:
    """The model as its layout says, and a word on thoughts that it was not trained with."""
    identity = None if asked.checkpoint in SHIPPED else known_id(asked.checkpoint)
    known = KNOWN_MODELS.get(identity or "")
    base = asked.base_model or (known.base_model if known else None)
    path = _locate(asked.checkpoint, base)
    if asked.checkpoint in SHIPPED or (path / own.SETTINGS).is_file():
        if asked.base_model is not None or asked.lora_alpha is not None or asked.prompt_eos:
            raise CheckpointError(
                "expected [[model.base_model]], [[model.lora_alpha]] and [[model.prompt_eos]] only "
                "with a checkpoint in the published layout and a base model, got them with "
                f"{asked.checkpoint}"
            )
        model, report = own.load_own(path)
    else:
        model, report = _load_foreign(path, base, choose_options(known, asked))
    report.source, report.known_as = asked.checkpoint, identity
    trained = known.num_latents if known else model.num_latents
    if asked.num_latents is not None and trained is not None and asked.num_latents > trained:
        _log.warning(
            "%d latent thoughts are run, where the model was trained with %d: the further ones are "
            "nothing that it knows",
            asked.num_latents,
            trained,
        )
    return model, report


def _apply(asked: Asked, model: CodiModel) -> None:
    """Set what was asked for, where the model has it otherwise.

    Raises:
        CheckpointError: The prefix is no text of words, or the context has no room for K thoughts.
    """
    if asked.num_latents is not None:
        model.check_latents(asked.num_latents)
        model.settings = replace(model.settings, num_latents=asked.num_latents)
    if asked.answer_prefix is not None:
        model.settings = replace(model.settings, answer_prefix=asked.answer_prefix)
        if found := control_tokens(model.tokenizer, asked.answer_prefix):
            raise CheckpointError(
                f"expected answer_prefix in words, got control tokens: {', '.join(found)}: "
                "set [[model.answer_prefix]]"
            )
    if model.num_latents >= model.context_length:
        raise CheckpointError(
            f"expected fewer latent thoughts than the model's context of {model.context_length}, "
            f"got {model.num_latents}: set [[model.num_latents]]"
        )


def _locate(checkpoint: str, base_model: str | None) -> Path:
    """The folder or file of a checkpoint, brought here from the Hub if it is there."""
    path = SHIPPED.get(checkpoint, Path(checkpoint))
    if path.exists():
        return path
    check_name(checkpoint)
    return hub.fetch_checkpoint(checkpoint, base_model)


def check_name(checkpoint: str) -> None:
    """Refuse what can name no checkpoint, before anything is loaded.

    Raises:
        CheckpointError: It is no shipped model, nothing that is here, and no id of the Hub's form.
    """
    if checkpoint in SHIPPED or Path(checkpoint).exists() or hub.is_hub_id(checkpoint):
        return
    raise CheckpointError(
        f"expected a file, a folder, an id on the Hub, or one of {sorted(SHIPPED)}, got "
        f"{checkpoint}, which is not there{_nearest(checkpoint)}: set [[model.checkpoint]]"
    )


def _nearest(checkpoint: str) -> str:
    """The name that was probably meant."""
    whole = [*SHIPPED, *KNOWN_MODELS]
    names = {part.lower(): name for name in whole for part in (name, name.rpartition("/")[2])}
    close = get_close_matches(checkpoint.lower(), names, n=1, cutoff=0.75)
    return f" (did you mean {names[close[0]]}?)" if close else ""


def _load_foreign(
    path: Path, base_model: str | None, options: LoadOptions
) -> tuple[CodiModel, LoadReport]:
    """Load a file in a layout of others."""
    if base_model is None:
        raise _no_base_model(path)
    files = weight_files(path)
    base = read_base_model(base_model, files[0].parent)
    weights, sha256 = read_weights(files)
    constants = unwrap(weights, files[0])
    layout = _layout_of(weights, files[0])
    model, report = layout.load(weights, sha256, files, base, options)
    report.tensors += len(constants)
    report.dropped += constants
    return model, report


def _layout_of(weights: dict[str, Tensor], path: Path) -> ModuleType:
    """The layout of a file; the names of modules that only wrap it are taken away, in place.

    Programs that train a module inside another, as DistributedDataParallel and Lightning do, put
    the outer one's name before all others: `module.`, `model.`.

    Raises:
        CheckpointError: It is in none, or not everything is in one wrapper.
    """
    for layout in LAYOUTS:
        begins = (layout.FIRST.search(key) for key in weights)
        wrappers = sorted({found.string[: found.end()] for found in begins if found})
        if not wrappers:
            continue
        wrapper = wrappers[0]
        outside = [key for key in weights if not key.startswith(wrapper)]
        if outside:
            raise CheckpointError(
                f"{path}: expected all weights in one module, as some are in {shorten([wrapper])}, "
                f"got {shorten(sorted(outside))}"
            )
        rename(weights, {key: key.removeprefix(wrapper) for key in weights}, path)
        return layout
    raise CheckpointError(_not_latent(path, sorted(weights)))


def _no_base_model(path: Path) -> CheckpointError:
    """What is missing where neither a base model nor our own layout is there."""
    if path.is_file() or (path.is_dir() and not (path / "config.json").is_file()):
        return CheckpointError(
            f"{path} is not in the package's own layout ({', '.join(own.FILES)}), and any other "
            "needs the config and tokenizer of the model it was trained from: set "
            "[[model.base_model]], or set [[model.checkpoint]] to a known model "
            f"({', '.join(KNOWN_MODELS)}) or one of {sorted(SHIPPED)}"
        )
    missing = [name for name in own.FILES if not (path / name).is_file()]
    return CheckpointError(
        f"expected a folder with {', '.join(own.FILES)}, but {path} has no {', '.join(missing)}: "
        "set [[model.checkpoint]]"
    )


def _not_latent(path: Path, keys: list[str]) -> str:
    """Why a file is in no layout of a model with latent thoughts."""
    start = shorten(keys, most=3)
    if all(key.startswith(("transformer.", "model.", "lm_head.")) for key in keys):
        return (
            f"{path} is refused: its keys ({start}) are a plain language model's, as a Coconut "
            "run writes at stage 0, which has no latent thoughts: choose a later checkpoint"
        )
    return (
        f"expected the keys of CODI's files (codi.…, coconut.…, prj.…) or Coconut's "
        f"(base_causallm.…) in {path}, got {start}: set [[model.checkpoint]]"
    )
