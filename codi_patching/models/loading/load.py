"""One entry for every layout: from a name, a Hub id, a folder or a file to a model."""

from __future__ import annotations

import logging
from dataclasses import replace
from difflib import get_close_matches
from pathlib import Path
from types import ModuleType

from torch import Tensor

from codi_patching.models.codi import CodiModel
from codi_patching.models.loading import coconut, hub, own, published
from codi_patching.models.loading.adapter import check_alpha
from codi_patching.models.loading.files import (
    CheckpointError,
    read_weights,
    rename,
    unwrap,
    weight_files,
)
from codi_patching.models.loading.known import KNOWN_MODELS, known_id
from codi_patching.models.loading.options import LoadOptions, choose_options
from codi_patching.models.loading.report import LoadReport

SHIPPED = {"codi-tiny": Path(__file__).parents[2] / "assets" / "codi_tiny"}
"""Models that come with the package."""

LAYOUTS: tuple[ModuleType, ...] = (coconut, published)
"""Layouts of others, each a module with `recognises(keys)` and `load(…)`."""

_WRAPPERS = ("", "module.", "model.", "module.model.", "model.module.")
"""Of programs that train a module inside another, as DistributedDataParallel and Lightning do."""

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
        checkpoint: The name of a shipped model, an id on the Hugging Face Hub (`owner/model`, or
            `owner/model/file`), a folder in the package's own layout, or a file (or folder of
            one) in a layout of others.
        num_latents: K, if other than the known model's or the checkpoint's own; 5 for CODI's
            layout if neither says.
        base_model: Hugging Face id or folder with config and tokenizer, for the layouts of
            others; a known model has its own.
        lora_alpha: For CODI's layout; by the checkpoint's own record, else the known model's, else
            32.
        prompt_eos: Whether the prompt ends with eos and bot, and the readout starts with eot and
            eos; for CODI's layout. By default as the known model says, else bot and eot alone.
        answer_prefix: Text before the answer, "" for none; if other than the known model's or the
            checkpoint's own.

    Raises:
        CheckpointError: A file is missing or unreadable, or any weight is missing, unexpected or
            misshapen.
    """
    if lora_alpha is not None:
        check_alpha(lora_alpha, "lora_alpha", ": set [[model.lora_alpha]]")
    identity = None if str(checkpoint) in SHIPPED else known_id(checkpoint)
    known = KNOWN_MODELS.get(identity or "")
    base = base_model or (known.base_model if known else None)
    path = _locate(str(checkpoint), base)
    if str(checkpoint) in SHIPPED or (path / own.SETTINGS).is_file():
        if base_model is not None or lora_alpha is not None or prompt_eos:
            raise CheckpointError(
                "expected [[model.base_model]], [[model.lora_alpha]] and [[model.prompt_eos]] only "
                "with a checkpoint in the published layout and a base model, got them with "
                f"{checkpoint}"
            )
        model, report = own.load_own(path)
    else:
        options = choose_options(known, num_latents, lora_alpha, answer_prefix, prompt_eos)
        model, report = _load_foreign(path, base, options)
    report.source, report.known_as = str(checkpoint), identity
    trained = known.num_latents if known else model.num_latents
    if num_latents is not None and trained is not None and num_latents > trained:
        _log.warning(
            "%d latent thoughts are run, where the model was trained with %d: the further ones are "
            "nothing that it knows",
            num_latents,
            trained,
        )
    if num_latents is not None:
        model.settings = replace(model.settings, num_latents=num_latents)
    if answer_prefix is not None:
        model.settings = replace(model.settings, answer_prefix=answer_prefix)
    limit = model.backbone.config.max_position_embeddings
    if model.num_latents >= limit:
        raise CheckpointError(
            f"expected fewer latent thoughts than the model's context of {limit}, got "
            f"{model.num_latents}: set [[model.num_latents]]"
        )
    return model.eval().requires_grad_(False), report


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
    names = [*SHIPPED, *KNOWN_MODELS, *(name.rpartition("/")[2] for name in KNOWN_MODELS)]
    close = get_close_matches(checkpoint, names, n=1, cutoff=0.75)
    whole = next(
        (name for name in (*SHIPPED, *KNOWN_MODELS) if close and name.endswith(close[0])), ""
    )
    return f" (did you mean {whole}?)" if whole else ""


def _load_foreign(
    path: Path, base_model: str | None, options: LoadOptions
) -> tuple[CodiModel, LoadReport]:
    """Load a file in a layout of others."""
    if base_model is None:
        _explain_no_base_model(path)
    files = weight_files(path)
    weights, sha256 = read_weights(files)
    constants = unwrap(weights, files[0])
    layout = _layout_of(weights, files[0])
    model, report = layout.load(weights, sha256, files, base_model, options)
    report.tensors += len(constants)
    report.dropped += constants
    return model, report


def _layout_of(weights: dict[str, Tensor], path: Path) -> ModuleType:
    """The layout of a file; the names of modules that only wrap it are taken away, in place.

    Raises:
        CheckpointError: It is in none.
    """
    for prefix in _WRAPPERS:
        if all(key.startswith(prefix) for key in weights):
            inner = {key: key.removeprefix(prefix) for key in weights}
            for layout in LAYOUTS:
                if layout.recognises(inner.values()):
                    rename(weights, inner, path)
                    return layout
    raise CheckpointError(_not_latent(path, list(weights)))


def _explain_no_base_model(path: Path) -> None:
    """Say what is missing where neither a base model nor our own layout is there."""
    if path.is_file() or (path.is_dir() and not (path / "config.json").is_file()):
        raise CheckpointError(
            f"{path} is not in the package's own layout ({', '.join(own.FILES)}), and any other "
            "needs the config and tokenizer of the model it was trained from: set "
            "[[model.base_model]], or set [[model.checkpoint]] to a known model "
            f"({', '.join(KNOWN_MODELS)}) or one of {sorted(SHIPPED)}"
        )
    missing = [name for name in own.FILES if not (path / name).is_file()]
    raise CheckpointError(
        f"expected a folder with {', '.join(own.FILES)}, but {path} has no {', '.join(missing)}: "
        "set [[model.checkpoint]]"
    )


def _not_latent(path: Path, keys: list[str]) -> str:
    """Why a file is in no layout of a model with latent thoughts."""
    start = ", ".join(sorted(keys)[:3])
    if any(key.startswith(("transformer.", "model.")) for key in keys):
        return (
            f"{path} is refused: its keys ({start}, …) are a plain language model's, as a Coconut "
            "run writes at stage 0, which has no latent thoughts: choose a later checkpoint"
        )
    return (
        f"expected the keys of CODI's files (codi.…, coconut.…, prj.…) or Coconut's "
        f"(base_causallm.…) in {path}, got {start}, …: set [[model.checkpoint]]"
    )
