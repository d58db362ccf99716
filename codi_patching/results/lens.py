"""What the lens measured: where a question's intermediate results can be read.

    lens_results.json   metadata, and for each pair, a line each: the question, the tokens that each
                        block's output makes most probable, and for each reasoning step the rank of
                        its result at (layer, position), beside that of another pair's result there

A rank is the number of tokens that are more probable; 0 is the most probable one. Ranks are of the
first token of a number. A number of several tokens has also `whole`: at the last layer, forced
token by token after each thought, the worst of its tokens' ranks.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from codi_patching.results.files import changed_files
from codi_patching.results.layout import LENS_RESULTS
from codi_patching.results.schema import Array, Code, ResultsError, build_typed


@dataclass(frozen=True)
class LensRun:
    """All that the ranks depend on, and nothing that changes from run to run.

    Attributes:
        model: Name, folder or file of the checkpoint, as asked for.
        model_type: Family of the backbone.
        num_layers: L.
        num_latents: K.
        checkpoint_sha256: Of the weights.
        checkpoint: What was loaded from where.
        data: Name of the file of pairs; empty for the shipped ones.
        data_sha256: Of that file.
        seed: Of the other pair that each is compared with.
        precision: Of the model, as Lightning names it.
        device: Its kind, and what of it the last digits depend on.
        versions: Of the packages that compute.
        code: That measured.
        top: Tokens that are kept for each cell; a hit is a result among them.
        num_pairs: Pairs with results.
        filtered: Ids of pairs left out because both answers are equal.
        excluded: Reasons of pairs that could not be read, by id.
        config: The resolved configuration.
        experiment: `lens`.
        reads: What is read.
        hits: What of a number is looked for.
        chance: What it is compared with.
    """

    model: str
    model_type: str
    num_layers: int
    num_latents: int
    checkpoint_sha256: str
    checkpoint: dict[str, Any]
    data: str
    data_sha256: str
    seed: int
    precision: str
    device: dict[str, Any]
    versions: dict[str, str]
    code: Code
    top: int
    num_pairs: int
    filtered: tuple[str, ...] = ()
    excluded: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    experiment: str = "lens"
    reads: str = (
        "the head on the final norm of resid_post in the clean question's run; of the last layer "
        "that is the state that the next thought is made from"
    )
    hits: str = "by the first token of a number; `whole` by teacher forcing, at the last layer"
    chance: str = "the result of the same step of another pair with as many steps"

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LensRun:
        """From `to_json`; other keys are refused.

        Raises:
            ValueError: A key is missing, unknown or of another type.
        """
        code = build_typed(Code, content.get("code"), "code")
        return build_typed(cls, {**content, "code": code}, "metadata")


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
        corrupted_result: The result of the same step of the corrupted question; empty if it has
            not as many steps with results.
    """

    result: str
    tokens: tuple[int, ...]
    ranks: list[list[int]]
    whole: list[int]
    chance_result: str = ""
    chance_ranks: list[list[int]] = field(default_factory=list)
    corrupted_result: str = ""


@dataclass(frozen=True)
class LensRecord:
    """A pair seen through the lens.

    Attributes:
        pair_id: The pair.
        question: Its clean question, whose run is read.
        steps: Its reasoning steps.
        top: The most probable tokens as text, best first, `(L, K, top)`.
        group: Pairs of one group share a question.
    """

    pair_id: str
    question: str
    steps: tuple[StepLens, ...]
    top: list[list[list[str]]]
    group: str = ""

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> LensRecord:
        """From `asdict`.

        Raises:
            TypeError: A key is missing or unknown.
        """
        steps = (StepLens(**{**s, "tokens": tuple(s["tokens"])}) for s in content["steps"])
        return cls(**{**content, "steps": tuple(steps)})


@dataclass(frozen=True)
class LensResults:
    """A folder of the lens, read.

    Attributes:
        run: What was run.
        records: In the file's order.
        changed: Measured files of the folder that are not as they were written.
        folder: Where they were read from; None for results made in memory.
    """

    run: LensRun
    records: tuple[LensRecord, ...]
    changed: tuple[str, ...] = ()
    folder: Path | None = field(default=None, compare=False)

    @property
    def pair_ids(self) -> tuple[str, ...]:
        """The pairs that could be read."""
        return tuple(record.pair_id for record in self.records)

    @property
    def shape(self) -> tuple[int, int]:
        """L, K."""
        return self.run.num_layers, self.run.num_latents

    def rates(self) -> HitRates | None:
        """How often results of steps are read; None if no pair could be."""
        return hit_rates(self.records, self.run.top) if self.records else None


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


def hits(records: Sequence[LensRecord], k: int) -> tuple[Array, Array]:
    """Whether each step's result is among the k most probable tokens, pair by pair.

    Returns:
        1 or 0 for the pair's own result and for another pair's, `(pairs, S, L, K)` each; NaN where
        the pair has no such step, or no other pair to compare with.

    Raises:
        ValueError: There are no records.
    """
    if not records:
        raise ValueError("expected at least one pair, got none")
    count = max(len(record.steps) for record in records)
    cells = np.shape(records[0].steps[0].ranks)
    own, chance = np.full((2, len(records), count, *cells), np.nan)
    for row, record in enumerate(records):
        for place, step in enumerate(record.steps):
            own[row, place] = np.array(step.ranks) < k
            if step.chance_ranks:
                chance[row, place] = np.array(step.chance_ranks) < k
    return own, chance


def hit_rates(records: Sequence[LensRecord], k: int) -> HitRates:
    """The maps of hit rates; NaN where no pair has the step, or none another to compare with.

    Raises:
        ValueError: There are no records.
    """
    own, chance = hits(records, k)
    pairs = [sum(len(record.steps) > step for record in records) for step in range(own.shape[1])]
    return HitRates(k, _mean(own), _mean(chance), pairs)


def _mean(values: Array) -> Array:
    """Over pairs, without NaN."""
    known = np.isfinite(values)
    with np.errstate(invalid="ignore"):
        return np.asarray(np.where(known, values, 0.0).sum(0) / known.sum(0))


def read_lens(folder: Path) -> LensResults:
    """Read the results of a folder.

    Raises:
        ResultsError: The file is missing, or not what it should be.
    """
    path = folder / LENS_RESULTS
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        run = LensRun.from_json(content["metadata"])
        records = tuple(LensRecord.from_json(pair) for pair in content["pairs"].values())
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        raise ResultsError(
            f"expected results of the lens in {path}, got {error}; run `codi-patching predict "
            "--config configs/lens.yaml` again, with --results.overwrite true"
        ) from None
    return LensResults(run, records, tuple(changed_files(folder)), folder)
