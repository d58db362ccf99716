"""A report as a table: a line for each question, with its answer and numbers."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from codi_patching.analysis.attended import most_attended
from codi_patching.analysis.findings import Finding
from codi_patching.analysis.knocked_out import most_needed
from codi_patching.analysis.report import Report
from codi_patching.analysis.used import BOTH, read_and_acting
from codi_patching.reporting.claims_in_words import (
    answer_name,
    around_sizes,
    around_words,
    attention_sizes,
    attention_words,
    best_carried,
    between_words,
    claim_words,
    course_words,
    courses_named,
    described_words,
    direct_sizes,
    direct_words,
    models_of,
    places,
    steps_named,
    strata_words,
)
from codi_patching.reporting.formats import listed, p_value, short, with_interval
from codi_patching.reporting.question_texts import BETWEEN, NUMBERED, QUESTIONS
from codi_patching.results.dataset import has_control, patches, run_of

_ANSWERS = {"direct": direct_words, "around": around_words}
_SIZES = {"direct": direct_sizes, "attention": attention_sizes, "around": around_sizes}
"""By question, what is said of a finding in place of its lead."""

_BY_LENGTH = {"attention": most_attended, "edges": most_needed}
"""By question, the claims that are told by number of steps."""

_TESTED = ("yes", "no", "at most", "counts")

Tone = Literal["yes", "no", "open", "off"]
"""How a line is coloured: shown, ruled out, bounded or described, not run."""


@dataclass(frozen=True)
class Row:
    """A question with its answer, as a line of a table.

    Attributes:
        key: Of the question.
        question: As it is asked.
        answer: In a few words.
        tone: Of the line.
        estimate: Numbers, with their interval.
        p: Adjusted; a dash where nothing was tested.
        n: Pairs.
        command: What makes the runs that are missing.
        finding: What it rests on.
    """

    key: str
    question: str
    answer: str
    tone: Tone
    estimate: str
    p: str
    n: str
    command: str
    finding: Finding


def table_rows(report: Report) -> list[Row]:
    """A line for each primary question, in order; of several runs the first that was asked.

    Of several models first what differs between them, then a line for each question and model.
    """
    rows = [as_row(f, report) for f in report.findings if f.key in BETWEEN]
    asked: dict[tuple[str, str], Row] = {}
    for finding in report.findings:
        if finding.number is not None and (finding.key, finding.model) not in asked:
            asked[finding.key, finding.model] = as_row(finding, report)
    return rows + sorted(asked.values(), key=lambda row: NUMBERED.index(row.key))


def more_rows(report: Report) -> list[Row]:
    """A line for every other finding: of further runs, and what is described."""
    first = {id(row.finding) for row in table_rows(report)}
    return [as_row(finding, report) for finding in report.findings if id(finding) not in first]


def as_row(finding: Finding, report: Report) -> Row:
    """A finding as a line of a table."""
    question = QUESTIONS.get(finding.key, finding.key)
    if finding.key in BETWEEN:
        question = f"{question} {_capital(finding.runs[0].partition(': ')[2])}"
    elif finding.model and finding.number and len(_same_question(report, finding)) == 1:
        question = f"{question} {finding.model}"
    elif finding.model or finding.number is None or len(_same_question(report, finding)) > 1:
        question = f"{question} {_capital(listed(finding.runs))}"
    if finding.answer == "missing":
        command = "; ".join(map(_command, finding.missing))
        return Row(finding.key, question, "not run", "off", "", "", "", command, finding)
    lead, pairs = finding.lead, finding.n
    if finding.key in _BY_LENGTH:
        pairs = sum(claim.lead.n for claim in _BY_LENGTH[finding.key](finding).values())
    tone: Tone = "open"
    if finding.answer in ("yes", "no"):
        tone = "yes" if finding.answer == "yes" else "no"
    return Row(
        finding.key,
        question,
        answer_words(finding, report),
        tone,
        estimate_words(finding),
        p_value(lead.p) if lead is not None and finding.answer in _TESTED else "–",
        str(pairs) if pairs else "",
        "",
        finding,
    )


def answer_words(finding: Finding, report: Report) -> str:
    """The answer in a few words."""
    if finding.strata is not None:
        return strata_words(finding.strata)
    if finding.courses:
        return courses_named(finding) or "no change along the chain is claimed"
    if finding.key in _ANSWERS:
        return _ANSWERS[finding.key](finding)
    if finding.key == "cells" and finding.answer == "yes":
        return places(finding.claims)
    if finding.key == "read" and finding.answer == "yes":
        return f"{steps_named(read_and_acting(finding.claims))}: read where a patch acts"
    if finding.key == "needed" and finding.answer == "yes":
        return f"yes, at {places([c for c in finding.claims if c.kind == BOTH])}"
    if finding.key in BETWEEN and finding.answer == "yes":
        return between_words(finding)
    if finding.key == "attention" and finding.claims:
        return f"most to {attention_words(finding)}"
    words = {"yes": "yes", "no": "no", "at most": "not shown", "counts": "counts alone"}
    if finding.answer in words:
        return words[finding.answer]
    return described_words(finding)


def estimate_words(finding: Finding) -> str:
    """The numbers of an answer: an estimate with its interval, counts, or a bound."""
    if finding.strata is not None:
        return ", ".join(f"{c.restored}/{c.n}" for c in best_carried(finding.strata.main).values())
    if finding.courses:
        return course_words(finding)
    if finding.key in _SIZES and finding.claims:
        return _SIZES[finding.key](finding)
    if finding.key == "read" and finding.numbers:
        numbers = dict(finding.numbers)
        return f"read in {numbers['read']:.0f} cells, acting in {numbers['read and used']:.0f}"
    known = dict(finding.numbers)
    if finding.key == "layers_from_positions" and "r squared" in known:
        return f"r² {with_interval(known['r squared'], known['low'], known['high'])}"
    if finding.lead is None:
        return ", ".join(f"{name} {short(value)}" for name, value in finding.numbers[:4])
    words = claim_words(finding.lead)
    if finding.key in BETWEEN:
        words = f"{' minus '.join(models_of(finding))}: {words}"
    if len(finding.tied) > 1:
        words += f"; {len(finding.tied)} cells not told apart"
    return words


def once(report: Report) -> str:
    """What is the same for all lines of the table."""
    falls = "falls of the probability of the run's own answer where an edge of attention is cut"
    if not report.summaries and report.knockout is not None:
        return (
            "Intervals and p hold for question and thoughts together, at 0.1 % of the 5 % that "
            f"belong to a study. Estimates are {falls}: relative to the uncut run, and but for the "
            "question to a cut of as many words that carry no number, whichever is smaller."
        )
    if not report.summaries and report.lens is None:
        return "Shares of attention, means over pairs; every reader's shares sum to 1."
    if not report.summaries:
        return "Shares of pairs, beside how often another pair's result of that step is read."
    control = any(has_control(data) for data in report.datasets.values() if patches(data))
    noising = [run_of(s.data).direction == "noising" for s in report.summaries.values()]
    if all(noising):
        return (
            "Intervals and p hold for all cells of a question together, at a level of 5 % for "
            f"{_whole(report)}. Estimates are falls of the probability of the clean answer."
        )
    relative = "the unpatched run and to the control's patch, whichever gain is smaller"
    if not control:
        relative = "the unpatched run alone, since no control was run"
    said = (
        "Intervals and p hold for all cells of a question together, at a level of 5 % for "
        f"{_whole(report)}. Estimates are rises of the probability of {answer_name(report)} "
        f"relative to {relative}"
    )
    if any(noising):
        said += "; those of noising are falls of the probability of the clean answer"
    if report.knockout is not None:
        said += f"; in the line on the question, {falls}"
    return f"{said}; between models, of the one minus the other." if report.models else f"{said}."


def _whole(report: Report) -> str:
    """To what the level belongs: a study is of one model, site and source."""
    if report.models:
        return "each model, site and source, and for what differs between models"
    runs = [run_of(data) for data in report.datasets.values() if patches(data)]
    several = len({(run.site, run.source) for run in runs}) > 1
    return "each site and source" if several else "the whole report"


def _command(configs: Sequence[str]) -> str:
    """The command that makes a run, from its configurations."""
    return " ".join(["codi-patching predict", *(f"--config {name}" for name in configs)])


def _capital(text: str) -> str:
    """A run's label as it begins a phrase; a model's name before it stays as it is."""
    return text if ": " in text else text[:1].upper() + text[1:]


def _same_question(report: Report, finding: Finding) -> list[Finding]:
    """The findings of a question about one model that were made."""
    asked = (f for f in report.findings if f.key == finding.key and f.model == finding.model)
    return [f for f in asked if f.answer != "missing"]
