"""`pairs`: question pairs for any model, from questions with calculation chains.

    codi-patching pairs --questions gsm8k.jsonl --output pairs.json --checkpoint zen-E/CODI-gpt2

One number of a question is changed and its calculation done again; where that could go wrong,
the question is left out, with a reason. With a checkpoint, both questions of a pair must be
answered right; `--needs_thoughts` asks for a wrong answer with zeroed thoughts too. What a model
answered is written down as it goes, and a second start resumes there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from random import Random

from codi_patching.callbacks.counting import Counting, counted
from codi_patching.commands.journal import Journal
from codi_patching.commands.model_options import add_model_arguments, load_model
from codi_patching.commands.one_line import OneLineArgumentParser, path
from codi_patching.data.chained_questions import read_chained_questions
from codi_patching.data.donors import find_donors
from codi_patching.data.twin_pairs import Side, TwinPair, make_twin_pairs, yield_report
from codi_patching.errors import InputError
from codi_patching.models.accuracy import (
    ThoughtSource,
    is_correct,
    latent_answers,
    why_not_asked,
)
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import LoadReport, file_sha256
from codi_patching.results.folder import check_writable

KEPT, KEPT_ALONE = "kept", "kept without its sibling"
_WRONG = {"clean": "the question is answered wrong", "corrupted": "the twin is answered wrong"}
_ANSWER_TOKENS = 16
_UNNEEDED = "answered right without its thoughts too"


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add the command's options."""
    parser.add_argument(
        "--questions", type=path, required=True, help="GSM8K, as published or with chains"
    )
    parser.add_argument("--output", type=path, required=True, help="file of pairs: .json, .jsonl")
    parser.add_argument("--count", type=int, help="stop at so many pairs")
    parser.add_argument("--seed", type=int, default=0, help="which numbers change, and the order")
    parser.add_argument("--per_question", type=int, default=1, help="pairs of one question")
    parser.add_argument(
        "--needs_thoughts", action="store_true", help="only pairs that are wrong without thoughts"
    )
    parser.add_argument(
        "--donors",
        action="store_true",
        help="for interchange experiments: name for each pair two other questions whose thoughts "
        "can be put into its own, one with the same intermediate result where the changed number "
        "enters, one with another",
    )
    add_model_arguments(parser, None)


def run(args: argparse.Namespace | Sequence[str]) -> int:
    """Make a file of pairs; options parsed, or as they stand on the command line.

    Returns:
        The exit status.
    """
    if not isinstance(args, argparse.Namespace):
        parser = OneLineArgumentParser("codi-patching pairs", description=__doc__)
        add_arguments(parser)
        args = parser.parse_args(args)
    _check(args)
    questions = read_chained_questions(args.questions, "questions")
    pairs, reasons = make_twin_pairs(counted(questions, "questions"), args.seed, args.per_question)
    print("\n".join(yield_report(len(questions), pairs, reasons)))
    Random(args.seed).shuffle(pairs)
    pairs = pairs[: args.count] if args.checkpoint is None else _gate(pairs, args)
    if not pairs:
        raise InputError(f"no pair is left of {args.questions}: see the reasons above")
    _write(pairs, args)
    return 0


def _check(args: argparse.Namespace) -> None:
    if args.needs_thoughts and args.checkpoint is None:
        raise InputError("expected --checkpoint with --needs_thoughts: a model that has thoughts")
    if args.output.suffix not in (".json", ".jsonl"):
        raise InputError(f"expected --output to end in .json or .jsonl, got {args.output}")
    if args.output.exists() and not _verdicts(args).exists():
        raise InputError(f"{args.output} is there already: remove it, or set --output")
    check_writable(args.output.parent, "[[output]]")
    for name in ("count", "per_question"):
        if getattr(args, name) is not None and getattr(args, name) < 1:
            raise InputError(f"expected --{name} to be 1 or more, got {getattr(args, name)}")


def _gate(pairs: list[TwinPair], args: argparse.Namespace) -> list[TwinPair]:
    """The pairs that the model answers right, up to the count; says what became of the others."""
    model, report = load_model(args)
    print(report, file=sys.stderr)
    journal = _journal(args, report, model)
    verdicts = {record["pair_id"]: record["verdict"] for record in journal.done}
    kept: list[TwinPair] = []
    tried = 0
    with Counting(len(pairs), "pairs tried") as counting:
        for batch in _batches(pairs, args.batch_size):
            new = [pair for pair in batch if pair.pair_id not in verdicts]
            judged = judge(model, new, args.needs_thoughts) if new else {}
            journal.append([{"pair_id": k, "verdict": v} for k, v in judged.items()])
            verdicts |= judged
            for pair in batch:
                if verdicts[pair.pair_id] == KEPT:
                    kept.append(pair)
                elif verdicts[pair.pair_id] == KEPT_ALONE:
                    kept.append(pair.without_sibling())
            tried += len(batch)
            counting.reach(tried)
            if args.count is not None and len(kept) >= args.count:
                break
    seen = [pair.pair_id for pair in pairs if pair.pair_id in verdicts]
    for verdict, count in Counter(verdicts[pair_id] for pair_id in seen).most_common():
        print(f"{count:>7,} of {len(seen):,} pairs: {verdict}")
    return kept[: args.count]


def _journal(args: argparse.Namespace, report: LoadReport, model: CodiModel) -> Journal:
    depends_on = {
        "questions": file_sha256(args.questions),
        "checkpoint_sha256": report.sha256,
        "lora_alpha": report.lora_alpha,
        **asdict(model.settings),
        "precision": args.precision,
        "seed": args.seed,
        "per_question": args.per_question,
        "needs_thoughts": args.needs_thoughts,
    }
    verdicts = _verdicts(args)
    return Journal(verdicts, verdicts.with_suffix(".json"), depends_on, "--output")


def _verdicts(args: argparse.Namespace) -> Path:
    """Where what the model answered is written down."""
    return Path(f"{args.output.with_suffix('')}.verdicts.jsonl")


def judge(model: CodiModel, pairs: Sequence[TwinPair], needs_thoughts: bool) -> dict[str, str]:
    """What becomes of each pair, by its id: kept, or why not.

    Questions are asked in the order of the reasons; a pair that has failed one is asked no more.
    """
    verdicts = {
        pair.pair_id: f"cannot be asked ({r})" for pair in pairs if (r := _unfit(model, pair))
    }

    def ask(side: str, thoughts: ThoughtSource, expected: bool, verdict: str) -> None:
        remaining = [pair for pair in pairs if pair.pair_id not in verdicts]
        answers = _right(model, [getattr(pair, side) for pair in remaining], thoughts)
        for pair, right in zip(remaining, answers, strict=True):
            if right not in (expected, None):
                verdicts[pair.pair_id] = verdict

    for side, verdict in _WRONG.items():
        ask(side, "own", True, verdict)
    for side in _WRONG if needs_thoughts else ():
        ask(side, "zeroed", False, _UNNEEDED)
    for pair in pairs:
        if pair.sibling and why_not_asked(model, pair.sibling.text, _ANSWER_TOKENS):
            verdicts.setdefault(pair.pair_id, KEPT_ALONE)
    ask("sibling", "own", True, KEPT_ALONE)
    return {pair.pair_id: verdicts.get(pair.pair_id, KEPT) for pair in pairs}


def _unfit(model: CodiModel, pair: TwinPair) -> str | None:
    """Why one of a pair's two questions cannot be asked."""
    reasons = (
        why_not_asked(model, side.text, _ANSWER_TOKENS) for side in (pair.clean, pair.corrupted)
    )
    return next(filter(None, reasons), None)


def _right(
    model: CodiModel, sides: Sequence[Side | None], thoughts: ThoughtSource
) -> list[bool | None]:
    """Whether each question is answered right; None where there is none."""
    asked = [side.text for side in sides if side is not None]
    texts = iter(latent_answers(model, asked, thoughts, _ANSWER_TOKENS) if asked else [])
    return [None if side is None else is_correct(next(texts), float(side.answer)) for side in sides]


def _batches(pairs: Sequence[TwinPair], size: int) -> Iterator[Sequence[TwinPair]]:
    for start in range(0, len(pairs), size):
        yield pairs[start : start + size]


def _write(pairs: list[TwinPair], args: argparse.Namespace) -> None:
    """Write the pairs, whole or not at all."""
    records = [pair.as_record() for pair in pairs]
    if args.donors:
        donors = find_donors(pairs, args.seed)
        for record in records:
            found = donors[record["pair_id"]]
            record["donors"] = {kind: donor.as_record() for kind, donor in found.items()}
    lines = args.output.suffix == ".jsonl"
    text = (
        "".join(json.dumps(record, ensure_ascii=False) + "\n" for record in records)
        if lines
        else json.dumps(records, indent=1, ensure_ascii=False) + "\n"
    )
    args.output.parent.mkdir(parents=True, exist_ok=True)
    unfinished = args.output.with_suffix(args.output.suffix + ".tmp")
    unfinished.write_text(text, encoding="utf-8")
    unfinished.replace(args.output)
    siblings = sum(pair.sibling is not None for pair in pairs)
    print(f"{len(pairs):,} pairs in {args.output}, {siblings:,} of them with a sibling")
