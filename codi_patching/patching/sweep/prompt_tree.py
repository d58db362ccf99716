"""Prompts of several questions as one list of tokens, what they have in common once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PromptTree:
    """Prompts as one list of tokens, each common beginning once.

    Rows of prompts are as long as the longest; what stands after a row's end means nothing.

    Attributes:
        tokens: Token ids, `(tokens,)`.
        depths: Their positions, `(tokens,)`.
        lengths: Of each prompt, `(prompts,)`.
        paths: For each prompt all its tokens, `(prompts, longest)`.
        own: For each prompt the tokens that are new with it, `(prompts, most)`.
        places: Of each token among those of `own`, row by row, `(tokens,)`.
        masks: Which of its path each token of `own` attends to, `(prompts, most, longest)`.
        ends: The last token of each prompt, `(prompts,)`.
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
        places = torch.zeros(len(tokens), dtype=torch.long)
        most = max(map(len, new))
        for row, (path, mine) in enumerate(zip(paths, new)):
            depths[path] = torch.arange(len(path))
            places[mine.start : mine.stop] = row * most + torch.arange(len(mine))
        own, whole = _rows(new), _rows(paths)
        masks = torch.arange(whole.shape[1]) <= depths[own][..., None]
        self.tokens = torch.tensor(tokens).to(device)
        self.lengths = torch.tensor([len(path) for path in paths]).to(device)
        self.ends = torch.tensor([path[-1] for path in paths]).to(device)
        self.depths, self.places = depths.to(device), places.to(device)
        self.paths, self.own, self.masks = whole.to(device), own.to(device), masks.to(device)


def _rows(rows: Sequence[Sequence[int]]) -> Tensor:
    """Rows of any lengths as one tensor, with zeros after their ends."""
    longest = max(map(len, rows))
    return torch.tensor([[*row, *[0] * (longest - len(row))] for row in rows])


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two prompts have in common from the start."""
    length = min(len(first), len(second))
    return next((i for i in range(length) if first[i] != second[i]), length)
