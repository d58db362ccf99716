"""A language model's `config.json`, by a reader of our own, and what it must not say.

transformers' own reader follows an `auto_map` to code in the model's folder, for which it asks on
the terminal. Here `model_type` chooses a config among those that transformers brings along, so
nothing of a folder runs, and sizes that cannot be are refused before a model of them is made.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from transformers import CONFIG_MAPPING, PreTrainedConfig
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from codi_patching.errors import brief
from codi_patching.models.families import FAMILIES
from codi_patching.models.loading.files import CheckpointError, in_one_line, shorten
from codi_patching.models.strict_json import read_object

FILE = "config.json"

_MOST_LAYERS = 10_000
"""Some configs make a list as long, before anything can be compared with weights."""

_SIZES = (
    "vocab_size", "hidden_size", "num_hidden_layers", "num_attention_heads", "num_key_value_heads",
    "head_dim", "max_position_embeddings",
)  # fmt: skip
_AT_LEAST_0 = ("rms_norm_eps", "layer_norm_epsilon")
_ROPE = ("rope_theta", "factor", "original_max_position_embeddings")

_OURS = frozenset(
    {
        "attn_implementation", "_attn_implementation", "_attn_implementation_internal",
        "_experts_implementation", "auto_map", "dtype", "torch_dtype",
    }
)  # fmt: skip
"""Settings of how a model is run, which are this package's to make, and where code is."""


def read_config(folder: Path, argument: str) -> PreTrainedConfig:
    """Config of the model in a folder.

    Args:
        folder: That holds it.
        argument: Which names the folder, for errors.

    Raises:
        CheckpointError: It is none, is of a family that is not supported, or says what cannot be.
    """
    path = folder / FILE
    try:
        content = read_object(path)
    except (OSError, ValueError) as error:
        raise _unusable(path, in_one_line(error), argument) from error
    family = content.get("model_type")
    if not isinstance(family, str) or family not in FAMILIES:
        raise CheckpointError(
            f"{path}: the model is of the family {brief(family)}; expected one of "
            f"{', '.join(FAMILIES)}: set [[{argument}]]"
        )
    made = CONFIG_MAPPING[family]
    problems = list(_raw_problems(content, made.attribute_map))
    if problems:
        raise _unusable(path, shorten(problems), argument)
    known = {key: value for key, value in content.items() if key not in _OURS}
    try:
        config = made.from_dict(known)
    except Exception as error:  # transformers raises what it happens to stumble over
        raise _unusable(path, in_one_line(error), argument) from error
    problems = list(_problems(config))
    if problems:
        raise _unusable(path, shorten(problems), argument)
    return config


def _unusable(path: Path, reason: str, argument: str) -> CheckpointError:
    return CheckpointError(
        f"expected {path} to be the config of a language model: {reason}: set [[{argument}]]"
    )


def _raw_problems(content: Mapping[str, Any], names: Mapping[str, str]) -> Iterator[str]:
    """What is wrong with a config before it is made one; `names` are a family's own for sizes."""
    if content.get("quantization_config"):
        yield "quantization_config says that weights are quantised, whose scales are not read"
    for name in _SIZES:
        own = names.get(name, name)
        size, most = content.get(own), _MOST_LAYERS if name == "num_hidden_layers" else math.inf
        whole = isinstance(size, int) and not isinstance(size, bool)
        if size is not None and not (whole and 1 <= size <= most):
            limit = f" and at most {most}" if most < math.inf else ""
            yield f"expected {own} to be a whole number of at least 1{limit}, got {brief(size)}"


def _problems(config: PreTrainedConfig) -> Iterator[str]:
    """What a config says that cannot be."""
    for name, value in config.to_dict().items():
        least = 0 if name in _AT_LEAST_0 else -math.inf
        if isinstance(value, float) and not (math.isfinite(value) and value >= least):
            yield f"expected {name} to be a finite number, not under 0, got {value}"
    rope = getattr(config, "rope_parameters", None) or {}
    kind = rope.get("rope_type", "default")
    if kind != "default" and kind not in ROPE_INIT_FUNCTIONS:
        yield f"expected rope_type to be one of {', '.join(ROPE_INIT_FUNCTIONS)}, got {brief(kind)}"
    for name in _ROPE:
        value = rope.get(name)
        number = isinstance(value, int | float) and math.isfinite(value) and value > 0
        if value is not None and not number:
            yield f"expected {name} of rotary positions to be a number over 0, got {brief(value)}"
