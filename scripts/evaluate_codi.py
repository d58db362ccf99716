"""How often a model answers right, with which thoughts, and what its thoughts carry.

    python scripts/evaluate_codi.py --checkpoint codi-tiny --problems 2000
    python scripts/evaluate_codi.py --checkpoint pytorch_model.bin --base_model FOLDER --data F

A model that reasons in its thoughts loses its accuracy without them. Fresh problems are held out:
training never sees their texts; on these, accuracy is told by number of steps, and for each thought
how often it says the result that it should carry and how often an interchange with a twin's gives
the counterfactual answer (idle thoughts: says that it is idle, leaves the answer unchanged). A data
file has a question and an answer a line.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Sequence
from pathlib import Path
from random import Random

from tqdm import tqdm

from codi_patching.data.known_thoughts import carried_step, interchanges
from codi_patching.data.pairs import Question, read_questions
from codi_patching.data.word_problems import NUM_STEPS, Problem, sample_problem, twins
from codi_patching.models.accuracy import is_correct, latent_answers, reasoned_answers
from codi_patching.models.codi import CodiModel
from codi_patching.models.interchange import Rate, interchange_accuracy
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.models.thought_lens import spoken_thoughts
from codi_patching.training.codi_tiny import IDLE

MODES: dict[str, Callable[[CodiModel, list[str]], list[str]]] = {
    "own thoughts": lambda model, questions: latent_answers(model, questions, "own"),
    "thoughts zeroed": lambda model, questions: latent_answers(model, questions, "zeroed"),
    "thoughts exchanged": lambda model, questions: latent_answers(model, questions, "exchanged"),
    "teacher, in words": reasoned_answers,
}


def right_answers(
    model: CodiModel, problems: Sequence[Question], batch_size: int
) -> dict[str, list[bool]]:
    """Whether each problem is answered right in each of `MODES`."""
    right: dict[str, list[bool]] = {mode: [] for mode in MODES}
    for start in tqdm(range(0, len(problems), batch_size), desc="batches of problems"):
        batch = problems[start : start + batch_size]
        questions = [problem.text for problem in batch]
        for mode, answer in MODES.items():
            texts = answer(model, questions)
            right[mode] += [is_correct(t, p.answer) for t, p in zip(texts, batch, strict=True)]
    return right


def fresh(count: int, seed: int) -> list[Problem]:
    """Held-out problems."""
    rng = Random(seed)
    return [sample_problem(rng, held_out=True) for _ in range(count)]


def lens_accuracy(
    model: CodiModel, problems: Sequence[Problem], batch_size: int
) -> dict[tuple[int, int], Rate]:
    """How often thoughts say what they should carry, by number of steps and position."""
    hits: dict[tuple[int, int], list[bool]] = {}
    for start in range(0, len(problems), batch_size):
        batch = problems[start : start + batch_size]
        for problem, row in zip(
            batch, spoken_thoughts(model, [p.question for p in batch]), strict=True
        ):
            count = len(problem.values)
            for position, said in enumerate(row):
                step = carried_step(position, count)
                expected = IDLE if step is None else str(problem.values[step - 1])
                hits.setdefault((count, position), []).append(said == expected)
    return {key: Rate(sum(group), len(group)) for key, group in sorted(hits.items())}


def twin_interchanges(
    model: CodiModel, problems: Sequence[Problem], seed: int, batch_size: int
) -> dict[tuple[int, int], Rate]:
    """Interchange accuracy with a random twin of each problem."""
    rng = Random(seed)
    changes = [
        change
        for problem in problems
        if (others := twins(problem))
        for change in interchanges(problem, rng.choice(others), model.num_latents)
    ]
    return interchange_accuracy(model, changes, batch_size)


def print_accuracies(right: dict[str, list[bool]], lengths: Sequence[int] | None) -> None:
    """One line a mode; by number of steps where that is known."""
    columns = NUM_STEPS if lengths else ()
    print(f"{'':<20}{'all':>8}", *(f"{n} steps".rjust(9) for n in columns), sep="")
    for mode, hits in right.items():
        line = f"{mode:<20}{sum(hits) / len(hits):>8.2%}"
        for n in columns:
            some = [hit for hit, length in zip(hits, lengths or (), strict=True) if length == n]
            line += f"{sum(some) / len(some):>9.2%}" if some else f"{'-':>9}"
        print(line)


def print_thoughts(lens: dict[tuple[int, int], Rate], changes: dict[tuple[int, int], Rate]) -> None:
    """One line a number of steps and thought."""
    print(f"{'steps':<7}{'thought':<9}{'carries':<9}{'lens':>8}{'interchange':>13}{'of':>7}")
    for (num_steps, position), said in lens.items():
        step = carried_step(position, num_steps)
        carries = "idle" if step is None else f"step {step}"
        change = changes.get((num_steps, position))
        effect = f"{change.accuracy:>13.2%}{change.count:>7}" if change else f"{'-':>13}"
        print(f"{num_steps:<7}z_{position:<7}{carries:<9}{said.accuracy:>8.2%}{effect}")


def main() -> None:
    """Print the figures."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--checkpoint", default="codi-tiny", help="name, folder or file")
    parser.add_argument("--base_model", help="id or folder, for the published layout")
    parser.add_argument("--num_latents", type=int, help="K, if other than the checkpoint's")
    parser.add_argument("--lora_alpha", type=float, help="if the checkpoint has no record of it")
    parser.add_argument("--prompt_eos", action="store_true", help="prompts end with eos and bot")
    parser.add_argument("--data", type=Path, help="questions and answers, in place of fresh ones")
    parser.add_argument("--problems", type=int, default=2000, help="number of fresh problems")
    parser.add_argument("--batch_size", type=int, default=200)
    parser.add_argument("--seed", type=int, default=2502, help="of the problems")
    args = parser.parse_args()
    try:
        model, report = load_checkpoint(
            args.checkpoint, args.num_latents, args.base_model, args.lora_alpha, args.prompt_eos
        )
        problems = [] if args.data else fresh(args.problems, args.seed)
        questions = (
            read_questions(args.data)
            if args.data
            else [Question(problem.question, problem.answer) for problem in problems]
        )
    except ValueError as error:
        sys.exit(f"evaluate_codi: {error}")
    if len(questions) < 2 or args.batch_size < 2 or len(questions) % args.batch_size == 1:
        parser.error("expected at least 2 problems in every batch, to exchange thoughts between")
    print(report)
    source = args.data or f"held-out problems of seed {args.seed}"
    print(f"{len(questions)} questions, {source}")
    right = right_answers(model, questions, args.batch_size)
    print_accuracies(right, [len(p.values) for p in problems] or None)
    if problems and IDLE in model.tokenizer.get_vocab():
        print_thoughts(
            lens_accuracy(model, problems, args.batch_size),
            twin_interchanges(model, problems, args.seed, args.batch_size),
        )


if __name__ == "__main__":
    main()
