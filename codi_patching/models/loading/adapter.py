"""What a checkpoint records of its LoRA adapters: `adapter_config.json`, as peft writes it.

    scale of a module   alpha / rank, or alpha / sqrt(rank) if rank-stabilised (arXiv 2312.03732)
    alpha of a module   of the one of `alpha_pattern` that its name ends with, else `lora_alpha`

A setting that would change the merged weights in any other way is refused.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, TypeVar

from safetensors import safe_open

from codi_patching.errors import brief
from codi_patching.models.loading.files import CheckpointError, in_one_line, shorten
from codi_patching.models.strict_json import read_object
from codi_patching.results.description import typed

DEFAULT_ALPHA = 32.0
"""LoRA's alpha in CODI's published training scripts."""

RECORD = "adapter_config.json"

_MOST = 1e6
"""Alphas beyond it, or under its inverse, leave nothing of the weights, or of the adapters."""

_WITHOUT_EFFECT = frozenset(
    {
        "auto_mapping", "base_model_name_or_path", "corda_config", "eva_config", "exclude_modules",
        "fan_in_fan_out", "inference_mode", "init_lora_weights", "layers_pattern",
        "loftq_config", "lora_dropout", "lora_ga_config", "megatron_config", "megatron_core",
        "peft_version", "qalora_group_size", "revision", "runtime_config", "task_type",
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
        target_modules: Ends of names of the modules that have adapters; or a pattern or a word for
            them, which is not read.
        layers_to_transform: Numbers of the layers that have adapters; None for all.
    """

    lora_alpha: float | None = None
    r: int | None = None
    use_rslora: bool = False
    alpha_pattern: dict[str, float] = field(default_factory=dict)
    rank_pattern: dict[str, int] = field(default_factory=dict)
    target_modules: list[str] | str | None = None
    layers_to_transform: list[int] | int | None = None

    def scale(self, module: str, rank: int) -> float:
        """What a module's `B @ A` is multiplied by."""
        found = _by_pattern(self.alpha_pattern, module)
        alpha = found[0] if found else self.lora_alpha or DEFAULT_ALPHA
        return alpha / (math.sqrt(rank) if self.use_rslora else rank)

    def misfits(self, ranks: Mapping[str, int]) -> list[str]:
        """How adapters, by module and rank, contradict the record."""
        problems = []
        if self.r is None and not self.rank_pattern and len(set(ranks.values())) > 1:
            problems.append(f"LoRA ranks differ: {sorted(set(ranks.values()))}")
        for module, rank in ranks.items():
            said = _by_pattern(self.rank_pattern, module)
            if not said and self.r is not None:
                said = [self.r]
            if said and rank not in said:
                problems.append(f"{module} has rank {rank}, where {RECORD} says {said[0]}")
            alphas = _by_pattern(self.alpha_pattern, module)
            if len(set(alphas)) > 1:
                problems.append(
                    f"{module} has the alphas {shorten(list(map(str, alphas)))} by patterns of "
                    f"{RECORD}, of which peft does not keep the order"
                )
            if not rank:
                problems.append(f"{module} has rank 0")
            if not self._aims_at(module):
                problems.append(f"{module} has an adapter, where {RECORD} says that it has none")
        return problems

    def _aims_at(self, module: str) -> bool:
        """Whether the record has an adapter at a module, as far as lists say."""
        names, layers = self.target_modules, self.layers_to_transform
        aimed = not isinstance(names, list) or any(f".{module}".endswith(f".{n}") for n in names)
        layer = re.search(r"\.([0-9]+)\.", module)
        if layers is None or layer is None:
            return aimed
        return aimed and int(layer[1]) in (layers if isinstance(layers, list) else [layers])


def _by_pattern(patterns: Mapping[str, T], module: str) -> list[T]:
    """The values of the patterns that a module's name ends with, as peft has it."""
    return [v for k, v in patterns.items() if re.match(rf"(.*\.)?({k})$", module)]


def check_alpha(alpha: float, where: str, advice: str) -> float:
    """Refuse an alpha that scales nothing, or out of all bounds.

    Raises:
        CheckpointError: It is not a number over 0.
    """
    plain = isinstance(alpha, int | float) and not isinstance(alpha, bool)
    if not (plain and 1 / _MOST <= alpha <= _MOST):
        bounds = f" ({1 / _MOST:g} to {_MOST:g})" if plain and 0 < alpha < math.inf else ""
        raise CheckpointError(
            f"expected LoRA's alpha in {where} to be over 0{bounds}, got {brief(alpha)}{advice}"
        )
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
            if re.search(r"\)[*+{]", pattern):
                raise ValueError(f"got a repeated group in the pattern {brief(pattern)}")
            re.compile(pattern)
    except (OSError, ValueError, re.error) as error:
        raise CheckpointError(
            f"{path}: expected a JSON object as peft writes it, {in_one_line(error)}: repair or "
            "remove it"
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
    return replace(recorded, lora_alpha=chosen)
