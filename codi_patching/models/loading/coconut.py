"""The layout of Coconut's code: a bare state dict, named `checkpoint_N` after its epoch.

    base_causallm.<HF name>    the language model
    embedding.weight           an alias of its input embeddings, which it must equal
    expainable_llm.<HF name>   (sic) SIM-CoT's decoder, which supervised the thoughts: dropped

The vocabulary grew by three rows after the tokenizer's last: start, end, latent. A prompt is the
question as it is (double spaces stay), a newline, start; then K thoughts, each the last hidden
state after the final norm, unprojected; then end, `###` and the answer:

    Tom has 5  apples. … ↵ <|start-latent|> z_0 … z_{K-1} <|end-latent|> ### 18

K is not in the file. A file of stage 0 has no `base_causallm.` and no thoughts: it is refused.
Coconut: arXiv 2412.06769. SIM-CoT: 2509.20317.
"""

from __future__ import annotations

import re
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedTokenizerFast

from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.base_model import BaseModel, named_ids, vocabulary_rows
from codi_patching.models.loading.files import CheckpointError, shorten
from codi_patching.models.loading.load_report import LoadReport
from codi_patching.models.loading.options import LoadOptions
from codi_patching.models.loading.strict import assemble, dtypes_of
from codi_patching.models.settings import CodiSettings

DEFAULT_PREFIX = "###"

FIRST = re.compile(r"(?:^|\.)(?=base_causallm\.)")
"""Where names of this layout begin, inside those of modules that wrap it."""

_MODEL, _ALIAS, _DROPPED = "base_causallm.", "embedding.weight", "expainable_llm."
_MARKERS = ("<|start-latent|>", "<|end-latent|>", "<|latent|>")


def load(
    weights: dict[str, Tensor],
    sha256: str,
    files: list[Path],
    base: BaseModel,
    options: LoadOptions,
) -> tuple[CodiModel, LoadReport]:
    """Make the model of a file in this layout; `weights` is emptied.

    Raises:
        CheckpointError: A weight is missing, unexpected or misshapen, an option does not apply,
            K is not given, or the vocabulary does not fit the base model.
    """
    path = files[0]
    _check_options(options, path)
    tensors = len(weights)
    dropped = [key for key in weights if key.startswith(_DROPPED)]
    for key in dropped:
        del weights[key]
    own, alias = _split(weights, path)
    rows, embeddings = vocabulary_rows(base, own), f"{base.family.embeddings}.weight"
    if alias is not None and not torch.equal(alias, own[embeddings]):
        raise CheckpointError(
            f"{path}: expected {_ALIAS} to equal {_MODEL}{embeddings}, of which it is an alias: "
            "the file was put together from two models"
        )
    settings = _settings(options, base.tokenizer, rows)
    base.config.vocab_size = rows
    dtypes = dtypes_of({"model": own})
    model = assemble(base.config, own, {}, base.tokenizer, settings, path)
    return model, LoadReport(
        str(path),
        sha256,
        tensors,
        dtypes,
        dropped=dropped,
        layout="coconut",
        base_model=base.name,
    )


def _check_options(options: LoadOptions, path: Path) -> None:
    if options.num_latents is None:
        raise CheckpointError(
            f"{path} does not say how many thoughts it was trained with: set [[model.num_latents]] "
            "(thoughts of a stage times stages: 6 for Coconut on GSM8K, 10 for SIM-CoT's GPT-2)"
        )
    if options.lora_alpha is not None or options.prompt_eos:
        raise CheckpointError(
            "expected [[model.lora_alpha]] and [[model.prompt_eos]] only with CODI's layout, got "
            f"one with {path}, which is in Coconut's"
        )


def _split(weights: dict[str, Tensor], path: Path) -> tuple[dict[str, Tensor], Tensor | None]:
    """The language model's weights, and the alias of its embeddings."""
    alias = weights.pop(_ALIAS, None)
    unexpected = [f"{key} is unexpected" for key in weights if not key.startswith(_MODEL)]
    if unexpected:
        raise CheckpointError(f"{path} is not a Coconut checkpoint: {shorten(unexpected)}")
    return {key.removeprefix(_MODEL): weights.pop(key) for key in list(weights)}, alias


def _settings(options: LoadOptions, tokenizer: PreTrainedTokenizerFast, rows: int) -> CodiSettings:
    named = named_ids(tokenizer, _MARKERS, rows)
    first = len(tokenizer)
    if named is None and rows != first + 3:
        raise CheckpointError(
            "expected the checkpoint's vocabulary to have 3 rows (start, end, latent) more than "
            f"the tokenizer's {first}, got {rows}: set [[model.base_model]] to the model it was "
            "trained from"
        )
    start, end = (first, first + 1) if named is None else named[:2]
    prefix = options.answer_prefix
    return CodiSettings(
        num_latents=options.num_latents or 0,
        bot_ids=(start,),
        eot_ids=(end,),
        eos_id=tokenizer.eos_token_id,
        answer_prefix=DEFAULT_PREFIX if prefix is None else prefix,
        raw_question=True,
        question_suffix="\n" + options.question_suffix,
    )
