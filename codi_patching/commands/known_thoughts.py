"""What each thought of a model with known thoughts says, and what an exchange of it does."""

from __future__ import annotations

from collections.abc import Sequence
from random import Random
from typing import Any

from codi_patching.data.known_thoughts import carried_step, interchanges
from codi_patching.data.word_problems import NUM_STEPS, Problem, twins
from codi_patching.models.codi import CodiModel
from codi_patching.models.interchange import Rate, interchange_accuracy
from codi_patching.models.thought_lens import spoken_thoughts
from codi_patching.training.codi_tiny import IDLE

Rates = dict[tuple[int, int], Rate]
"""By number of steps and thought."""


def has_known_thoughts(model: CodiModel) -> bool:
    """Whether a model has the tokens of codi-tiny, whose thoughts carry results in known places."""
    return IDLE in model.tokenizer.get_vocab()


def lens_accuracy(model: CodiModel, problems: Sequence[Problem], batch_size: int) -> Rates:
    """How often thoughts say what they should carry."""
    hits: dict[tuple[int, int], list[bool]] = {}
    for start in range(0, len(problems), batch_size):
        batch = problems[start : start + batch_size]
        spoken = spoken_thoughts(model, [problem.question for problem in batch])
        for problem, row in zip(batch, spoken, strict=True):
            count = len(problem.values)
            for position, said in enumerate(row):
                step = carried_step(position, count)
                expected = IDLE if step is None else str(problem.values[step - 1])
                hits.setdefault((count, position), []).append(said == expected)
    return {key: Rate(sum(group), len(group)) for key, group in sorted(hits.items())}


def twin_interchanges(
    model: CodiModel, problems: Sequence[Problem], seed: int, batch_size: int
) -> Rates:
    """Interchange accuracy with a random twin of each problem."""
    rng = Random(seed)
    changes = [
        change
        for problem in problems
        if (others := twins(problem))
        for change in interchanges(problem, rng.choice(others), model.num_latents)
    ]
    return interchange_accuracy(model, changes, batch_size)


def describe_thoughts(
    model: CodiModel, problems: Sequence[Problem], seed: int, batch_size: int
) -> list[str]:
    """A line for each number of steps and thought: what it carries, the lens, the interchange."""
    said = lens_accuracy(model, problems, batch_size)
    changed = twin_interchanges(model, problems, seed, batch_size)
    lines = [
        "held against what the thoughts of codi-tiny carry:",
        f"{'steps':<7}{'thought':<9}{'carries':<9}{'lens':>8}{'interchange':>13}{'of':>7}",
    ]
    for (num_steps, position), rate in said.items():
        step = carried_step(position, num_steps)
        carries = "idle" if step is None else f"step {step}"
        effect = changed.get((num_steps, position))
        end = f"{effect.accuracy:>13.2%}{effect.count:>7}" if effect else f"{'-':>13}"
        lines.append(f"{num_steps:<7}z_{position:<7}{carries:<9}{rate.accuracy:>8.2%}{end}")
    return lines


def describe_lengths(problems: Sequence[Problem], records: Sequence[dict[str, Any]]) -> list[str]:
    """Accuracies by number of steps."""
    lines = [f"{'':<26}" + "".join(f"{n} steps".rjust(9) for n in NUM_STEPS)]
    for name in ("own", "zeroed", "exchanged", "words"):
        if name not in records[0]["correct"]:
            continue
        line = f"{name:<26}"
        for count in NUM_STEPS:
            some = [
                record["correct"][name]
                for record, problem in zip(records, problems)
                if len(problem.values) == count
            ]
            line += f"{sum(some) / len(some):>9.2%}" if some else f"{'-':>9}"
        lines.append(line)
    return lines
