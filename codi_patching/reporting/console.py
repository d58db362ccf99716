"""What is printed at the end of a run: the answer and the table, in at most 40 lines."""

from __future__ import annotations

import textwrap
from collections.abc import Iterator
from itertools import zip_longest
from pathlib import Path

import xarray as xr

from codi_patching.analysis.checks import count_checks
from codi_patching.analysis.report import Report
from codi_patching.errors import plain_text
from codi_patching.reporting.claims_in_words import heading
from codi_patching.reporting.methods import answered
from codi_patching.reporting.names import counted, model_name
from codi_patching.reporting.rows import Row, once, table_rows
from codi_patching.reporting.sentences import headline
from codi_patching.results.dataset import patches, run_of

WIDTH = 100
_QUESTION = 40
"""Width of a table's questions."""

_NAMED = 3
_FEW = 2


def console_text(report: Report, folder: Path | None = None) -> str:
    """The answer in a few sentences, a line for each question, and what to beware of.

    Args:
        report: Of a run, or of several.
        folder: Where it was written to.
    """
    lines = [*_head(report), ""]
    lines += textwrap.wrap(" ".join(headline(report)), WIDTH)
    rows = table_rows(report)
    if rows:
        lines += ["", *_table(rows), *textwrap.wrap(once(report), WIDTH)]
    lines += ["", *_validity(report), *_left_out(report)]
    if folder is not None:
        lines.append(f"written to {folder}")
    return "\n".join(plain_text(line) for line in lines)


def _head(report: Report) -> Iterator[str]:
    """What was run."""
    runs = report.datasets
    data = next(iter(runs.values()))
    said = f"{heading(report)}: {counted(data.sizes['pair'], 'pair')}"
    if pooled := run_of(data).pooled:
        groups = len(set(data["group"].values))
        said += f" of {counted(len(pooled), 'checkpoint')} together, {counted(groups, 'group')}"
    if len(runs) > 1:
        yield f"{said}, {counted(len(runs), 'run')}"
        yield from textwrap.wrap("; ".join(runs), WIDTH)
    else:
        yield said
    if patches(data) and not report.models and answered(data, "source") is not None:
        right = " and ".join(f"{answered(data, w)} {w}" for w in ("source", "base"))
        yield f"answered right without patches: {right} questions, of {data.sizes['pair']} each"


def _table(rows: list[Row]) -> Iterator[str]:
    """Questions with their answers; those that were not run with their command."""
    missing = [row for row in rows if row.command]
    if len(missing) > _FEW:
        rows = [row for row in rows if not row.command]
    width = min(_QUESTION, max((len(row.question) for row in rows), default=0))
    for row in rows:
        asked = textwrap.wrap(row.question, width)
        said = [row.answer, row.estimate, f"p = {row.p}" if row.p != "–" else ""]
        text = "; ".join(part for part in said if part)
        answer = textwrap.wrap(text, WIDTH - width - 2)
        if row.command:
            answer = [f"not run: {row.command}"]
        for left, right in zip_longest(asked, answer, fillvalue=""):
            yield f"{left:<{width}}  {right}".rstrip()
    if len(missing) > _FEW:
        yield f"{len(missing)} further questions take other runs: codi-patching study makes them"


def _validity(report: Report) -> Iterator[str]:
    checks = [(label, check) for label, own in report.checks.items() for check in own]
    yield f"validity: {count_checks([check for _, check in checks])}"
    failed = [(label, check) for label, check in checks if check.status == "fail"]
    for label, check in failed[:_NAMED]:
        yield f"  FAILS: {label}, {check.name}: expected {check.expected}; seen: {check.seen}"
    if len(failed) > _NAMED:
        yield f"  and {len(failed) - _NAMED} more"


def _left_out(report: Report) -> Iterator[str]:
    """Pairs that are missing, and models that do not answer, each said once."""
    yield from dict.fromkeys(said for data in report.datasets.values() for said in _warned(data))


def _warned(data: xr.Dataset) -> Iterator[str]:
    if patches(data):
        run, pairs = run_of(data), data.sizes["pair"]
        excluded, right = run.excluded, answered(data, "source")
        if excluded:
            named = "; ".join(f"{k}: {v}" for k, v in list(excluded.items())[:_NAMED])
            more = f"; and {len(excluded) - _NAMED} more" if len(excluded) > _NAMED else ""
            yield f"excluded: {counted(len(excluded), 'pair')} ({named}{more})"
        if right is not None and right < pairs / 2:
            yield (
                f"WARNING: {model_name(run)} answers {right} of {pairs} source questions right: "
                "effects of patches say little about how it answers"
            )
