"""A patch or cut without its value: where it is, and what it changes of the sweep's states.

A cut of what a token reads in layer l changes what attention adds there, as a function of the
patched run's own states, so it forks where a computed patch of `attn_out` does.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

from codi_patching.patching.interventions import THOUGHT

CUT = "cut"
"""The site of a cut, beside those that patches have."""


class PatchShape(NamedTuple):
    """A patch without its value, or what a token does not see in a layer.

    Attributes:
        layer: Decoder block, or `THOUGHT`.
        position: Latent position; of a cut the reader's place, which may be of the readout.
        label: v ≥ 0 is the v-th of the values of its kind (vectors, keys and values, heads,
            functions, or sets of prompt tokens), -1 - r what row r generates; -1 of a cut that
            leaves the prompt.
        site: What is overwritten; `CUT` of a cut.
        computed: Whether the value is a function of what is there, as it is of a cut.
        head: Attention head, of the site `head`; else -1.
        unseen: Of a cut, the places after the prompt that are not seen.
    """

    layer: int
    position: int
    label: int
    site: str = "resid_post"
    computed: bool = False
    head: int = -1
    unseen: tuple[int, ...] = ()

    @classmethod
    def of(cls, patch: Sequence[object]) -> PatchShape:
        """From `(layer, position, label, …)`; the layer `THOUGHT` has the site of its name."""
        shape = cls(*patch)  # type: ignore[arg-type]
        return shape._replace(site="thought") if shape.layer == THOUGHT else shape

    @property
    def shared(self) -> int:
        """The highest state of its own token that the patch does not touch; -1 for none."""
        if self.site == "thought":
            return -1
        added_late = self.site in ("mlp_out", "resid_post") and not self.computed
        return 2 * self.layer + added_late

    @property
    def read_from(self) -> int:
        """The first layer in which later tokens read a change."""
        return self.layer if self.site == "kv" else self.layer + 1


PatchSetShape = tuple[PatchShape, ...]
"""One row; plain tuples of the same items will do."""
