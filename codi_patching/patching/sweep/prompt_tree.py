"""Prompts of several questions as one list of tokens, what they have in common once.

    prompts          tokens             paths        own          places
    7 8 9 5          7 8 9 5 4 6        0 1 2 3      0 1 2 3      0 1 2 3 4 5
    7 8 4 6                             0 1 4 5      4 5 · ·

They attend in groups of like lengths, each padded to its longest.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

_PADDED = 1.5
"""A group of prompts may have this many times the scores that it needs."""


@dataclass(frozen=True)
class PromptGroup:
    """Prompts that attend together. What stands after the end of a row means nothing.

    Attributes:
        prompts: Their numbers, `(prompts,)`.
        own: The tokens that are new with each, `(prompts, most)`.
        masks: Which of its prompt's tokens each of them attends to, `(prompts, most, longest)`.
    """

    prompts: Tensor
    own: Tensor
    masks: Tensor


class PromptTree:
    """Prompts as one list of tokens, each common beginning once.

    Attributes:
        tokens: Token ids, `(tokens,)`.
        depths: Their positions, `(tokens,)`.
        lengths: Of each prompt, `(prompts,)`.
        paths: All tokens of each prompt, then any, `(prompts, longest)`.
        ends: The last token of each prompt, `(prompts,)`.
        groups: Which prompts attend together.
        places: Where each token is among `own` of all groups, row by row, `(tokens,)`.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        tokens: list[int] = []
        paths: list[list[int]] = []
        new: list[range] = []
        for index, prompt in enumerate(prompts):
            shared: list[int] = []
            for other, path in zip(prompts[:index], paths):
                same = _common(prompt, other)
                if same > len(shared):
                    shared = path[:same]
            new.append(range(len(tokens), len(tokens) + len(prompt) - len(shared)))
            paths.append([*shared, *new[-1]])
            tokens += prompt[len(shared) :]
        depths = torch.zeros(len(tokens), dtype=torch.long)
        for path in paths:
            depths[path] = torch.arange(len(path))
        places = torch.zeros(len(tokens), dtype=torch.long)
        self.groups, before = list[PromptGroup](), 0
        for group in _alike(new, [len(path) for path in paths]):
            own, longest = _rows([new[row] for row in group]), max(len(paths[row]) for row in group)
            for row, number in enumerate(group):
                mine = new[number]
                first = before + row * own.shape[1]
                places[mine.start : mine.stop] = first + torch.arange(len(mine))
            before += own.numel()
            masks = torch.arange(longest) <= depths[own][..., None]
            numbers = torch.tensor(group)
            self.groups.append(PromptGroup(*(t.to(device) for t in (numbers, own, masks))))
        self.tokens = torch.tensor(tokens).to(device)
        self.lengths = torch.tensor([len(path) for path in paths]).to(device)
        self.ends = torch.tensor([path[-1] for path in paths]).to(device)
        self.depths, self.places = depths.to(device), places.to(device)
        self.paths = _rows(paths).to(device)


def _alike(new: Sequence[range], lengths: Sequence[int]) -> Iterator[list[int]]:
    """Prompts with new tokens, in groups whose padded scores are not many more than are needed."""
    group: list[int] = []
    for number in sorted(range(len(new)), key=lambda row: (-lengths[row], -len(new[row]))):
        if not new[number]:
            continue
        needed = sum(len(new[row]) * lengths[row] for row in (*group, number))
        most = max(len(new[row]) for row in (*group, number))
        if group and (len(group) + 1) * most * lengths[group[0]] > _PADDED * needed:
            yield group
            group = []
        group.append(number)
    yield group


def _rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of any lengths as one tensor, with zeros after their ends."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two prompts have in common from the start."""
    length = min(len(first), len(second))
    return next((i for i in range(length) if first[i] != second[i]), length)
