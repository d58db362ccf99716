"""What the last digits of a run depend on, beside its inputs."""

from __future__ import annotations

import os
from typing import Any

import torch


def enable_mkl_reproducibility() -> None:
    """Make products on a CPU in float32 and float64 independent of the number of threads.

    By MKL's conditional numerical reproducibility; to be called before the first product. Where
    torch has no MKL, nothing changes.
    """
    capability = torch.backends.cpu.get_cpu_capability()
    if torch.backends.mkl.is_available() and capability in ("AVX2", "AVX512"):
        os.environ.setdefault("MKL_CBWR", f"{capability},STRICT")


def describe_device(device: torch.device, dtype: torch.dtype) -> dict[str, Any]:
    """The device, its instructions, and the number of threads where it changes the last digits."""
    if device.type != "cpu":
        cuda = device.type == "cuda"
        name = torch.cuda.get_device_name(device) if cuda else device.type
        return {"type": device.type, "name": name}
    strict = torch.backends.mkl.is_available() and os.environ.get("MKL_CBWR", "").endswith("STRICT")
    return {
        "type": "cpu",
        "instructions": torch.backends.cpu.get_cpu_capability(),
        "threads": None if strict and dtype.itemsize >= 4 else torch.get_num_threads(),
    }
