"""One entry for every layout: from a name, a Hub id, a folder or a file to a model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from types import ModuleType

from codi_patching.models.codi import CodiModel
from codi_patching.models.loading import coconut, hub, own, published
from codi_patching.models.loading.files import CheckpointError, read_weights, weight_files
from codi_patching.models.loading.known import KNOWN_MODELS, known_id
from codi_patching.models.loading.options import LoadOptions, choose_options
from codi_patching.models.loading.report import LoadReport

SHIPPED = {"codi-tiny": Path(__file__).parents[2] / "assets" / "codi_tiny"}
"""Models that come with the package."""

LAYOUTS: tuple[ModuleType, ...] = (coconut, published)
"""Layouts of others, each a module with `recognises(keys)` and `load(…)`."""


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
    identity = None if str(checkpoint) in SHIPPED else known_id(checkpoint)
    known = KNOWN_MODELS.get(identity or "")
    base = base_model or (known.base_model if known else None)
    path = _locate(str(checkpoint), base)
    if str(checkpoint) in SHIPPED or (path / own.SETTINGS).is_file():
        if base_model is not None or lora_alpha is not None or prompt_eos:
            raise CheckpointError(
                "expected --model.base_model, --model.lora_alpha and --model.prompt_eos only with "
                f"a checkpoint in the published layout and a base model, got them with {checkpoint}"
            )
        model, report = own.load_own(path)
    else:
        options = choose_options(known, num_latents, lora_alpha, answer_prefix, prompt_eos)
        model, report = _load_foreign(path, base, options)
    report.source, report.known_as = str(checkpoint), identity
    if num_latents is not None:
        model.settings = replace(model.settings, num_latents=num_latents)
    if answer_prefix is not None:
        model.settings = replace(model.settings, answer_prefix=answer_prefix)
    limit = model.backbone.config.max_position_embeddings
    if model.num_latents >= limit:
        raise CheckpointError(
            f"expected fewer latent thoughts than the model's context of {limit}, got "
            f"{model.num_latents}: set --model.num_latents"
        )
    return model.eval().requires_grad_(False), report


def _locate(checkpoint: str, base_model: str | None) -> Path:
    """The folder or file of a checkpoint, brought here from the Hub if it is there."""
    path = SHIPPED.get(checkpoint, Path(checkpoint))
    if path.exists() or not hub.is_hub_id(checkpoint):
        return path
    return hub.fetch_checkpoint(checkpoint, base_model)


def _load_foreign(
    path: Path, base_model: str | None, options: LoadOptions
) -> tuple[CodiModel, LoadReport]:
    """Load a file in a layout of others."""
    if base_model is None:
        _explain_no_base_model(path)
    files = weight_files(path)
    weights, sha256 = read_weights(files)
    layout = next((layout for layout in LAYOUTS if layout.recognises(weights)), None)
    if layout is None:
        raise CheckpointError(_not_latent(files[0], list(weights)))
    return layout.load(weights, sha256, files, base_model, options)


def _explain_no_base_model(path: Path) -> None:
    """Say what is missing where neither a base model nor our own layout is there."""
    if path.is_file() or (path.is_dir() and not (path / "config.json").is_file()):
        raise CheckpointError(
            f"{path} is not in the package's own layout ({', '.join(own.FILES)}), and any other "
            "needs the config and tokenizer of the model it was trained from: set "
            "--model.base_model, or set --model.checkpoint to a known model "
            f"({', '.join(KNOWN_MODELS)}) or one of {sorted(SHIPPED)}"
        )
    missing = [name for name in own.FILES if not (path / name).is_file()]
    raise CheckpointError(
        f"expected a folder with {', '.join(own.FILES)}, an id on the Hub, or one of "
        f"{sorted(SHIPPED)}, but {path} has no {', '.join(missing)}: set --model.checkpoint"
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
        f"(base_causallm.…) in {path}, got {start}, …: set --model.checkpoint"
    )
