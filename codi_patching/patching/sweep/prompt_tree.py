"""Prompts of several questions as one list of tokens, what they have in common once."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


class PromptTree:
    """Prompts as one list of tokens, each common beginning once.

    Attributes:
        tokens: Token ids, `(tokens,)`.
        depths: Their positions, `(tokens,)`.
        own: For each prompt the slice of tokens that are new with it.
        paths: For each prompt all its tokens, `(length,)`.
        masks: For each prompt which of its path its new tokens attend to, `(new, length)`.
        ends: The last token of each prompt, `(prompts,)`.
    """

    def __init__(self, prompts: Sequence[Sequence[int]], device: torch.device) -> None:
        tokens: list[int] = []
        paths: list[list[int]] = []
        self.own: list[slice] = []
        self.masks: list[Tensor] = []
        for index, prompt in enumerate(prompts):
            shared: list[int] = []
            for other, path in zip(prompts[:index], paths):
                same = _common(prompt, other)
                if same > len(shared):
                    shared = path[:same]
            new = range(len(tokens), len(tokens) + len(prompt) - len(shared))
            paths.append([*shared, *new])
            tokens += prompt[len(shared) :]
            self.own.append(slice(new.start, new.stop))
            everything = torch.ones(len(new), len(prompt), dtype=torch.bool, device=device)
            self.masks.append(everything.tril(len(shared)))
        self.tokens = torch.tensor(tokens, device=device)
        self.depths = torch.empty(len(tokens), dtype=torch.long, device=device)
        self.paths = [torch.tensor(path, device=device) for path in paths]
        for whole_path in self.paths:
            self.depths[whole_path] = torch.arange(len(whole_path), device=device)
        self.ends = torch.stack([whole_path[-1] for whole_path in self.paths])


def _common(first: Sequence[int], second: Sequence[int]) -> int:
    """How many tokens two prompts have in common from the start."""
    length = min(len(first), len(second))
    return next((i for i in range(length) if first[i] != second[i]), length)
