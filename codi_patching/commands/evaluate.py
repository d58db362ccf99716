"""`evaluate`: how often a model answers right, with its own thoughts and with others.

    codi-patching evaluate --checkpoint zen-E/CODI-gpt2 --data gsm8k_test.jsonl --output run.jsonl

A model that reasons in its thoughts loses its accuracy without them (zeroed), and with those of
another question (exchanged: the next shorter one; the shortest gets those of the longest). Without
`--data`, word problems are drawn that training never saw. With `--output`, predictions are written
as they are made, longest question first, a line for each, and a second start resumes there; in the
end they stand in the order of the data, and a summary lies beside them.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Sequence
from dataclasses import asdict
from itertools import chain
from random import Random
from typing import Any

from scipy.stats import binomtest

from codi_patching.callbacks.counting import Counting
from codi_patching.commands.journal import Journal
from codi_patching.commands.known_thoughts import (
    describe_lengths,
    describe_thoughts,
    has_known_thoughts,
)
from codi_patching.commands.model_options import add_model_arguments, load_model
from codi_patching.commands.one_line import OneLineArgumentParser, path
from codi_patching.commands.published_accuracy import compare_with_published
from codi_patching.data.chained_questions import read_chained_questions
from codi_patching.data.json_lines import in_short
from codi_patching.data.pair_files import read_questions
from codi_patching.data.pairs import Question
from codi_patching.data.word_problems import Problem, sample_problem
from codi_patching.errors import InputError, plain_text
from codi_patching.models.accuracy import (
    answers_by_thoughts,
    is_correct,
    reasoned_answers,
    reasons_in_words,
    why_not_asked,
)
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import LoadReport, file_sha256
from codi_patching.models.vocabulary import unknown_words
from codi_patching.results.folder import check_writable

_LABELS = {
    "own": "own thoughts",
    "zeroed": "thoughts zeroed",
    "exchanged": "thoughts exchanged",
    "words": "in words, as the teacher",
}
_ANSWER_TOKENS = 16
_WORDS_TOKENS = 256


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument("--data", type=path, help="questions and answers: GSM8K, JSON or JSONL")
    parser.add_argument("--max_questions", type=int, help="only the first so many of them")
    parser.add_argument("--problems", type=int, default=2000, help="held-out problems without data")
    parser.add_argument("--seed", type=int, default=2502, help="of the held-out problems")
    parser.add_argument("--output", type=path, help="file of predictions (JSONL), to go on from")
    parser.add_argument("--no_words", action="store_true", help="leave the teacher's answers out")
    add_model_arguments(parser, "codi-tiny")


def run(args: argparse.Namespace | Sequence[str]) -> int:
    """Evaluate a model; options parsed, or as they stand on the command line.

    Returns:
        The exit status.
    """
    if not isinstance(args, argparse.Namespace):
        parser = OneLineArgumentParser("codi-patching evaluate", description=__doc__)
        add_arguments(parser)
        args = parser.parse_args(args)
    questions = _questions(args)
    if args.output:
        check_writable(args.output.parent, "[[output]]")
    model, report = load_model(args)
    print(report, file=sys.stderr)
    journal = _journal(args, report, model) if args.output else None
    words = reasons_in_words(model) and not args.no_words
    records = evaluate(model, questions, args.batch_size, journal, words)
    summary = _summary(args, model, report, records)
    print("\n".join(describe(summary)))
    if args.data is None:
        held_out = _held_out(args)
        problems = [held_out[record["index"]] for record in records]
        print("\n".join(describe_lengths(problems, records)))
        if has_known_thoughts(model):
            print("\n".join(describe_thoughts(model, problems, args.seed, args.batch_size)))
    print(
        "\n".join(compare_with_published(model, report, summary["accuracy"]["own"], len(records)))
    )
    if journal is not None:
        journal.describe(summary)
        print(f"predictions in {journal.lines}, summary in {journal.description}")
    return 0


def evaluate(
    model: CodiModel,
    questions: Sequence[Question],
    batch_size: int,
    journal: Journal | None = None,
    words: bool = True,
) -> list[dict[str, Any]]:
    """Answer questions in every way, going on after those of the journal.

    Args:
        model: That answers.
        questions: At least 2.
        batch_size: So many at a time, and the donor of the last beside them; answers do not
            depend on it.
        journal: Where records are written down as they are made.
        words: Whether the model also answers as its teacher, who writes the reasoning out.

    Returns:
        A record for each question that can be asked: the text of each answer, and whether it is
        right. The others are named on stderr.
    """
    order = _askable(model, questions)
    records = list(journal.done) if journal else []
    if {record["index"] for record in records} != set(order[: len(records)]):
        raise InputError(
            "expected --output to name a file begun with the same tokenizer, got one whose "
            "questions are in another order: remove it, or set --output to another file"
        )
    starts = range(len(records), len(order), batch_size)
    with Counting(len(order), "questions") as count:
        count.reach(len(records))
        for start in starts:
            batch = [_record(i, questions[i]) for i in order[start : start + batch_size]]
            asked = [record["question"] for record in batch]
            donor = questions[order[(start + len(batch)) % len(order)]].text
            answers = answers_by_thoughts(model, [*asked, donor], _ANSWER_TOKENS)
            if words:
                answers["words"] = reasoned_answers(model, asked, _WORDS_TOKENS)
            for name, texts in answers.items():
                for record, text in zip(batch, texts, strict=True):
                    record["predictions"][name] = text
                    record["correct"][name] = is_correct(text, record["answer"])
            if journal is not None:
                journal.append(batch)
            records += batch
            count.reach(len(records))
    records.sort(key=lambda record: record["index"])
    if journal is not None:
        journal.rewrite(records)
    return records


def _askable(model: CodiModel, questions: Sequence[Question]) -> list[int]:
    """The questions that fit the model, in the order in which they are answered: longest first.

    Batches then need little padding, and if memory does not suffice, the first one shows it.
    """
    reasons = [why_not_asked(model, question.text, _ANSWER_TOKENS) for question in questions]
    left_out = [f"question {i}: {reason}" for i, reason in enumerate(reasons) if reason]
    if left_out:
        print(f"{len(left_out)} questions left out: {in_short(left_out)}", file=sys.stderr)
    order = [index for index, reason in enumerate(reasons) if reason is None]
    _say_unknown(model, [questions[index].text for index in order])
    if len(order) < 2:
        raise InputError("expected at least 2 questions that fit the model: set [[data]]")
    lengths = {index: len(model.question_ids(questions[index].text)) for index in order}
    return sorted(order, key=lambda index: (-lengths[index], index))


def _say_unknown(model: CodiModel, texts: Sequence[str]) -> None:
    """Name words that the model reads but never learned."""
    found = [words for text in texts if (words := unknown_words(model.tokenizer, text))]
    if found:
        names = plain_text(in_short(list(dict.fromkeys(chain(*found))), between=", "))
        print(
            f"{len(found)} questions have words that the tokenizer does not know: {names}",
            file=sys.stderr,
        )


def _record(index: int, question: Question) -> dict[str, Any]:
    return {
        "index": index,
        "question": question.text,
        "answer": question.answer,
        "predictions": {},
        "correct": {},
    }


def _held_out(args: argparse.Namespace) -> list[Problem]:
    """Problems that training never saw."""
    rng = Random(args.seed)
    return [sample_problem(rng, held_out=True) for _ in range(args.problems)]


def _questions(args: argparse.Namespace) -> list[Question]:
    """What is asked: a file's questions, or fresh held-out problems."""
    if args.max_questions is not None and args.max_questions < 1:
        raise InputError(f"expected --max_questions to be 1 or more, got {args.max_questions}")
    if args.data is None:
        found = [Question(problem.question, problem.answer) for problem in _held_out(args)]
    elif args.data.suffix == ".txt":
        chained = read_chained_questions(args.data, "data")
        found = [Question(question.text, float(question.answer)) for question in chained]
    else:
        found = read_questions(args.data, "data")
    found = found[: args.max_questions]
    if len(found) < 2:
        raise InputError(
            f"expected at least 2 questions, to exchange thoughts between, got {len(found)}: set "
            "--data, --problems or --max_questions"
        )
    return found


def _journal(args: argparse.Namespace, report: LoadReport, model: CodiModel) -> Journal:
    depends_on = {
        "checkpoint_sha256": report.sha256,
        "base_model": report.base_model,
        "lora_alpha": report.lora_alpha,
        **asdict(model.settings),
        "precision": args.precision,
        "data": file_sha256(args.data) if args.data else [args.problems, args.seed],
        "max_questions": args.max_questions,
        "order": "longest first",
        "no_words": args.no_words,
    }
    return Journal(args.output, args.output.with_suffix(".summary.json"), depends_on, "--output")


def _summary(
    args: argparse.Namespace, model: CodiModel, report: LoadReport, records: list[dict[str, Any]]
) -> dict[str, Any]:
    """Fractions of right answers, and what was evaluated."""
    right = {name: sum(r["correct"][name] for r in records) for name in records[0]["correct"]}
    return {
        "checkpoint": report.source,
        "data": str(args.data) if args.data else f"held-out problems of seed {args.seed}",
        "questions": len(records),
        "num_latents": model.num_latents,
        "device": str(model.device),
        "precision": args.precision,
        "accuracy": {name: count / len(records) for name, count in right.items()},
    }


def describe(summary: dict[str, Any]) -> list[str]:
    """The summary's lines for the console."""
    count, accuracy = summary["questions"], summary["accuracy"]
    right = binomtest(round(accuracy["own"] * count), count)
    low, high = right.proportion_ci(method="wilson")
    lines = [
        f"{summary['checkpoint']} on {count:,} questions, {summary['data']}; {summary['device']}, "
        f"{summary['precision']}; {summary['num_latents']} thoughts"
    ]
    for name, label in _LABELS.items():
        if name in accuracy:
            extra = f"  (95 % interval {low:.1%} to {high:.1%})" if name == "own" else ""
            lines.append(f"{label:<26}{accuracy[name]:>8.2%}{extra}")
    numbers = [
        f"{number}: {accuracy[f'thoughts_{number}']:.1%}"
        for number in range(summary["num_latents"] + 1)
    ]
    lines.append(f"{'by number of thoughts':<26}{'  '.join(numbers)}")
    return lines
