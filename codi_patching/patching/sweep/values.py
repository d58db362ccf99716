"""The values of rows of patches and cuts, each once, apart from where they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import zip_longest

import torch
from torch import Tensor
from torch.nn.functional import pad

from codi_patching.patching.cuts import CutSet
from codi_patching.patching.interventions import Computed, Generated, Patch, PatchSet
from codi_patching.patching.sweep.patch_shape import CUT, PatchSetShape, PatchShape


@dataclass(frozen=True)
class Values:
    """Deduplicated patch values; the patches of a request index into them by their labels.

    Attributes:
        shapes: The rows, without values.
        vectors: `(vectors, hidden)`.
        kv: Keys before rotation, then values, `(kvs, width)`; None if there are none.
        heads: What attention heads give, `(heads, size)`; None if there are none.
        functions: Of values that are computed from what is there.
        hidden: Prompt tokens that are not seen, `(sets + 1, longest prompt)`; the last one is none.
    """

    shapes: tuple[PatchSetShape, ...]
    vectors: Tensor
    kv: Tensor | None
    heads: Tensor | None
    functions: tuple[Callable[[Tensor], Tensor], ...]
    hidden: Tensor

    @classmethod
    def of(
        cls, rows: Sequence[PatchSet], like: Tensor, cuts: Sequence[CutSet] = (), prompt: int = 0
    ) -> Values:
        """Collect the values of rows, in the dtype and on the device of the stream.

        Args:
            rows: The patches of each row.
            like: The stream.
            cuts: The cuts of each row.
            prompt: Length of the prompt.
        """
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

        hidden: list[list[int]] = []
        shapes = tuple(
            (*(shape(patch) for patch in row), *_cut_shapes(own or (), hidden, prompt))
            for row, own in zip_longest(rows, cuts)
        )
        built_on = "cpu" if hidden else like.device  # moved only if there is something in them
        masks = torch.zeros(len(hidden) + 1, prompt, dtype=torch.bool, device=built_on)
        for number, places in enumerate(hidden):
            masks[number, places] = True
        stacked = torch.stack(vectors.items).to(like) if vectors.items else like[0, :0]
        return cls(
            shapes,
            stacked,
            torch.stack(kv.items).to(like) if kv.items else None,
            torch.stack(heads.items).to(like) if heads.items else None,
            tuple(functions.items),
            masks.to(like.device),
        )

    @classmethod
    def joined(cls, parts: Sequence[Values]) -> Values:
        """Those of several requests, one after the other."""
        kv = [part.kv for part in parts if part.kv is not None]
        longest = max(part.hidden.shape[1] for part in parts)
        hidden = [pad(part.hidden[:-1], (0, longest - part.hidden.shape[1])) for part in parts]
        none = parts[0].hidden.new_zeros(1, longest)
        heads = [part.heads for part in parts if part.heads is not None]
        return cls(
            tuple(shape for part in parts for shape in part.shapes),
            torch.cat([part.vectors for part in parts]),
            torch.cat(kv) if kv else None,
            torch.cat(heads) if heads else None,
            tuple(function for part in parts for function in part.functions),
            torch.cat([*hidden, none]),
        )


def _cut_shapes(cuts: CutSet, hidden: list[list[int]], prompt: int) -> list[PatchShape]:
    """What each reader does not see in each layer; sets of prompt tokens are added to `hidden`.

    Readers of one set have one label, so that requests that differ in the tokens alone have the
    same shapes.
    """
    unseen: dict[tuple[int, int], list[int]] = {}
    for number, cut in enumerate(cuts):
        if min(cut.read, default=0) < -prompt:
            raise ValueError(f"expected places from {-prompt} on, got {min(cut.read)}")
        for place in ((layer, reader) for layer in cut.layers for reader in cut.readers):
            unseen.setdefault(place, []).append(number)
    labels: dict[tuple[int, ...], int] = {}
    shapes = []
    for (layer, reader), numbers in unseen.items():
        places = sorted({place for number in numbers for place in cuts[number].read})
        before = [prompt + place for place in places if place < 0]
        key = tuple(numbers)
        if before and key not in labels:
            labels[key] = len(hidden)
            hidden.append(before)
        own = tuple(place for place in places if place >= 0)
        label = labels[key] if before else -1
        if before or own:
            shapes.append(PatchShape(layer, reader, label, CUT, True, unseen=own))
    return shapes


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
