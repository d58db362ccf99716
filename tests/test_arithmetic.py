"""What a run says of the arithmetic of its machine."""

import pytest
import torch

from codi_patching.models.arithmetic import describe_device

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
