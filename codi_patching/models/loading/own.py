"""The package's own layout, which any model can be saved in.

A folder holds

    config.json         of the backbone, as transformers writes it
    tokenizer.json      of the tokenizers library
    model.safetensors   the backbone's weights under their Hugging Face names, and `prj.*`
    codi.json           `CodiSettings`
"""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file
from transformers import PreTrainedTokenizerFast

from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.config import read_config
from codi_patching.models.loading.files import CheckpointError, in_one_line
from codi_patching.models.loading.load_report import LoadReport
from codi_patching.models.loading.strict import assemble, dtypes_of, tied_weights
from codi_patching.models.loading.tensors import read_weights, unwrap
from codi_patching.models.settings import CodiSettings
from codi_patching.models.strict_json import read_object
from codi_patching.results.description import typed

SETTINGS = "codi.json"
"""The file that tells this layout from the others."""

FILES = ("config.json", "tokenizer.json", "model.safetensors", SETTINGS)
"""Of a complete folder."""


def save_checkpoint(model: CodiModel, folder: Path) -> None:
    """Write a model in the package's own layout."""
    folder.mkdir(parents=True, exist_ok=True)
    model.backbone.config.save_pretrained(folder)
    tied = tied_weights(model.backbone)
    weights = {k: v for k, v in model.backbone.state_dict().items() if k not in tied}
    weights |= {f"prj.{k}": v for k, v in model.prj.state_dict().items()}
    weights = {k: v.detach().cpu().contiguous() for k, v in weights.items()}
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})
    model.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / SETTINGS).write_text(json.dumps(asdict(model.settings), indent=2) + "\n")


def load_own(folder: Path) -> tuple[CodiModel, LoadReport]:
    """Load a folder that `save_checkpoint` wrote.

    Raises:
        CheckpointError: A file is missing or unreadable, or the weights do not fit.
    """
    missing = [name for name in FILES if not (folder / name).is_file()]
    if missing:
        raise CheckpointError(
            f"expected a folder with {', '.join(FILES)}, but {folder} has no "
            f"{', '.join(missing)}: set [[model.checkpoint]]"
        )
    settings = _read_settings(folder / SETTINGS)
    config = read_config(folder, "model.checkpoint")
    tokenizer = _read_tokenizer(folder / "tokenizer.json")
    path = folder / "model.safetensors"
    weights, sha256 = read_weights([path])
    tensors, constants = len(weights), unwrap(weights, path)
    projection = {k[4:]: weights.pop(k) for k in list(weights) if k.startswith("prj.")}
    dtypes = dtypes_of({"model": weights, "prj": projection})
    model = assemble(config, weights, projection, tokenizer, settings, path)
    report = LoadReport(str(folder), sha256, tensors, dtypes, dropped=constants)
    report.feeds_back = model.feeds_back
    return model, report


def _read_tokenizer(path: Path) -> PreTrainedTokenizerFast:
    try:
        return PreTrainedTokenizerFast(tokenizer_file=str(path))
    except Exception as error:  # tokenizers raises nothing more precise
        raise CheckpointError(
            f"expected {path} to be a tokenizer, {in_one_line(error)}: set [[model.checkpoint]]"
        ) from error


def _read_settings(path: Path) -> CodiSettings:
    try:
        return typed(CodiSettings, read_object(path), path.name)
    except (ValueError, OSError) as error:
        raise CheckpointError(
            f"{path} does not hold CODI's settings: {in_one_line(error)}"
        ) from error
