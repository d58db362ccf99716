"""Make a file of pairs that a model answers right, and only with its thoughts.

    python scripts/prepare_pairs.py --checkpoint codi-tiny --out codi_patching/data/pairs.json

Clean and corrupted question differ in one number. Most pairs have different answers; a few have
equal ones, because of whole-number division, for the filter to leave out.
"""

from __future__ import annotations

import argparse
import json
import sys
from pathlib import Path
from random import Random
from typing import Any

from tqdm import tqdm

from codi_patching.data.word_problems import Problem, is_held_out, sample_problem, twins
from codi_patching.models.accuracy import is_correct, latent_answers
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import load_checkpoint

_BATCH = 64


def draw_pair(rng: Random, equal: bool) -> tuple[Problem, Problem]:
    """A held-out problem and a held-out twin of it, with equal or different answers."""
    while True:
        clean = sample_problem(rng, held_out=True)
        if equal and clean.plot.steps[-1].operator != "/":
            continue
        fitting = [t for t in twins(clean) if (t.answer == clean.answer) == equal]
        fitting = [t for t in fitting if is_held_out(t)]
        if fitting:
            return clean, rng.choice(fitting)


def needs_thoughts(model: CodiModel, problems: list[Problem]) -> list[bool]:
    """Whether each problem is answered right, and wrong with zeroed thoughts."""
    questions = [problem.question for problem in problems]
    own, zeroed = (latent_answers(model, questions, source) for source in ("own", "zeroed"))
    return [
        is_correct(text, p.answer) and not is_correct(without, p.answer)
        for text, without, p in zip(own, zeroed, problems, strict=True)
    ]


def find_pairs(
    model: CodiModel, rng: Random, count: int, equal: bool
) -> list[tuple[Problem, Problem]]:
    """So many pairs, both of whose questions need their thoughts."""
    found: list[tuple[Problem, Problem]] = []
    with tqdm(total=count, desc="equal answers" if equal else "different answers") as bar:
        while len(found) < count:
            drawn = [draw_pair(rng, equal) for _ in range(_BATCH)]
            clean, corrupted = (
                needs_thoughts(model, list(side)) for side in zip(*drawn, strict=True)
            )
            good = [p for p, a, b in zip(drawn, clean, corrupted, strict=True) if a and b]
            found += good[: count - len(found)]
            bar.update(len(found) - bar.n)
    return found


def as_record(pair_id: str, clean: Problem, corrupted: Problem) -> dict[str, Any]:
    """A pair in the prepared form."""
    return {
        "pair_id": pair_id,
        **{
            variant: {
                "question": problem.question,
                "answer": problem.answer,
                "reasoning_steps": list(problem.reasoning_steps),
            }
            for variant, problem in (("clean", clean), ("corrupted", corrupted))
        },
    }


def main() -> None:
    """Write the file."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="codi-tiny", help="name or folder")
    parser.add_argument("--out", type=Path, required=True, help="file to write")
    parser.add_argument("--different", type=int, default=57, help="pairs with different answers")
    parser.add_argument("--equal", type=int, default=9, help="pairs with equal answers")
    parser.add_argument("--seed", type=int, default=1030)
    args = parser.parse_args()
    try:
        model, report = load_checkpoint(args.checkpoint)
    except ValueError as error:
        sys.exit(f"prepare_pairs: {error}")
    print(report)
    rng = Random(args.seed)
    pairs = find_pairs(model, rng, args.different, equal=False)
    pairs += find_pairs(model, rng, args.equal, equal=True)
    rng.shuffle(pairs)
    records = [as_record(f"pair_{i:02d}", *pair) for i, pair in enumerate(pairs)]
    args.out.write_text(json.dumps(records, indent=1) + "\n", encoding="utf-8")
    print(f"{len(records)} pairs in {args.out}, {args.equal} of them with equal answers")


if __name__ == "__main__":
    main()
