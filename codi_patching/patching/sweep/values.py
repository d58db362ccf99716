"""The values of rows of patches, each once, apart from where they are patched."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from codi_patching.patching.interventions import Computed, Generated, Patch, PatchSet
from codi_patching.patching.sweep.patch_shape import PatchSetShape, PatchShape


@dataclass(frozen=True)
class Values:
    """Deduplicated patch values; the patches of a request index into them by their labels.

    Attributes:
        shapes: The rows, without values.
        vectors: `(vectors, hidden)`.
        kv: Keys before rotation, then values, `(kvs, width)`; None if there are none.
        heads: What attention heads give, `(heads, size)`; None if there are none.
        functions: Of values that are computed from what is there.
    """

    shapes: tuple[PatchSetShape, ...]
    vectors: Tensor
    kv: Tensor | None
    heads: Tensor | None
    functions: tuple[Callable[[Tensor], Tensor], ...]

    @classmethod
    def of(cls, rows: Sequence[PatchSet], like: Tensor) -> Values:
        """Collect the values of rows, in the dtype and on the device of the stream."""
        vectors, kv, heads, functions = _Labels(), _Labels(), _Labels(), _Labels()
        of_site = {"kv": kv, "head": heads}

        def shape(patch: Patch) -> PatchShape:
            values, computed = patch.values, False
            if isinstance(values, Generated):
                label = -1 - values.row
            elif isinstance(values, Computed):
                label, computed = functions.of(id(values.function), values.function), True
            else:
                key = (values.data_ptr(), values.stride())
                label = of_site.get(patch.site.name, vectors).of(key, values)
            head = -1 if patch.site.head is None else patch.site.head
            return PatchShape(*patch.site.cell, label, patch.site.name, computed, head)

        shapes = tuple(tuple(shape(patch) for patch in row) for row in rows)
        stacked = torch.stack(vectors.items).to(like) if vectors.items else like[0, :0]
        return cls(
            shapes,
            stacked,
            torch.stack(kv.items).to(like) if kv.items else None,
            torch.stack(heads.items).to(like) if heads.items else None,
            tuple(functions.items),
        )

    @classmethod
    def joined(cls, parts: Sequence[Values]) -> Values:
        """Those of several requests, one after the other."""
        kv = [part.kv for part in parts if part.kv is not None]
        heads = [part.heads for part in parts if part.heads is not None]
        return cls(
            tuple(shape for part in parts for shape in part.shapes),
            torch.cat([part.vectors for part in parts]),
            torch.cat(kv) if kv else None,
            torch.cat(heads) if heads else None,
            tuple(function for part in parts for function in part.functions),
        )


class _Labels:
    """Numbers for things, the same for the same thing."""

    def __init__(self) -> None:
        self.numbers: dict[object, int] = {}
        self.items: list = []

    def of(self, key: object, item: object) -> int:
        """The number of a thing."""
        number = self.numbers.setdefault(key, len(self.items))
        if number == len(self.items):
            self.items.append(item)
        return number
