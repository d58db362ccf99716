"""The whole of what is said of some runs, computed once; everything that is shown reads it."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import xarray as xr

from codi_patching.analysis.agreement import check_agreement, check_uncut
from codi_patching.analysis.asking import ask
from codi_patching.analysis.attended import ask_attention
from codi_patching.analysis.between import by_model, compare_models, named_run
from codi_patching.analysis.checks import Check
from codi_patching.analysis.courses import ask_chains, total_claims
from codi_patching.analysis.described import disruption, from_positions, leading
from codi_patching.analysis.findings import Answer, Finding
from codi_patching.analysis.knocked_out import ask_knockout
from codi_patching.analysis.lens_hits import hit_rates
from codi_patching.analysis.levels import SHARES, label_of
from codi_patching.analysis.paired_tests import paired_tests
from codi_patching.analysis.pooled import pool
from codi_patching.analysis.questions import DESCRIBED, PRIMARY
from codi_patching.analysis.strata import strata_finding
from codi_patching.analysis.study import Study, studies_of
from codi_patching.analysis.summary import Summary, summarise
from codi_patching.analysis.used import ask_needed, ask_read
from codi_patching.analysis.validity import check_run, describe_conditions
from codi_patching.results.dataset import (
    ATTENTION,
    KNOCKOUT,
    LENS,
    is_attention,
    is_knockout,
    is_lens,
    patches,
    run_of,
)
from codi_patching.results.description import ResultsError, RunDescription

ALL_RUNS = "all runs"
"""Whose checks are those that take several runs."""

_NEEDED = (
    "kl_divergence",
    *("predicts_clean", "predicts_corrupted", "clean_probability", "corrupted_probability"),
)
"""Metrics that conclusions about a patching run are drawn from; it may have others."""

_SAME = ("checkpoint_sha256", "data_sha256", "num_latents", "seed")


@dataclass(frozen=True)
class Report:
    """What is said of one run, or of several together.

    Attributes:
        summaries: Of each run of patching, by label, in order.
        lens: The lens's dataset, if it was run; None else.
        hit_rates: Of the lens: `own` and `chance` over (step, layer, column), `pairs` over step.
        findings: Primary questions first, in order, then the others.
        checks: Of validity, by the run's label; `all runs` for what takes several.
        tests: Classical paired tests of each run, rows by label.
        seed: Of everything drawn.
        models: Names of the models, where there are several.
        attention: Attention's dataset, if it was run; None else.
        knockout: The dataset of cut edges, if they were run; None else.
    """

    summaries: dict[str, Summary]
    lens: xr.Dataset | None
    hit_rates: xr.Dataset | None
    findings: tuple[Finding, ...]
    checks: dict[str, tuple[Check, ...]]
    tests: dict[str, tuple[dict[str, Any], ...]]
    seed: int
    models: tuple[str, ...] = ()
    attention: xr.Dataset | None = None
    knockout: xr.Dataset | None = None

    def finding(self, key: str, run: str | None = None) -> Finding | None:
        """The finding of a question, of a run if it is given; None if it was not asked."""
        found = (f for f in self.findings if f.key == key and (run is None or run in f.runs))
        return next(found, None)

    @property
    def datasets(self) -> dict[str, xr.Dataset]:
        """Of each run, those that patch nothing last."""
        found = {label: summary.data for label, summary in self.summaries.items()}
        unpatched = {LENS: self.lens, ATTENTION: self.attention, KNOCKOUT: self.knockout}
        return {**found, **{name: data for name, data in unpatched.items() if data is not None}}

    @property
    def failed(self) -> bool:
        """Whether a check of validity fails."""
        return any(check.status == "fail" for own in self.checks.values() for check in own)


def build_report(
    datasets: Sequence[xr.Dataset],
    seed: int | None = None,
    strata: Sequence[str] = (),
    top: int = 5,
    pooled: bool = False,
) -> Report:
    """Everything that is said of runs on one file of pairs.

    Args:
        datasets: Of patching, lens, attention and cut edges, each experiment of a model once.
        seed: Of flips and bootstraps; the runs' own if not given.
        strata: Fields of the file of pairs that tell strata.
        top: How many cells lead at least, if so many have an effect.
        pooled: Whether several checkpoints are put together, such as training seeds of one
            configuration; else they stand side by side.

    Raises:
        ResultsError: There are none, two do not belong together, or one lacks a metric.
    """
    if pooled:
        datasets = pool(datasets)
    if len({run_of(data).checkpoint_sha256 for data in datasets}) > 1:
        return _of_models(by_model(datasets), seed, strata, top)
    by_label = _by_label(datasets)
    first = run_of(next(iter(by_label.values())))
    chosen = first.seed if seed is None else seed
    patching = {label: data for label, data in by_label.items() if patches(data)}
    for label, data in patching.items():
        _check_metrics(label, run_of(data).metrics)
    lens = next((data for data in by_label.values() if is_lens(data)), None)
    knockout = next((data for data in by_label.values() if is_knockout(data)), None)
    summaries = {label: summarise(data, label, chosen, top) for label, data in patching.items()}
    studies = studies_of(list(by_label.values()), chosen, strata)
    findings = [f for study in studies for f in _answers(study, summaries)]
    checks = {label: tuple(check_run(data)) for label, data in by_label.items()}
    if len(by_label) > 1:
        agree = check_agreement(patching)
        if knockout is not None:
            agree += check_uncut(knockout, patching)
        checks[ALL_RUNS] = (*agree, describe_conditions(by_label))
    return Report(
        summaries,
        lens,
        None if lens is None else hit_rates(lens),
        tuple(sorted(_once(findings), key=lambda finding: finding.number or 99)),
        checks,
        {label: paired_tests(data) for label, data in patching.items()},
        chosen,
        attention=next((data for data in by_label.values() if is_attention(data)), None),
        knockout=knockout,
    )


def _check_metrics(label: str, metrics: Collection[str]) -> None:
    """Refuse a run, such as one of a user's own experiment, without a metric that is needed."""
    if lacking := [metric for metric in _NEEDED if metric not in metrics]:
        raise ResultsError(
            f"expected the metrics {', '.join(_NEEDED)} of {label}, which conclusions are drawn "
            f"from, it lacks {', '.join(lacking)}: keep them in the experiment's metric_table"
        )


def _of_models(
    models: Mapping[str, Mapping[str, xr.Dataset]],
    seed: int | None,
    strata: Sequence[str],
    top: int,
) -> Report:
    """Each model's own report, and what differs between them."""
    reports = {
        name: build_report(list(runs.values()), seed, strata, top) for name, runs in models.items()
    }
    chosen = next(iter(reports.values())).seed
    own = [
        _of_model(finding, name)
        for name, report in reports.items()
        for finding in report.findings
        if finding.answer != "missing"
    ]

    def joined(part: str) -> dict[str, Any]:
        """A part of each report, its runs named by their model too."""
        return {
            named_run(name, label): value
            for name, report in reports.items()
            for label, value in getattr(report, part).items()
        }

    between = compare_models({name: dict(runs) for name, runs in models.items()}, chosen)
    findings = (*between, *sorted(own, key=lambda finding: finding.number or 99))
    summaries = {k: replace(s, label=k) for k, s in joined("summaries").items()}
    checks, tests = joined("checks"), joined("tests")
    everything = {named_run(m, label): d for m, runs in models.items() for label, d in runs.items()}
    checks[ALL_RUNS] = (describe_conditions(everything),)
    return Report(summaries, None, None, findings, checks, tests, chosen, tuple(models))


def _of_model(finding: Finding, name: str) -> Finding:
    """A finding with its runs named by their model too."""
    strata = finding.strata
    if strata is not None:
        tables = [replace(t, run=named_run(name, t.run)) for t in (strata.main, *strata.others)]
        strata = replace(strata, main=tables[0], others=tuple(tables[1:]))
    runs = tuple(named_run(name, run) for run in finding.runs)
    return replace(finding, model=name, runs=runs, strata=strata)


def _answers(study: Study, summaries: dict[str, Summary]) -> list[Finding]:
    """All findings of a study."""
    primary = {question.key: list(ask(question, study)) for question in PRIMARY}
    chains = ask_chains(study)
    found = [finding for findings in primary.values() for finding in findings]
    found = [_with_total_and_direct(f, [*primary["cells"], *chains], study) for f in found]
    found += [*_strata(study), *chains, *ask_read(study), *ask_attention(study)]
    found += [*ask_needed(study, primary["cells"]), *ask_knockout(study)]
    for question in DESCRIBED:
        found += ask(question, study)
    found += [disruption(summaries[label]) for label in (*study.labels, *study.noising_labels)]
    return [*found, *leading(study, summaries), *from_positions(study)]


def _strata(study: Study) -> list[Finding]:
    """Question 3, of each run of position patching."""
    found = []
    for kind, share in SHARES["strata"].items():
        if kind not in study.runs:
            continue
        label = study.label(kind)
        table = strata_finding(study.runs[kind], label, share, study.strata, study.seed)
        if table is not None:
            shown = any(carried.step is not None for carried in table.main.carried)
            answer: Answer = "yes" if shown else "at most"
            found.append(Finding("strata", 3, answer, (label,), strata=table))
    if not study.runs or any(kind in study.runs for kind in SHARES["strata"]):
        return found
    return [Finding("strata", 3, "missing", (), missing=(("position",),))]


def _with_total_and_direct(finding: Finding, judged: Sequence[Finding], study: Study) -> Finding:
    """The mediated effect with the direct and the total one, which other questions judge."""
    if finding.key != "direct" or not finding.runs:
        return finding
    direct, total = finding.runs
    claims = list(finding.claims)
    for kind, label in (("direct", direct), ("total", total)):
        for other in judged:
            if other.runs != (label,):
                continue
            if other.key == "chain":
                claims += total_claims(other, study.runs["cumulative"])
            else:
                claims += [replace(claim, kind=kind) for claim in other.claims]
    return replace(finding, claims=tuple(claims))


def _once(findings: Sequence[Finding]) -> list[Finding]:
    """Without what is missing in one study and not in another, or missing twice."""
    answered = {finding.key for finding in findings if finding.answer != "missing"}
    kept: dict[str, Finding] = {}
    for finding in findings:
        if finding.answer == "missing" and finding.key not in answered:
            kept.setdefault(finding.key, finding)
    missing = set(map(id, kept.values()))
    return [f for f in findings if f.answer != "missing" or id(f) in missing]


def _by_label(datasets: Sequence[xr.Dataset]) -> dict[str, xr.Dataset]:
    """Datasets by the label of their run, all of one model and file of pairs.

    Raises:
        ResultsError: There are none, two are of the same run, or two do not belong together.
    """
    if not datasets:
        raise ResultsError("expected results of at least one run, got none")
    found: dict[str, xr.Dataset] = {}
    for data in datasets:
        label = label_of(run_of(data))
        if label in found:
            raise ResultsError(
                f"expected each experiment once, got {label} in {_place(found[label])} and in "
                f"{_place(data)}"
            )
        found[label] = data
        first = next(iter(found))
        _check_same(first, found[first], label, data)
    return dict(sorted(found.items(), key=lambda item: _unusual(run_of(item[1]))))


def _unusual(run: RunDescription) -> tuple[bool, bool]:
    """What reports speak of first: denoising with the clean run's activations."""
    return run.direction != "denoising", run.source != "clean"


def _place(data: xr.Dataset) -> str:
    return str(data.attrs["folder"] or "memory")


def _check_same(first: str, one: xr.Dataset, second: str, other: xr.Dataset) -> None:
    """Refuse another model, file of pairs or seed, and pairs that one left out."""
    ours, theirs = run_of(one), run_of(other)
    for name in _SAME:
        values = getattr(ours, name), getattr(theirs, name)
        if values[0] != values[1]:
            raise ResultsError(
                f"{first} and {second} differ in {name}: {values[0]!r} and {values[1]!r}; compare "
                "results of one model, file of pairs and seed"
            )
    pairs = [{*map(str, d["pair"].values), *run_of(d).excluded} for d in (one, other)]
    if differing := sorted(pairs[0] ^ pairs[1]):
        raise ResultsError(
            f"{first} and {second} differ in their pairs: only one of them has "
            f"{', '.join(differing[:5])}"
        )
