"""A device that is not there: its tensors lie on the CPU and can do no more than a GPU's could.

A tensor of it computes what the CPU computes, but never together with the CPU's tensors, and what
makes a program wait for a GPU is counted: a copy to or fro, a number that Python reads, an index
whose size is not known. `pretended` moves a module there.
"""

from collections import Counter
from contextlib import contextmanager

import pytest
import torch
from torch import Tensor, nn
from torch.utils import backend_registration
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_flatten, tree_map, tree_unflatten

NAME = "pretended"
DEVICE = torch.device("privateuseone", 0)
WAITING = (
    "_local_scalar_dense nonzero equal is_nonzero masked_select _unique2 unique_dim "
    "unique_consecutive"
)
INDEXING = "index index_put index_put_ _index_put_impl_"
VIEWS = (
    "select view slice _unsafe_view unsqueeze transpose expand t split split_with_sizes permute "
    "squeeze detach alias lift_fresh empty empty_strided as_strided unbind"
)

waits: Counter[str] = Counter()
"""What made the program wait, by the name of the operation."""
launches: Counter[str] = Counter()
"""Operations that a GPU would start a kernel for."""


if not hasattr(backend_registration, "_setup_privateuseone_for_python_backend"):
    pytest.skip("this version of torch cannot have a device in Python", allow_module_level=True)


class _NoAccelerator(backend_registration._DummyPrivateUse1Hook):
    """Nothing else in the process should take the device for one that can be used."""

    def is_available(self) -> bool:
        return False


def _register() -> None:
    if torch._C._get_privateuse1_backend_name() != NAME:
        backend_registration._setup_privateuseone_for_python_backend(NAME, hook=_NoAccelerator())


class PretendedTensor(torch.Tensor):
    """A tensor there; `there` is what it holds."""

    there: Tensor
    __torch_function__ = torch._C._disabled_torch_function_impl

    @staticmethod
    def __new__(cls, there: Tensor) -> "PretendedTensor":
        made = Tensor._make_wrapper_subclass(  # type: ignore[attr-defined]
            cls,
            there.size(),
            strides=there.stride(),
            storage_offset=there.storage_offset(),
            dtype=there.dtype,
            device=DEVICE,
        )
        made.there = there
        return made

    def data_ptr(self) -> int:
        return self.there.data_ptr()

    def tolist(self) -> list:
        waits["tolist"] += 1
        return self.there.tolist()

    @classmethod
    def __torch_dispatch__(cls, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


class _Device(TorchDispatchMode):
    """Makes tensors there where a program asks for them."""

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        return _run(func, args, kwargs or {})


def _run(func, args, kwargs):
    flat, spec = tree_flatten((args, kwargs))
    tensors = [value for value in flat if isinstance(value, Tensor)]
    own = [tensor for tensor in tensors if isinstance(tensor, PretendedTensor)]
    asked = kwargs.get("device")
    asked = None if asked is None else torch.device(asked)
    if not own and (asked is None or asked.type != DEVICE.type):
        return func(*args, **kwargs)
    name = func._schema.name.removeprefix("aten::")
    there, options = tree_unflatten([getattr(v, "there", v) for v in flat], spec)
    if asked is not None:
        options |= {"device": torch.device("cpu")}
    _check(name, func, args, tensors, own, kwargs)
    if name not in VIEWS.split():
        launches[name] += 1
    given = func(*there, **{k: v for k, v in options.items() if k != "pin_memory"})
    if name == "_to_copy" and asked is not None and asked.type == "cpu":
        return given
    kept = {id(tensor.there): tensor for tensor in own}

    def wrapped(value):
        if not isinstance(value, Tensor):
            return value
        return kept[id(value)] if id(value) in kept else PretendedTensor(value)

    return tree_map(wrapped, given)


def _check(name, func, args, tensors, own, kwargs):
    """Refuse what a GPU would refuse, and count what it would wait for."""
    foreign = [t for t in tensors if not isinstance(t, PretendedTensor) and t.ndim]
    if name == "_to_copy" and kwargs.get("device") is not None:
        moved = bool(own) != (torch.device(kwargs["device"]).type == DEVICE.type)
        waits[name] += moved and not kwargs.get("non_blocking")
    elif name == "copy_":
        waits[name] += bool(foreign)
    elif name in WAITING.split():
        waits[name] += 1
    elif name in INDEXING.split():
        indices = [index for index in args[1] if index is not None]
        waits[name] += any(index.dtype == torch.bool for index in indices)
        waits[name] += any(index is other for index in indices for other in foreign)
        others = [value for value in (args[0], *args[2:3]) if any(value is t for t in foreign)]
        if others or not isinstance(args[0], PretendedTensor):
            raise RuntimeError(f"{func}: expected values and target on one device")
    elif foreign and own:
        raise RuntimeError(f"{func}: expected all tensors on one device")


@contextmanager
def pretended(*modules: nn.Module):
    """Move modules there, and count from nothing what programs do there."""
    _register()
    before = torch._C._only_lift_cpu_tensors()
    torch._C._set_only_lift_cpu_tensors(True)  # torch.tensor makes its tensor here, then moves it
    try:
        with torch.no_grad(), _Device():
            for module in modules:
                module.requires_grad_(False).to(DEVICE)
            waits.clear()
            launches.clear()
            yield
    finally:
        torch._C._set_only_lift_cpu_tensors(before)
