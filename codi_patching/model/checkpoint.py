"""Saving and loading models."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path

from safetensors.torch import save_file

from codi_patching.model.codi import CodiModel


def save_checkpoint(model: CodiModel, folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model.backbone.config.save_pretrained(folder)
    tied = set(model.backbone._tied_weights_keys or ()) if model.backbone.config.tie_word_embeddings else set()
    weights = {k: v.contiguous() for k, v in model.backbone.state_dict().items() if k not in tied}
    weights |= {f"prj.{k}": v.contiguous() for k, v in model.prj.state_dict().items()}
    save_file(weights, folder / "model.safetensors")
    model.tokenizer.backend_tokenizer.save(str(folder / "tokenizer.json"))
    (folder / "codi.json").write_text(json.dumps(asdict(model.settings), indent=2) + "\n")
