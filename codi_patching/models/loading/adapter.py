"""What a checkpoint records of its LoRA adapters: `adapter_config.json`, as peft writes it.

    scale of a module   alpha / rank, or alpha / sqrt(rank) if rank-stabilised (arXiv 2312.03732)
    alpha of a module   of the first of `alpha_pattern` that its name ends with, else `lora_alpha`

A setting that would change the merged weights in any other way is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open

from codi_patching.models.loading.files import CheckpointError, shorten
from codi_patching.models.strict_json import read_object
from codi_patching.results.description import typed

DEFAULT_ALPHA = 32.0
"""LoRA's alpha in CODI's published training scripts."""

RECORD = "adapter_config.json"

_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules",
        "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
        "layers_to_transform", "loftq_config", "lora_dropout", "lora_ga_config", "megatron_config",
        "megatron_core", "peft_version", "qalora_group_size", "revision", "runtime_config",
        "target_modules", "task_type",
    }
)  # fmt: skip
"""Settings of how adapters were made and trained; the file of weights holds what came of it."""

T = TypeVar("T")


@dataclass(frozen=True)
class Adapter:
    """How adapters are scaled.

    Attributes:
        lora_alpha: Of all modules; None if it is not recorded.
        r: Rank of all modules; None if it is not recorded.
        use_rslora: Whether the scale is divided by the root of the rank, not the rank.
        alpha_pattern: Alphas of modules whose names end with a pattern.
        rank_pattern: Ranks of modules whose names end with a pattern.
    """

    lora_alpha: float | None = None
    r: int | None = None
    use_rslora: bool = False
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    rank_pattern: dict[str, int] = field(default_factory=dict)

    def scale(self, module: str, rank: int) -> float:
        """What a module's `B @ A` is multiplied by."""
        alpha = _by_pattern(self.alpha_pattern, module, self.lora_alpha or DEFAULT_ALPHA)
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def misfits(self, ranks: Mapping[str, int]) -> list[str]:
        """How the ranks of modules contradict the record."""
        if self.r is None and not self.rank_pattern:
            different = sorted(set(ranks.values()))
            return [f"LoRA ranks differ: {different}"] if len(different) > 1 else []
        expected = {m: _by_pattern(self.rank_pattern, m, self.r) for m in ranks}
        return [
            f"{module} has rank {rank}, where {RECORD} says {expected[module]}"
            for module, rank in ranks.items()
            if expected[module] not in (None, rank)
        ]


def _by_pattern(patterns: Mapping[str, T], module: str, otherwise: T) -> T:
    """The value of the first pattern that a module's name ends with, as peft has it."""
    found = (v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module))
    return next(found, otherwise)


def check_alpha(alpha: float, where: str, advice: str) -> float:
    """Refuse an alpha that scales nothing.

    Raises:
        CheckpointError: It is not a number over 0.
    """
    if not (math.isfinite(alpha) and alpha > 0):
        raise CheckpointError(f"expected LoRA's alpha in {where} to be over 0, got {alpha}{advice}")
    return alpha


def recorded_adapter(files: Sequence[Path]) -> Adapter:
    """The checkpoint's own record: beside its file, or `lora_alpha` in safetensors metadata.

    Raises:
        CheckpointError: It cannot be read, or has a setting that is not known here.
    """
    path = files[0].parent / RECORD
    if path.is_file():
        return _read(path)
    for file in files:
        if file.suffix == ".safetensors":
            with safe_open(file, "pt") as opened:
                text = (opened.metadata() or {}).get("lora_alpha")
            if text is not None:
                return Adapter(_from_metadata(text, file))
    return Adapter()


def _from_metadata(text: str, file: Path) -> float:
    try:
        alpha = float(text)
    except ValueError:
        alpha = math.nan
    return check_alpha(alpha, f"the metadata of {file} ({text!r})", "")


def _read(path: Path) -> Adapter:
    try:
        content = read_object(path)
        known = {k: content[k] for k in Adapter.__dataclass_fields__ if content.get(k) is not None}
        adapter = typed(Adapter, known, RECORD)
        for pattern in (*adapter.alpha_pattern, *adapter.rank_pattern):
            re.compile(pattern)
    except (OSError, ValueError, re.error) as error:
        raise CheckpointError(
            f"{path}: expected a JSON object as peft writes it, {error}: repair or remove it"
        ) from error
    other = {k: v for k, v in content.items() if k not in known and not _is_default(k, v)}
    if other:
        named = [f"{key} {value!r}" for key, value in other.items()]
        raise CheckpointError(
            f"{path}: expected LoRA's plain settings, got {shorten(named)}, which would change the "
            "merged weights in a way that is not known here: merge the adapters with peft first"
        )
    alphas = [adapter.lora_alpha, *adapter.alpha_pattern.values()]
    for alpha in alphas:
        if alpha is not None:
            check_alpha(alpha, str(path), ": repair or remove it")
    return adapter


def _is_default(key: str, value: Any) -> bool:
    """Whether a setting is as it stands in a plain adapter's config."""
    if key == "peft_type":
        return value == "LORA"
    return key in _WITHOUT_EFFECT or value in (None, False, "none", [], {})


def choose_adapter(
    given: float | None, recorded: Adapter, known: float | None, path: Path
) -> Adapter:
    """The adapter to merge with: alpha is the recorded one, which a given one may not contradict.

    Args:
        given: Alpha by the user.
        recorded: Beside the checkpoint.
        known: Alpha by the table of known models.
        path: Of the checkpoint, for errors.

    Raises:
        CheckpointError: It does.
    """
    alpha = recorded.lora_alpha
    if given is not None and alpha is not None and given != alpha:
        raise CheckpointError(
            f"expected LoRA alpha {alpha:g}, by {path}'s own record, got {given:g}: "
            "change or leave out [[model.lora_alpha]]"
        )
    chosen = next(a for a in (given, alpha, known, DEFAULT_ALPHA) if a is not None)
    return Adapter(
        chosen, recorded.r, recorded.use_rslora, recorded.alpha_pattern, recorded.rank_pattern
    )
