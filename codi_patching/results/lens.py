"""What the lens measured: where a question's intermediate results can be read.

    lens_results.json   metadata, and for each pair: the question, the tokens that each block's
                        output makes most probable, and for each reasoning step the rank of its
                        result at (layer, position), beside that of another pair's result there

A rank is the number of tokens that are more probable; 0 is the most probable one. Ranks are of the
first token of a number. A number of several tokens has also `whole`: at the last layer, forced
token by token after each thought, the worst of its tokens' ranks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codi_patching.results.files import write_checksums, write_json
from codi_patching.results.schema import Array, ResultsError

LENS_RESULTS = "lens_results.json"


@dataclass(frozen=True)
class StepLens:
    """One reasoning step seen through the lens. L layers, K positions.

    Attributes:
        result: The step's result, as text.
        tokens: Its token ids.
        ranks: Of the first of them, `(L, K)`.
        whole: Of all of them, at the last layer, `(K,)`.
        chance_result: The result of the same step of another pair; empty if there is none.
        chance_ranks: Of its first token, `(L, K)`; empty if there is none.
    """

    result: str
    tokens: tuple[int, ...]
    ranks: list[list[int]]
    whole: list[int]
    chance_result: str = ""
    chance_ranks: list[list[int]] = field(default_factory=list)


@dataclass(frozen=True)
class LensRecord:
    """A pair seen through the lens.

    Attributes:
        pair_id: The pair.
        question: Its clean question, whose run is read.
        steps: Its reasoning steps.
        top: The most probable tokens as text, best first, `(L, K, top)`.
    """

    pair_id: str
    question: str
    steps: tuple[StepLens, ...]
    top: list[list[list[str]]]


@dataclass(frozen=True)
class HitRates:
    """How often a step's result is among the k most probable tokens. S steps.

    Attributes:
        k: Tokens that count.
        own: `(S, L, K)`, of the pair's own results.
        chance: The same, of another pair's.
        pairs: Pairs with that many steps, `(S,)`.
    """

    k: int
    own: Array
    chance: Array
    pairs: list[int]


def hit_rates(records: Sequence[LensRecord], k: int) -> HitRates:
    """The maps of hit rates; NaN where no pair has the step, or none another to compare with.

    Raises:
        ValueError: There are no records.
    """
    if not records:
        raise ValueError("expected at least one pair, got none")
    count = max(len(record.steps) for record in records)
    shape = np.shape(records[0].steps[0].ranks)
    own, chance = np.full((2, count, *shape), np.nan)
    pairs = []
    for step in range(count):
        seen = [record.steps[step] for record in records if len(record.steps) > step]
        pairs.append(len(seen))
        own[step] = np.mean([np.array(item.ranks) < k for item in seen], axis=0)
        others = [np.array(item.chance_ranks) < k for item in seen if item.chance_ranks]
        if others:
            chance[step] = np.mean(others, axis=0)
    return HitRates(k, own, chance, pairs)


def write_lens(folder: Path, metadata: dict[str, Any], records: Sequence[LensRecord]) -> Path:
    """Write the measured file of a run."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / LENS_RESULTS
    pairs = {record.pair_id: asdict(record) for record in records}
    write_json(path, {"metadata": metadata, "pairs": pairs})
    write_checksums(folder, [path])
    return path


def read_lens(folder: Path) -> tuple[dict[str, Any], list[LensRecord]]:
    """Metadata and records of a folder.

    Raises:
        ResultsError: The file is missing, or not what it should be.
    """
    path = folder / LENS_RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        records = [_record(pair) for pair in content["pairs"].values()]
        return content["metadata"], records
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise ResultsError(f"expected results of the lens in {path}, got {error!r}") from None


def _record(content: dict[str, Any]) -> LensRecord:
    steps = tuple(
        StepLens(**{**step, "tokens": tuple(step["tokens"])}) for step in content.pop("steps")
    )
    return LensRecord(**content, steps=steps)
