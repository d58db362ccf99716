"""Make a file of pairs that models answer right, and only with their thoughts.

    python scripts/draw_shipped_pairs.py --checkpoints codi-tiny --out pairs.json

Clean and corrupted question differ in one number; a third, the sibling, has yet another number in
the same place and another answer than both. How many steps a pair has, and in which of them the
changed number is used, follows `DIFFERENT`: a change in the last step changes no thought. A few
pairs have equal answers, because of whole-number division, for the filter to leave out.
"""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from codi_patching.data.word_problems import Problem, is_held_out, sample_problem, twins
from codi_patching.models.accuracy import is_correct, latent_answers
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import load_checkpoint

DIFFERENT = {
    (2, 1): 14, (2, 2): 5,
    (3, 1): 7, (3, 2): 8, (3, 3): 4,
    (4, 1): 6, (4, 2): 5, (4, 3): 5, (4, 4): 3,
}  # fmt: skip
"""Shares of pairs with different answers, by number of steps and changed step."""

EQUAL = {
    (2, 1): 2, (2, 2): 1,
    (3, 1): 1, (3, 2): 1, (3, 3): 1,
    (4, 1): 1, (4, 3): 1, (4, 4): 1,
}  # fmt: skip
"""Shares of pairs with equal answers, likewise."""

_MAX_CHANGE = 6
_BATCH = 32


@dataclass(frozen=True)
class Triple:
    """Three problems that differ in one number.

    Attributes:
        clean: The first.
        corrupted: Its twin.
        sibling: Another, whose answer differs from both.
        changed_step: The step (from 1) that the number is used in.
    """

    clean: Problem
    corrupted: Problem
    sibling: Problem
    changed_step: int

    @property
    def problems(self) -> tuple[Problem, Problem, Problem]:
        """All three."""
        return self.clean, self.corrupted, self.sibling


def changed_step(a: Problem, b: Problem) -> int:
    """The step (from 1) in which the number is used that two problems differ in."""
    (slot,) = (i for i, (x, y) in enumerate(zip(a.numbers, b.numbers, strict=True)) if x != y)
    return max(1, slot)


def draw_triple(rng: Random, num_steps: int, step: int, equal: bool) -> Triple:
    """Held-out problems of a number of steps that differ in a number of the given step."""
    while True:
        clean = sample_problem(rng, held_out=True, num_steps=(num_steps,))
        if equal and clean.plot.steps[-1].operator != "/":
            continue
        changed = [
            t
            for t in twins(clean, _MAX_CHANGE)
            if changed_step(clean, t) == step and is_held_out(t)
        ]
        fitting = [t for t in changed if (t.answer == clean.answer) == equal]
        if not fitting:
            continue
        corrupted = rng.choice(fitting)
        siblings = [
            t
            for t in changed
            if t.answer not in (clean.answer, corrupted.answer) and _same_place(clean, corrupted, t)
        ]
        if siblings:
            return Triple(clean, corrupted, rng.choice(siblings), step)


def _same_place(clean: Problem, corrupted: Problem, sibling: Problem) -> bool:
    """Whether both twins change the same number."""
    return all(
        len({a, b, c}) in (1, 3)
        for a, b, c in zip(clean.numbers, corrupted.numbers, sibling.numbers, strict=True)
    )


def needs_thoughts(model: CodiModel, problems: list[Problem]) -> list[bool]:
    """Whether each problem is answered right, and wrong with zeroed thoughts."""
    questions = [problem.question for problem in problems]
    own, zeroed = (latent_answers(model, questions, source) for source in ("own", "zeroed"))
    return [
        is_correct(text, p.answer) and not is_correct(without, p.answer)
        for text, without, p in zip(own, zeroed, problems, strict=True)
    ]


def spread(count: int, shares: dict[tuple[int, int], int]) -> dict[tuple[int, int], int]:
    """`count` in whole numbers as near to `shares` as can be; the largest remainders get one more.

    >>> spread(4, {(2, 1): 14, (2, 2): 5, (3, 1): 9})
    {(2, 1): 2, (2, 2): 1, (3, 1): 1}
    """
    exact = {kind: count * share / sum(shares.values()) for kind, share in shares.items()}
    whole = {kind: int(value) for kind, value in exact.items()}
    by_remainder = sorted(exact, key=lambda kind: whole[kind] - exact[kind])
    for kind in by_remainder[: count - sum(whole.values())]:
        whole[kind] += 1
    return whole


def needed_by_all(models: list[CodiModel], triples: list[Triple]) -> list[Triple]:
    """Those all of whose questions need the thoughts of every model."""
    for model in models:
        for side in range(3):
            if triples:
                needed = needs_thoughts(model, [triple.problems[side] for triple in triples])
                triples = [t for t, fine in zip(triples, needed, strict=True) if fine]
    return triples


def find_triples(
    models: list[CodiModel],
    rng: Random,
    wanted: dict[tuple[int, int], int],
    equal: bool,
    at_once: int,
) -> list[Triple]:
    """So many triples of each kind, all of whose questions need their thoughts."""
    found: list[Triple] = []
    with tqdm(total=sum(wanted.values()), desc="equal" if equal else "different") as bar:
        for (num_steps, step), count in wanted.items():
            good: list[Triple] = []
            while len(good) < count:
                missing = count - len(good)
                drawn = [
                    draw_triple(rng, num_steps, step, equal)
                    for _ in range(max(at_once, min(_BATCH, missing)))
                ]
                new = needed_by_all(models, drawn)[:missing]
                good += new
                bar.update(len(new))
            found += good
    return found


def as_record(pair_id: str, triple: Triple) -> dict[str, Any]:
    """A pair in the prepared form."""
    return {
        "pair_id": pair_id,
        **{
            variant: {
                "question": problem.question,
                "answer": problem.answer,
                "reasoning_steps": list(problem.reasoning_steps),
            }
            for variant, problem in zip(
                ("clean", "corrupted", "sibling"), triple.problems, strict=True
            )
        },
        "changed_step": triple.changed_step,
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument(
        "--checkpoints", nargs="+", default=["codi-tiny"],
        help="names or folders; what most of them cannot answer is found fastest if it is first",
    )  # fmt: skip
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--different", type=int, default=57, help="pairs with different answers")
    parser.add_argument("--equal", type=int, default=9, help="pairs with equal answers")
    parser.add_argument("--seed", type=int, default=1030)
    parser.add_argument(
        "--at_once", type=int, default=1,
        help="triples tried together at least: many where a model answers few right",
    )  # fmt: skip
    args = parser.parse_args()
    try:
        models = [load_checkpoint(checkpoint)[0] for checkpoint in args.checkpoints]
    except ValueError as error:
        sys.exit(f"draw_shipped_pairs: {error}")
    rng = Random(args.seed)
    different, equal = spread(args.different, DIFFERENT), spread(args.equal, EQUAL)
    triples = find_triples(models, rng, different, False, args.at_once)
    triples += find_triples(models, rng, equal, True, args.at_once)
    rng.shuffle(triples)
    records = [as_record(f"pair_{i:02d}", triple) for i, triple in enumerate(triples)]
    args.out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    print(f"{len(records)} pairs in {args.out}, {args.equal} of them with equal answers")


if __name__ == "__main__":
    main()
