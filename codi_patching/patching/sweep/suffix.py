"""The tokens that patches can change: those after a prompt, with the readout as a tree.

Where places in the prompt are patched too, the tokens from the first of them on are its *lead*: the
prompt is then what stands before.

    prompt | lead .. bot | z_0 .. z_{K-1} | eot, prefix ─┬─ one answer's tokens
                                                         └─ the other's
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace


@dataclass(frozen=True)
class Suffix:
    """The tokens after the prompt: its lead, K latents, the readout of all answers as a tree.

    Attributes:
        num_latents: K.
        tokens: Token ids of the readout.
        parents: For each token of the suffix the one before it, -1 for the first.
        reads: For each answer the tokens of the suffix whose logits are its tokens'.
        lead: How many of the prompt's last tokens there are.
    """

    num_latents: int
    tokens: tuple[int, ...]
    parents: tuple[int, ...]
    reads: tuple[tuple[int, ...], ...]
    lead: int

    @classmethod
    def of(
        cls,
        num_latents: int,
        prefix: Sequence[int],
        answers: Sequence[Sequence[int]],
        lead: int = 0,
    ) -> Suffix:
        """The suffix that forces each answer, common beginnings once."""
        tokens: list[int] = list(prefix)
        before = lead + num_latents
        parents = list(range(-1, before + len(prefix) - 1))
        children: dict[tuple[int, int], int] = {}
        reads = []
        for answer in answers:
            path = list(range(before - 1, before + len(prefix)))
            for token in answer[:-1]:
                if (path[-1], token) not in children:
                    children[path[-1], token] = len(parents)
                    parents.append(path[-1])
                    tokens.append(token)
                path.append(children[path[-1], token])
            reads.append(tuple(path[len(path) - len(answer) :]))
        return cls(num_latents, tuple(tokens), tuple(parents), tuple(reads), lead)

    @property
    def first_read(self) -> int:
        """The first token of the readout."""
        return self.lead + self.num_latents

    @property
    def structure(self) -> Suffix:
        """The same for all readouts that branch and are read alike, whatever their tokens."""
        return replace(self, tokens=())

    def __len__(self) -> int:
        """Number of tokens."""
        return len(self.parents)

    def path(self, token: int) -> list[int]:
        """The tokens up to and with one."""
        before = self.parents[token]
        return [*(self.path(before) if before >= 0 else []), token]

    @property
    def depths(self) -> list[int]:
        """Position of each token after the prompt."""
        return [len(self.path(token)) - 1 for token in range(len(self))]

    @property
    def read_tokens(self) -> list[int]:
        """The tokens whose logits are read for any answer."""
        return sorted({token for tokens in self.reads for token in tokens})
