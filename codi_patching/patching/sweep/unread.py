"""Which patched runs nothing can come of: what they overwrite, or cut, is read by nothing.

Frozen latents, `resid_post` of the last layer: the readout reads keys and values of the blocks
below, and no thought is made from it. Whatever the model and the values, such a run's logits are
the unpatched run's: a *structural zero*. Which runs these are is what the planner knows anyway.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from codi_patching.patching.cuts import CutSet
from codi_patching.patching.interventions import Latents, PatchSet
from codi_patching.patching.sweep.lowering import make_plan
from codi_patching.patching.sweep.suffix import Suffix
from codi_patching.patching.sweep.values import Values


def unread_rows(
    rows: Sequence[PatchSet],
    num_layers: int,
    num_latents: int,
    latents: Latents,
    readout: int = 1,
    cuts: Sequence[CutSet] = (),
) -> list[bool]:
    """For each row whether no logits that are read depend on any of its patches or cuts.

    Args:
        rows: The patches of each row; their values make no difference.
        num_layers: L.
        num_latents: K.
        latents: See `interventions`.
        readout: Tokens after the thoughts, of which the last one is read.
        cuts: The cuts of each row, after a prompt of one token and of one readout token.
    """
    shapes = Values.of(rows, torch.zeros(1, 1, 1), cuts, prompt=1).shapes
    lead = max((-patch.site.token for row in rows for patch in row), default=0)
    suffix = Suffix.of(num_latents, (0,) * readout, ((0,),), max(0, lead))
    (reads,) = make_plan(suffix, num_layers, shapes, ((),) * len(rows), latents).reads
    return [bool((row >= reads.outputs).all()) for row in reads.answers[0]]
