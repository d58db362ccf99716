"""Word problems as tensors, each with several chains of thoughts of which most are counterfactual.

A *chain* says what every thought carries. The first chain of a problem is its own: the results of
its steps as in `codi_patching.data.known_thoughts`. In the others some results are replaced by
numbers drawn at random, and whatever follows is computed from these with the problem's remaining
operations:

    question   Tom has 16 pears. He eats 3. He buys 4. Each costs 2 dollars. ..     (four steps)
    own        thoughts  13  13  17  17  34 ..
    another    thoughts  13  30  34  34 ..      30 drawn; 30 + 4 = 34 is what the next must say

So a thought is the cause of what comes after it, and the question tells the operations only.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

import lightning.pytorch as pl
import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset
from transformers import PreTrainedTokenizerFast

from codi_patching.data.known_thoughts import carried_step, makes_result
from codi_patching.data.word_problems import (
    MAX_VALUE,
    Problem,
    apply_operator,
    sample_problem,
    vocabulary,
)
from codi_patching.errors import whole_number
from codi_patching.training.codi_tiny import IDLE, build_tokenizer

IGNORE = -100
"""Target that no loss looks at."""

_CALCULATIONS = 8


@dataclass
class Chain:
    """One course of thoughts through a problem.

    Attributes:
        thoughts: What each thought is made to carry; None if idle.
        said: What each thought should be, given the ones before; differs where a number was drawn.
        answer: What follows from the last thought that is not idle.
    """

    thoughts: list[int | None]
    said: list[int | None]
    answer: int


def draw_chain(rng: Random, problem: Problem, num_latents: int, replaced: float) -> Chain:
    """A chain in which each result gives way to a drawn number with probability `replaced`."""
    steps = len(problem.values)
    running = problem.numbers[0]
    chain = Chain([], [], problem.answer)
    for position in range(num_latents):
        step = carried_step(position, steps)
        if step is None:
            chain.thoughts.append(None)
            chain.said.append(None)
            continue
        if makes_result(position):
            operator, number = problem.plot.steps[step - 1].operator, problem.numbers[step]
            running = apply_operator(operator, running, number)
        chain.said.append(running)
        if rng.random() < replaced:
            fitting = [
                v for v in range(MAX_VALUE + 1) if problem.continue_from(step, v) is not None
            ]
            running = rng.choice(fitting)
        chain.thoughts.append(running)
    last = problem.plot.steps[-1]
    chain.answer = apply_operator(last.operator, running, problem.numbers[-1])
    return chain


@dataclass
class Batch:
    """Problems as tensors; rows are problems, chains side by side.

    Attributes:
        questions: The problems' texts.
        results: Their answers.
        prompts: Token ids `(rows, prompt)`, padded on the left; the last column is bot.
        real: `(rows, prompt)`, 0 at padding.
        last_thought: `(rows,)`, the last position that is not idle.
        made: `(rows, K)`, true where a thought is the first with its result.
        thoughts: Tokens whose codes are fed as thoughts `(rows, chains, K)`.
        said: Tokens that thoughts should be `(rows, chains, K)`.
        answers: Answer tokens `(rows, chains)`.
        reasoning: For the first rows, what the teacher writes, eos included `(some, length)`,
            padded on the right with `IGNORE`.
        calculations: Bare calculations `(lines, length)`, for learning to calculate.
    """

    questions: list[str]
    results: list[int]
    prompts: Tensor
    real: Tensor
    last_thought: Tensor
    made: Tensor
    thoughts: Tensor
    said: Tensor
    answers: Tensor
    reasoning: Tensor
    calculations: Tensor


class WordProblems(Dataset[Problem]):
    """Problems drawn from a seed: item i is always the same problem."""

    def __init__(self, size: int, seed: int, held_out: bool) -> None:
        self.size, self.seed, self.held_out = size, seed, held_out

    def __len__(self) -> int:
        """Number of problems."""
        return self.size

    def __getitem__(self, index: int) -> Problem:
        """The problem."""
        return sample_problem(Random(f"{self.seed}/{index}"), self.held_out)


class Collator:
    """Makes a batch of problems; chains are drawn from a seed of the problem's text.

    Args:
        tokenizer: The model's.
        num_latents: K.
        chains: Chains a problem, its own included.
        replaced: Probability that a result of a chain that is not the own is drawn.
        teacher_fraction: Fraction of rows that the teacher learns from.
    """

    def __init__(
        self,
        tokenizer: PreTrainedTokenizerFast,
        num_latents: int,
        chains: int,
        replaced: float,
        teacher_fraction: float,
    ) -> None:
        self.num_latents, self.chains, self.replaced = num_latents, chains, replaced
        self.teacher_fraction = teacher_fraction
        self.ids: Callable[[str], list[int]] = lambda text: list(
            tokenizer(text, add_special_tokens=False)["input_ids"]
        )
        vocabulary = tokenizer.get_vocab()
        self.number_ids = [vocabulary[str(n)] for n in range(MAX_VALUE + 1)]
        self.idle_id = vocabulary[IDLE]
        self.bos_id, self.eos_id, self.bot_id = (vocabulary[t] for t in ("<bos>", "<eos>", "<bot>"))

    def __call__(self, problems: Sequence[Problem]) -> Batch:
        """The batch."""
        questions = [[self.bos_id, *self.ids(p.question), self.bot_id] for p in problems]
        longest = max(map(len, questions))
        chains = [self._chains(problem) for problem in problems]
        last = [
            max(p for p in range(self.num_latents) if row[0].thoughts[p] is not None)
            for row in chains
        ]
        some = max(1, round(self.teacher_fraction * len(problems)))
        return Batch(
            questions=[problem.question for problem in problems],
            results=[problem.answer for problem in problems],
            prompts=torch.tensor([[self.eos_id] * (longest - len(q)) + q for q in questions]),
            real=torch.tensor([[0] * (longest - len(q)) + [1] * len(q) for q in questions]),
            last_thought=torch.tensor(last),
            made=torch.tensor(
                [[p <= end and makes_result(p) for p in range(self.num_latents)] for end in last]
            ),
            thoughts=self._tokens([[chain.thoughts for chain in row] for row in chains]),
            said=self._tokens([[chain.said for chain in row] for row in chains]),
            answers=torch.tensor([[self.number_ids[c.answer] for c in row] for row in chains]),
            reasoning=pad_right([self._reasoning(p) for p in problems[:some]], IGNORE),
            calculations=self._calculations(problems),
        )

    def _chains(self, problem: Problem) -> list[Chain]:
        rng = Random(problem.question)
        return [
            draw_chain(rng, problem, self.num_latents, self.replaced if chain else 0.0)
            for chain in range(self.chains)
        ]

    def _tokens(self, values: list[list[list[int | None]]]) -> Tensor:
        def token(value: int | None) -> int:
            return self.idle_id if value is None else self.number_ids[value]

        return torch.tensor([[[token(v) for v in chain] for chain in row] for row in values])

    def _reasoning(self, problem: Problem) -> list[int]:
        steps = " ".join(problem.reasoning_steps[:-1])
        return [*self.ids(f"{steps} The answer is: {problem.answer}"), self.eos_id]

    def _calculations(self, problems: Sequence[Problem]) -> Tensor:
        """All steps of the problems, a few a line."""
        steps = [step for problem in problems for step in problem.reasoning_steps]
        lines = [steps[i : i + _CALCULATIONS] for i in range(0, len(steps), _CALCULATIONS)]
        return pad_right([[self.bos_id, *self.ids(" ".join(line))] for line in lines], self.eos_id)


class WordProblemsDataModule(pl.LightningDataModule):
    """Fresh word problems every epoch, and a fixed set of held-out ones.

    Args:
        batch_size: Problems a step.
        steps_per_epoch: Steps an epoch.
        held_out: Problems for validation, of the part that training never sees.
        num_latents: K.
        chains: Chains of thoughts a problem, its own included.
        replaced: Probability that a result of a chain that is not the own is drawn.
        teacher_fraction: Fraction of the problems that the teacher learns from.
        seed: Of all problems; epoch e draws from seed + 1 + e.
    """

    def __init__(
        self,
        batch_size: int = 48,
        steps_per_epoch: int = 100,
        held_out: int = 256,
        num_latents: int = 5,
        chains: int = 4,
        replaced: float = 0.5,
        teacher_fraction: float = 1.0,
        seed: int = 0,
    ) -> None:
        super().__init__()
        self.batch_size = whole_number(batch_size, "data.batch_size", 1)
        self.held_out, self.seed = whole_number(held_out, "data.held_out", 1), seed
        whole_number(steps_per_epoch, "data.steps_per_epoch", 1)
        self.steps_per_epoch = steps_per_epoch
        self.collate = Collator(
            build_tokenizer(vocabulary()), num_latents, chains, replaced, teacher_fraction
        )

    def train_dataloader(self) -> DataLoader[Problem]:
        """Problems of the current epoch; the trainer asks anew at each."""
        epoch = self.trainer.current_epoch if self.trainer else 0
        problems = WordProblems(
            self.batch_size * self.steps_per_epoch, self.seed + 1 + epoch, held_out=False
        )
        return DataLoader(problems, self.batch_size, collate_fn=self.collate)

    def val_dataloader(self) -> DataLoader[Problem]:
        """The held-out problems, as one batch."""
        problems = WordProblems(self.held_out, self.seed, held_out=True)
        return DataLoader(problems, self.held_out, collate_fn=self.collate)


def pad_right(sequences: list[list[int]], value: int) -> Tensor:
    """Sequences as a tensor `(rows, longest)`, filled up with `value`."""
    longest = max(map(len, sequences))
    return torch.tensor([s + [value] * (longest - len(s)) for s in sequences])
