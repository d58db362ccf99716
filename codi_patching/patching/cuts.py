"""Cutting edges of attention: what a token may see of the tokens before it, taken away.

A cut sets attention logits to −inf before the softmax, in some layers, from readers to what they
read; the rest is renormalised. All else of a run stays: what a cut changes reaches the answer as it
would by itself. Attention knock-out: Geva et al., arXiv 2304.14767, section 4.

Places are counted from the end of the prompt, so that they mean the same for every prompt:

    prompt          BOS  q1 ..  qn  bot | z_0  z_1 .. z_K-1 | eot  The  answer  is  :
    place           -T   ..     -2  -1  |  0    1  ..  K-1  |  K   ..
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True)
class Cut:
    """Some tokens do not see some tokens before them, in some layers.

    Attributes:
        layers: Decoder blocks, from 0.
        readers: Places of the tokens that do not see, from 0: thoughts and readout.
        read: Places of the tokens that they do not see, each before every reader.

    Raises:
        ValueError: A reader is of the prompt, or does not come after all that is read.
    """

    layers: tuple[int, ...]
    readers: tuple[int, ...]
    read: tuple[int, ...]

    def __post_init__(self) -> None:
        """Check that readers come after what they read."""
        first = min(self.readers, default=0)
        if first < 0 or (self.read and max(self.read) >= first):
            raise ValueError(
                f"expected readers after the prompt and after all that they read, got readers "
                f"{list(self.readers)} of {list(self.read)}"
            )


CutSet = Sequence[Cut]
"""One run: all its cuts."""


def check_cuts(cuts: Sequence[CutSet], num_layers: int, num_places: int) -> None:
    """Refuse layers and readers that do not exist.

    Raises:
        ValueError: Naming the layer or the place.
    """
    every = [cut for row in cuts for cut in row]
    for what, limit, numbers in (
        ("a layer", num_layers, {layer for cut in every for layer in cut.layers}),
        ("a reader", num_places, {reader for cut in every for reader in cut.readers}),
    ):
        for number in numbers:
            if not 0 <= number < limit:
                raise ValueError(f"expected {what} in 0..{limit - 1}, got {number}")


def unseen_keys(
    cuts: Sequence[CutSet], prompt: int, first: int, new: int, device: torch.device
) -> Mapping[int, Tensor]:
    """What the tokens of one forward pass do not see.

    Args:
        cuts: Of each row.
        prompt: Length of the prompt, padding included, that all rows have.
        first: Place of the first token of the pass.
        new: How many tokens the pass has.
        device: Of the masks.

    Returns:
        For each layer in which a token of the pass is cut `(rows, new, prompt + first + new)`, true
        where it does not see.

    Raises:
        ValueError: A cut is of a token before the prompt's first.
    """
    found: dict[int, Tensor] = {}
    for row, own in enumerate(cuts):
        for cut in own:
            if min(cut.read, default=0) < -prompt:
                raise ValueError(f"expected places from {-prompt} on, got {min(cut.read)}")
            queries = [reader - first for reader in cut.readers if 0 <= reader - first < new]
            keys = [prompt + place for place in cut.read]
            for layer in cut.layers if queries and keys else ():
                if layer not in found:
                    shape = (len(cuts), new, prompt + first + new)
                    found[layer] = torch.zeros(shape, dtype=torch.bool, device=device)
                index = torch.tensor(queries, device=device)[:, None]
                found[layer][row, index, torch.tensor(keys, device=device)] = True
    return found
