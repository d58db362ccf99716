"""How often a model answers right with its own, zeroed and exchanged thoughts, and in words.

    python scripts/evaluate_codi.py --checkpoint codi-tiny --problems 2000
    python scripts/evaluate_codi.py --checkpoint pytorch_model.bin --base_model FOLDER --data F

A model that reasons in its thoughts loses its accuracy without them. The problems are held out:
training never sees their texts. A data file has a question and an answer a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable
from pathlib import Path
from random import Random

from tqdm import tqdm

from codi_patching.data.pairs import Question, read_questions
from codi_patching.data.word_problems import sample_problem
from codi_patching.models.accuracy import is_correct, latent_answers, reasoned_answers
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import load_checkpoint

MODES: dict[str, Callable[[CodiModel, list[str]], list[str]]] = {
    "own thoughts": lambda model, questions: latent_answers(model, questions, "own"),
    "thoughts zeroed": lambda model, questions: latent_answers(model, questions, "zeroed"),
    "thoughts exchanged": lambda model, questions: latent_answers(model, questions, "exchanged"),
    "teacher, in words": reasoned_answers,
}


def accuracies(model: CodiModel, problems: list[Question], batch_size: int) -> dict[str, float]:
    """Fraction of right answers in each of `MODES`."""
    right = dict.fromkeys(MODES, 0)
    for start in tqdm(range(0, len(problems), batch_size), desc="batches of problems"):
        batch = problems[start : start + batch_size]
        questions = [problem.text for problem in batch]
        for mode, answer in MODES.items():
            texts = answer(model, questions)
            right[mode] += sum(is_correct(t, p.answer) for t, p in zip(texts, batch, strict=True))
    return {mode: count / len(problems) for mode, count in right.items()}


def fresh(count: int, seed: int) -> list[Question]:
    """Held-out problems."""
    rng = Random(seed)
    problems = [sample_problem(rng, held_out=True) for _ in range(count)]
    return [Question(problem.question, problem.answer) for problem in problems]


def main() -> None:
    """Print the accuracies."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="codi-tiny", help="name, folder or file")
    parser.add_argument("--base_model", help="id or folder, for the published layout")
    parser.add_argument("--num_latents", type=int, help="K, if other than the checkpoint's")
    parser.add_argument("--lora_alpha", type=float, help="if the checkpoint has no record of it")
    parser.add_argument("--prompt_eos", action="store_true", help="prompts end with eos and bot")
    parser.add_argument("--data", type=Path, help="questions and answers, in place of fresh ones")
    parser.add_argument("--problems", type=int, default=2000, help="number of fresh problems")
    parser.add_argument("--batch_size", type=int, default=100)
    parser.add_argument("--seed", type=int, default=2502, help="of the problems")
    args = parser.parse_args()
    try:
        model, report = load_checkpoint(
            args.checkpoint, args.num_latents, args.base_model, args.lora_alpha, args.prompt_eos
        )
        problems = read_questions(args.data) if args.data else fresh(args.problems, args.seed)
    except ValueError as error:
        sys.exit(f"evaluate_codi: {error}")
    if len(problems) < 2 or args.batch_size < 2 or len(problems) % args.batch_size == 1:
        parser.error("expected at least 2 problems in every batch, to exchange thoughts between")
    print(report)
    source = args.data or f"held-out problems of seed {args.seed}"
    print(f"{len(problems)} questions, {source}")
    for mode, accuracy in accuracies(model, problems, args.batch_size).items():
        print(f"{mode:<20}{accuracy:>8.2%}")


if __name__ == "__main__":
    main()
