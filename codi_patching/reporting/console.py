"""What is printed at the end of a run."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from codi_patching.analysis.checks import Check, count_checks
from codi_patching.analysis.summary import LEAST_CONTENT, aggregate
from codi_patching.analysis.validity import unknown_words
from codi_patching.reporting.evidence import FindingLike, beside, passing_cells, verdict_word
from codi_patching.reporting.names import counted, data_name, kind, model_name
from codi_patching.reporting.templates import with_interval
from codi_patching.results.read import Results

_NAMED = 5


def summary_text(
    results: Results,
    checks: Sequence[Check],
    findings: Sequence[FindingLike] = (),
    top: int = 5,
    folder: Path | None = None,
) -> str:
    """The cells that lead, by content and by disruption, what was found, and what to beware of.

    Args:
        results: Of a run.
        checks: Of its validity.
        findings: Of this run.
        top: Cells to list in each order.
        folder: Where it was written to.
    """
    summary = aggregate(results, top)
    passing = passing_cells(results.run, findings)
    lines = [_head(results), "", *_by_content(results, summary, passing), ""]
    lines += [*_by_disruption(summary), ""]
    lines += [*_answers(findings), *[""] * bool(findings)]
    lines += [*_validity(checks), *_left_out(results)]
    if folder is not None:
        lines.append(f"written to {folder}")
    return "\n".join(lines)


def comparison_text(
    arms: Mapping[str, Results],
    findings: Sequence[FindingLike],
    checks: Sequence[Check],
    folder: Path | None = None,
) -> str:
    """What several experiments say together.

    Args:
        arms: Results by the name of their arm.
        findings: Of all of them.
        checks: Of each and of all together.
        folder: Where it was written to.
    """
    first = next(iter(arms.values()))
    lines = [
        f"comparison of {', '.join(arms)}",
        f"{model_name(first.run)} on {data_name(first.run)}, {counted(len(first.pairs), 'pair')}",
        "",
        *_answers(findings),
        "",
        *_validity(checks),
    ]
    return "\n".join([*lines, f"written to {folder}"] if folder is not None else lines)


def _answers(findings: Sequence[FindingLike]) -> list[str]:
    """Every question with its verdict and evidence; those without their arms in a line each."""
    lines = []
    for finding in findings:
        lines.append(f"{finding.question} {verdict_word(finding).upper()}")
        lines += [
            textwrap.fill(text, 100, initial_indent="    ", subsequent_indent="    ")
            for text in (finding.sentence, beside(finding))
            if text
        ]
    return lines


def _head(results: Results) -> str:
    run, n = results.run, len(results.pairs)
    settings = [f"{run.latents} latents", run.direction]
    if run.source != "clean":
        settings.append(f"source {run.source}")
    right = {
        which: sum(_answers_right(results, pair, which) for pair in results.pairs)
        for which in ("source", "base")
    }
    return (
        f"{kind(run)} of {model_name(run)} on {data_name(run)}: {counted(n, 'pair')}, "
        f"{', '.join(settings)}\n"
        f"answered right without patches: {right['source']} of {n} source questions, "
        f"{right['base']} of {n} base questions"
    )


def _answers_right(results: Results, pair: Any, which: str) -> bool:
    clean = (which == "source") == results.run.clean_is_source
    metric = "predicts_clean" if clean else "predicts_corrupted"
    return bool(getattr(pair, which).get(metric, 0.0) == 1.0)


def _by_content(
    results: Results, summary: dict[str, Any], passing: Sequence[tuple[int, int]] | None
) -> list[str]:
    what = "over the unpatched run and the control; the smaller counts"
    if not results.control:
        what = "over the unpatched run alone: no control was run"
    lines = [f"content effect, the rise of P(source answer), {what}"]
    if not summary["top_content"]:
        return [*lines, f"  no cell has one of {LEAST_CONTENT:g} or more"]
    width = max(len(cell["name"]) for cell in summary["top_content"])
    names = {results.run.label(cell) for cell in passing or ()}
    control = "  over control [95 %]     " if results.control else ""
    lines.append(f"rank  {'cell':<{width}}  effect  over unpatched [95 %]   {control}".rstrip())
    for rank, cell in enumerate(summary["top_content"], 1):
        row = f"{rank:>4}  {cell['name']:<{width}}  {cell['content_effect']:>6.3f}  "
        row += f"{with_interval(cell['content_over_unpatched'], 3):<24}"
        if results.control:
            row += f"  {with_interval(cell['content_over_control'], 3):<24}"
        lines.append((row + "  beyond the threshold" * (cell["name"] in names)).rstrip())
    return lines


def _by_disruption(summary: dict[str, Any]) -> list[str]:
    lines = ["disruption, mean KL(patched ‖ unpatched) in nats"]
    if not summary["top_cells"]:
        return [*lines, "  no cell has any beyond rounding"]
    width = max(len(cell["name"]) for cell in summary["top_cells"])
    lines.append(
        f"rank  {'cell':<{width}}  mean KL [95 %]            median  recovery  "
        "flip rate (of tokens)  five largest pairs"
    )
    for rank, cell in enumerate(summary["top_cells"], 1):
        kl, recovery = cell["kl_divergence"], cell["recovery"]["mean"]
        lines.append(
            f"{rank:>4}  {cell['name']:<{width}}  {with_interval(kl):<24}  {kl['median']:>6.3g}  "
            f"{recovery:>8.3f}  {cell['prediction_change_rate']['mean']:>21.1%}  "
            f"{kl['share_of_5_largest']:>18.0%}"
        )
    return lines


def _validity(checks: Sequence[Check]) -> list[str]:
    failed = [check for check in checks if check.status == "fail"]
    lines = [f"validity: {count_checks(checks)}"]
    return lines + [
        f"  FAILS: {check.name}: expected {check.expected}; seen: {check.seen}" for check in failed
    ]


def _left_out(results: Results) -> list[str]:
    """Pairs that are missing, and words that were not read."""
    excluded = results.run.excluded
    lines = [f"excluded: {counted(len(excluded), 'pair')}" if excluded else "excluded: none"]
    lines += [f"  {pair}: {reason}" for pair, reason in list(excluded.items())[:_NAMED]]
    lines += [f"  and {len(excluded) - _NAMED} more"] * (len(excluded) > _NAMED)
    if unknown := unknown_words(results):
        listed = [f"{word} ({', '.join(ids[:3])})" for word, ids in list(unknown.items())[:10]]
        more = f" and {len(unknown) - 10} more" if len(unknown) > 10 else ""
        lines.append(f"words that the tokenizer does not know: {', '.join(listed)}{more}")
    right = sum(_answers_right(results, pair, "source") for pair in results.pairs)
    if right < len(results.pairs) / 2:
        lines.append(
            "WARNING: the model answers fewer than half of the source questions right: effects of "
            "patches say little about how it answers"
        )
    return lines
