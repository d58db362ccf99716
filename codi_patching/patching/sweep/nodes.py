"""The nodes of a sweep: tokens of histories of patches, and what they share; see `planner`."""

from __future__ import annotations

from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

from codi_patching.patching.sweep.patch_shape import CUT, PatchShape


@dataclass(eq=False)
class Node:
    """A token of a history of patches.

    Attributes:
        token: Its place in the suffix.
        slot: Where its keys and values are in the pool.
        fork: The node whose states it shares up to `fork_state`; None for the unpatched run's.
        fork_state: See `fork`; -1 if every state is its own.
        patches: By place, those of heads apart.
        heads: Patches of attention heads.
        chain: The nodes from the first token to itself, which it attends to unless they are cut.
        thought: Number of its new thought in the wave; None if its input is not a new one.
    """

    token: int
    slot: int
    fork: Node | None = None
    fork_state: int = -1
    patches: dict[tuple[str, int], PatchShape] = field(default_factory=dict)
    heads: Sequence[PatchShape] = ()
    chain: tuple[Node, ...] = ()
    thought: int | None = None

    def given(self, site: str, layer: int) -> PatchShape | None:
        """The patch at a site that replaces what is there, and is no function of it."""
        patch = self.patches.get((site, layer))
        return None if patch is None or patch.computed else patch

    def function(self, site: str, layer: int) -> PatchShape | None:
        """The patch at a site that is a function of what is there."""
        patch = self.patches.get((site, layer))
        return patch if patch is not None and patch.computed else None

    def attended(self, layer: int) -> list[Node]:
        """The nodes that it attends to in a layer: its chain, but for what is cut."""
        cut = self.patches.get((CUT, layer))
        return [node for place, node in enumerate(self.chain) if not cut or place not in cut.unseen]

    def hidden(self, layer: int) -> int:
        """The label of the prompt tokens that it does not see in a layer; -1 if it sees all."""
        cut = self.patches.get((CUT, layer))
        return cut.label if cut else -1

    def replaced(self, state: int) -> PatchShape | None:
        """The patch that says what a state is, whatever is below it."""
        if state % 2:
            return None
        return self.given("resid_post" if state else "thought", state // 2 - 1)

    def keys_of(self, layer: int) -> Node:
        """The node whose keys and values of a layer it has: itself, or one that it forks off."""
        node = self
        while node.fork is not None:
            if 2 * layer > node.fork_state or ("kv", layer) in node.patches:
                break
            node = node.fork
        return node


@dataclass
class PlannedWave:
    """Nodes that go up together.

    Attributes:
        nodes: In any order.
        positions: The latent positions among them.
    """

    nodes: list[Node]
    positions: Collection[int]


@dataclass
class PlannedSweep:
    """What is computed, before it is written down as tensors.

    Attributes:
        base: The unpatched run's nodes, one for each token of the suffix.
        waves: In order.
        row_nodes: For each row its node at each token of the suffix.
        num_slots: Slots for keys and values, the unpatched run's included.
        recomputed: Whether thoughts are made anew.
    """

    base: list[Node]
    waves: list[PlannedWave]
    row_nodes: list[list[Node]]
    num_slots: int
    recomputed: bool

    def source(self, node: Node, state: int) -> tuple[Literal["own", "base", "value"], Any]:
        """The node, token or value that has a node's state."""
        patch = node.replaced(state)
        if patch is not None and patch.label >= 0:
            return "value", patch.label
        if patch is not None:
            return self.source(self.row_nodes[-1 - patch.label][node.token], state)
        if node.fork is None:
            return "base", node.token
        return ("own", node) if state > node.fork_state else self.source(node.fork, state)

    def parent(self, node: Node) -> Node | None:
        """The node whose last state a node's thought is made from; None if it is not made anew."""
        before = node.chain[-2] if len(node.chain) > 1 else None
        made = self.recomputed and before is not None and before.fork is not None
        return before if made else None
