"""What a run says of the arithmetic of its machine."""

import os

import pytest
import torch

from codi_patching.models.arithmetic import describe_device, enable_mkl_reproducibility

CPU = torch.device("cpu")


@pytest.mark.parametrize(
    ("mode", "dtype", "matter"),
    [
        ("AVX2,STRICT", torch.float32, False),
        ("AVX2,STRICT", torch.float64, False),
        ("AVX2,STRICT", torch.bfloat16, True),
        ("AVX2", torch.float32, True),
        ("", torch.float32, True),
    ],
)
def test_threads_are_told_where_they_change_the_last_digits(monkeypatch, mode, dtype, matter):
    monkeypatch.setenv("MKL_CBWR", mode)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: True)
    found = describe_device(CPU, dtype)
    assert found["type"] == "cpu"
    assert found["threads"] == (torch.get_num_threads() if matter else None)
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: False)
    assert describe_device(CPU, dtype)["threads"] == torch.get_num_threads()


@pytest.mark.parametrize(
    ("capability", "available", "before", "after"),
    [
        ("AVX2", True, None, "AVX2,STRICT"),
        ("AVX512", True, None, "AVX512,STRICT"),
        ("AVX512", True, "COMPATIBLE", "COMPATIBLE"),
        ("AVX512", False, None, None),
        ("DEFAULT", True, None, None),
    ],
)
def test_products_are_made_strict_where_mkl_can(monkeypatch, capability, available, before, after):
    monkeypatch.setenv("MKL_CBWR", before or "")
    if before is None:
        monkeypatch.delenv("MKL_CBWR")
    monkeypatch.setattr(torch.backends.mkl, "is_available", lambda: available)
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    enable_mkl_reproducibility()
    assert os.environ.get("MKL_CBWR") == after


def test_devices_are_told_by_their_names(monkeypatch):
    monkeypatch.setattr(torch.cuda, "get_device_name", lambda device: f"card {device.index}")
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: "AVX2")
    found = describe_device(torch.device("cuda", 1), torch.float32)
    assert found == {"type": "cuda", "name": "card 1"}
    assert describe_device(torch.device("mps"), torch.float32) == {"type": "mps", "name": "mps"}
    assert describe_device(CPU, torch.float32)["instructions"] == "AVX2"
