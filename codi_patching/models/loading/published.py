"""The layout of the published CODI code: a state dict of the training module, LoRA unmerged.

    codi.base_model.model.<HF name>                        weights that have no adapter
    codi.base_model.model.<HF module>.base_layer.weight    weights that have one, and
    codi.base_model.model.<HF module>.lora_A.default.weight  (rank, in)
    codi.base_model.model.<HF module>.lora_B.default.weight  (out, rank)
    prj.1.*, prj.3.*, prj.ln.*                             the projection, all or nothing but ln

Older files say `coconut.` for `codi.`; files of a model trained without LoRA have no
`base_model.model.`. SIM-CoT's files add the decoder that supervised the thoughts: `decoder.*` under
plain Hugging Face names, and `pj_in.*`, `pj_out.*` where it is of another width or vocabulary.

The vocabulary has three more rows than the base model's, pad, bot, eot in this order; or a
tokenizer beside the checkpoint names its tokens `<|bocot|>` and `<|eocot|>`.
CODI: arXiv 2502.21074. SIM-CoT: 2509.20317.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor
from transformers import PreTrainedConfig, PreTrainedTokenizerFast

from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.adapter import choose_adapter, recorded_adapter
from codi_patching.models.loading.base_model import BaseModel, named_ids, vocabulary_rows
from codi_patching.models.loading.files import CheckpointError, shorten
from codi_patching.models.loading.load_report import LoadReport
from codi_patching.models.loading.lora import merge_lora
from codi_patching.models.loading.options import LoadOptions
from codi_patching.models.loading.strict import assemble, dtypes_of
from codi_patching.models.settings import CodiSettings

DEFAULT_LATENTS = 5
DEFAULT_PREFIX = "The answer is:"

FIRST = re.compile(r"(?:^|\.)(?=(?:codi|coconut)\.)")
"""Where names of this layout begin, inside those of modules that wrap it."""

_MODEL = re.compile(r"(?:codi|coconut)\.(?:module\.)?(?:base_model\.model\.)?(?P<name>.+)")
_DROPPED = ("dynamic_cls.", "decoder.", "pj_in.", "pj_out.")
_BASE, _DOWN, _UP = ".base_layer.", ".lora_A.default.weight", ".lora_B.default.weight"
_MARKERS = ("<|bocot|>", "<|eocot|>")


@dataclass
class PublishedWeights:
    """The parts of a published file.

    Attributes:
        base: Weights of the language model under their Hugging Face names, unmerged.
        lora: For each adapted module its `(lora_A, lora_B)`.
        projection: Weights of `prj`, without that prefix.
        dropped: Keys of extra modules, which are not loaded.
    """

    base: dict[str, Tensor]
    lora: dict[str, tuple[Tensor, Tensor]]
    projection: dict[str, Tensor]
    dropped: list[str] = field(default_factory=list)


def load(
    weights: dict[str, Tensor],
    sha256: str,
    files: list[Path],
    base: BaseModel,
    options: LoadOptions,
) -> tuple[CodiModel, LoadReport]:
    """Make the model of a file in this layout; `weights` is emptied.

    Raises:
        CheckpointError: A weight is missing, unexpected or misshapen, LoRA's alpha contradicts
            the record, or the vocabulary does not fit the base model.
    """
    path = files[0]
    adapter = choose_adapter(options.lora_alpha, recorded_adapter(files), options.known_alpha, path)
    tensors = len(weights)
    parts = split_weights(weights, path)
    lora = {f"{name}.{i}": half for name, ab in parts.lora.items() for i, half in enumerate(ab)}
    dtypes = dtypes_of({"base": parts.base, "LoRA": lora, "prj": parts.projection})
    del lora
    rows = vocabulary_rows(base, parts.base)
    bot, eot = _special_ids(base.config, base.tokenizer, rows)
    base.config.vocab_size = rows
    scales = merge_lora(
        parts.base, parts.lora, adapter, base.family.transposed, torch.get_default_dtype(), path
    )
    settings = _settings(options, bot, eot, base.tokenizer.eos_token_id)
    model = assemble(base.config, parts.base, parts.projection, base.tokenizer, settings, path)
    return model, LoadReport(
        source=str(path),
        sha256=sha256,
        tensors=tensors,
        dtypes=dtypes,
        merged=len(scales),
        lora_alpha=adapter.lora_alpha,
        lora_scales=sorted(set(scales.values())),
        dropped=parts.dropped,
        layout="codi",
        base_model=base.name,
    )


def _settings(options: LoadOptions, bot: int, eot: int, eos: int) -> CodiSettings:
    prefix = options.answer_prefix
    return CodiSettings(
        num_latents=DEFAULT_LATENTS if options.num_latents is None else options.num_latents,
        bot_ids=(eos, bot) if options.prompt_eos else (bot,),
        eot_ids=(eot, eos) if options.readout_eos else (eot,),
        eos_id=eos,
        answer_prefix=DEFAULT_PREFIX if prefix is None else prefix,
        question_suffix=options.question_suffix,
    )


def _special_ids(
    config: PreTrainedConfig, tokenizer: PreTrainedTokenizerFast, rows: int
) -> tuple[int, int]:
    """Ids of bot and eot."""
    named = named_ids(tokenizer, _MARKERS, rows)
    if named is not None:
        return named[0], named[1]
    size = config.vocab_size
    if rows != size + 3:
        raise CheckpointError(
            f"expected the checkpoint's vocabulary to have 3 rows (pad, bot, eot) more than the "
            f"base model's {size}, got {rows}: set [[model.base_model]] to the model it was "
            f"trained from, or to a folder whose tokenizer names its tokens {', '.join(_MARKERS)}"
        )
    vocabulary = tokenizer.get_vocab()
    highest = max(i for token, i in vocabulary.items() if (token, i) != (tokenizer.pad_token, size))
    if highest >= size:
        raise CheckpointError(
            f"the tokenizer's ids reach {highest} and collide with pad, bot and eot at "
            f"{size}..{size + 2}: set [[model.base_model]]"
        )
    return size + 1, size + 2


def split_weights(weights: dict[str, Tensor], path: Path) -> PublishedWeights:
    """Sort the keys of a published file into its parts; `weights` is emptied.

    Raises:
        CheckpointError: A key belongs to no part, or an adapter is incomplete.
    """
    parts = PublishedWeights({}, {}, {})
    halves: dict[str, dict[str, Tensor]] = {}
    problems = []
    for key in list(weights):
        value, found = weights.pop(key), _MODEL.fullmatch(key)
        name = found["name"] if found else ""
        half = next((end for end in (_DOWN, _UP) if name.endswith(end)), "")
        if key.startswith(_DROPPED):
            parts.dropped.append(key)
            continue
        if key.startswith("prj."):
            part, name = parts.projection, key.removeprefix("prj.")
        elif half:
            part, name = halves.setdefault(name.removesuffix(half), {}), half
        elif found and ".lora_" not in name:
            if name.endswith(f"{_BASE}weight"):
                halves.setdefault(name.removesuffix(f"{_BASE}weight"), {})
            part, name = parts.base, name.replace(_BASE, ".")
        else:
            problems.append(f"{key} is unexpected")
            continue
        if name in part:
            problems.append(f"{key} is there under two names")
        part[name] = value
    problems += [
        f"{m}{s} is missing" for m, h in halves.items() for s in (_DOWN, _UP) if s not in h
    ]
    if problems:
        raise CheckpointError(f"{path} is not a CODI checkpoint: {shorten(problems)}")
    parts.lora = {module: (found[_DOWN], found[_UP]) for module, found in halves.items()}
    return parts
