"""Which run a run is: what makes two of them the same."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from typing import Any

from codi_patching.results.description import RunDescription
from codi_patching.results.files import as_json

_NO_IDENTITY = (
    *("num_pairs", "excluded"),  # known at the end
    "mean_runs",  # follows from the model and the pairs
    *("code.version", "code.git_commit", "code.git_changed"),  # recorded, no more
    *("config.data.batch_size", "config.model.init_args.max_rows"),  # when, not what
)


def identity(run: RunDescription) -> dict[str, Any]:
    """What makes a run this one and no other, as JSON has it."""
    content: dict[str, Any] = json.loads(as_json(run.to_json()))
    for path in _NO_IDENTITY:
        *parents, key = path.split(".")
        inside: Any = content
        for name in parents:
            inside = inside.get(name) if isinstance(inside, dict) else None
        if isinstance(inside, dict):
            inside.pop(key, None)
    return content


def run_sha256(run: RunDescription) -> str:
    """Of `identity`, hexadecimal."""
    return hashlib.sha256(as_json(identity(run)).encode()).hexdigest()


def folder_name(run: RunDescription) -> str:
    """A name for a run's folder by what is run: the same run, the same name."""
    content = {key: value for key, value in identity(run).items() if key != "code"}
    digest = hashlib.sha256(as_json(content).encode()).hexdigest()
    return f"{run.arm}_{run.latents}_{run.direction}_seed{run.seed}_{digest[:8]}"


def differences(old: RunDescription, new: RunDescription, resuming: bool) -> list[str]:
    """Keys in which two runs differ.

    Args:
        old: One run.
        new: The other.
        resuming: Whether the code must be the same: measurements of two codes are not mixed.
    """
    found = _differing(identity(old), identity(new))
    return [key for key in found if resuming or key.partition(".")[0] != "code"]


def _differing(old: Any, new: Any, path: str = "") -> list[str]:
    if not (isinstance(old, Mapping) and isinstance(new, Mapping)):
        return [path] if old != new else []
    return [
        found
        for key in sorted(old.keys() | new.keys())
        for found in _differing(old.get(key), new.get(key), f"{path}.{key}" if path else key)
    ]
