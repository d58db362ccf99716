"""The answer of a report in at most four sentences.

Only `Report` is read, and nothing is computed: every number stands in a claim, and a sentence about
an effect is there only where the claim that it rests on is.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import xarray as xr

from codi_patching.analysis.findings import Claim, Finding, StrataFinding
from codi_patching.analysis.knocked_out import DIRECT, THROUGH, claim_of, needs
from codi_patching.analysis.report import Report
from codi_patching.analysis.used import BOTH
from codi_patching.reporting.claims_in_words import (
    FALLS,
    RISES,
    answer_name,
    attention_sizes,
    attention_words,
    carried_sentence,
    carried_title,
    courses_named,
    later_layers,
    models_of,
    needed_words,
    of_kind,
    places,
    side,
    steps_named,
)
from codi_patching.reporting.formats import layers_named, listed, short
from codi_patching.reporting.question_texts import BETWEEN
from codi_patching.results.dataset import run_of
from codi_patching.results.description import ALL

TOO_FEW = "Too few pairs for any claim: counts stand alone."
"""Where the groups of pairs are too few for a test."""


def headline(report: Report) -> list[str]:
    """The answer in at most four sentences of plain English, made from claims alone."""
    if report.models:
        return _models_said(report)
    carried = _carried_said(report)
    finding = report.finding("direct")
    direct = direct_sentence(finding) if finding else ""
    said = [*_ceiling_said(report), *(carried or _cells_said(report))]
    if direct:
        said = [*said[:3], direct]
    for more in (_chain_said, _read_said, _needed_said, _around_said, _attention_said):
        said += more(report) if len(said) < 3 else []
    first, *rest = said or [_nothing_said(report)]
    return [first, *_not_fed_back(report), *rest][:4]


def short_headline(report: Report) -> str:
    """What is carried or where patches act, for two lines of a column; empty if nothing is."""
    finding = report.finding("strata")
    if finding is not None and finding.strata is not None and _shown(finding):
        return carried_title(finding.strata)
    return "".join(_cells_said(report, f"P({side(report)} answer)"))


def _models_said(report: Report) -> list[str]:
    """What differs between models, or that nothing is shown to, then what each carries."""
    between = [finding for finding in report.findings if finding.key in BETWEEN]
    said = [sentence for finding in between for sentence in _between_said(finding)]
    if not said and between and all(finding.answer == "counts" for finding in between):
        said = ["Too few pairs to compare the models: counts stand alone."]
    said = said or ["No difference between the models is shown."]
    if still := [name for name, data in _models_of(report).items() if not run_of(data).feeds_back]:
        feed, share = ("feeds", "it shares") if len(still) == 1 else ("feed", "they share")
        said = [
            *said[:2],
            f"{listed(still)} {feed} nothing back: what {share} with the others is no evidence of "
            "reasoning in thoughts.",
        ]
    for finding in report.findings:
        if _shown(finding) and finding.strata is not None:
            said.append(f"In {finding.model}: {carried_sentence(finding.strata)}")
    return said[:4]


def _models_of(report: Report) -> dict[str, xr.Dataset]:
    """A run of each model, by its name."""
    return {
        name: data
        for name in report.models
        for label, data in report.datasets.items()
        if label.startswith(f"{name}: ")
    }


def _between_said(finding: Finding) -> list[str]:
    """Which of two models carries more, and where, if that is claimed."""
    first, second = models_of(finding)
    what = finding.runs[0].partition(": ")[2]
    said = []
    for way, verdicts, more, less in (
        ("up", RISES, first, second),
        ("down", FALLS, second, first),
    ):
        shown = [claim for claim in finding.claims if claim.verdict in verdicts]
        if not shown:
            continue
        sizes = [abs(c.lead.mean) for c in shown if c.verdict in ("rises", "falls")]
        most, n = max((getattr(claim.lead, way), claim.lead.n) for claim in shown)
        up_to = "up to " if len(shown) > 1 else ""
        size = f"by {up_to}{short(max(sizes))}" if sizes else f"in {up_to}{most} of {n} pairs"
        if finding.key == "between_ceilings":
            said.append(f"All thoughts of {more} together carry more than those of {less}, {size}.")
        else:
            where = f"{len(shown)} of {len(finding.claims)} cells"
            run = f"{what[:1].upper()}{what[1:]}"
            said.append(f"{run}: {more} carries more than {less} at {where}, {size}.")
    return said


def _not_fed_back(report: Report) -> list[str]:
    """That there are no thoughts, where the model makes none."""
    if all(run_of(data).feeds_back for data in report.datasets.values()):
        return []
    return [
        "This model feeds nothing back: its thoughts are learned vectors, the same for every "
        "question, and patches are of what their positions read from it."
    ]


def _ceiling_said(report: Report) -> list[str]:
    finding = report.finding("ceiling")
    if finding is None or finding.lead is None:
        return []
    claim, what = finding.lead, answer_name(report)
    if claim.verdict == "rises":
        return [
            f"Together the thoughts carry the answer: taken from the {side(report)} run, all of "
            f"them raise the probability of {what} by {short(claim.lead.mean)}."
        ]
    if claim.verdict == "more often":
        return [
            f"Together the thoughts carry something of the answer: {what} becomes more probable "
            f"in {claim.lead.up} of {claim.lead.n} pairs."
        ]
    if claim.verdict in ("no", "at most"):
        return [
            "Not even all thoughts together are shown to carry the answer: "
            f"{_gain(claim)} is at most {short(max(claim.bound, 0.0))}."
        ]
    return []


def _shown(finding: Finding | None) -> bool:
    """Whether some thought is shown to carry a step's result."""
    strata = finding.strata if finding else None
    return strata is not None and any(c.step is not None for c in strata.main.carried)


def _carried_said(report: Report) -> list[str]:
    finding = report.finding("strata")
    if finding is None or finding.strata is None or not _shown(finding):
        return []
    said = [carried_sentence(finding.strata)]
    if later := later_layers(finding.strata):
        said.append(f"At {layers_named(later)} each thought carries what the next one does there.")
    if rest := _not_carried(finding.strata):
        said.append(rest)
    return said


def _not_carried(strata: StrataFinding) -> str:
    """What no thought is shown to carry: the last step, where pairs change it."""
    table = strata.main
    last = [
        (stratum, entries)
        for stratum, entries in zip(table.strata, table.entries)
        if stratum.changed_step is not None and stratum.changed_step == stratum.num_steps
    ]
    said = any(carried.lengths == (carried.step,) for carried in table.carried)
    if not last or said or any(entry.counts for _, entries in last for entry in entries):
        return ""
    pairs = sum(stratum.n for stratum, _ in last)
    return f"In the {pairs} pairs in which only the last step changes, no thought is shown to act."


def _cells_said(report: Report, of_answer: str = "") -> list[str]:
    """Where patches act; the probability is named in other words if they are given."""
    finding = next((f for f in report.findings if f.key == "cells" and f.answer == "yes"), None)
    if finding is None or finding.lead is None:
        return []
    lead = finding.lead
    size = f"by up to {short(lead.lead.mean)}"
    if lead.verdict == "more often":
        size = f"in {lead.lead.up} of {lead.lead.n} pairs"
    whole = all(claim.column in (None, ALL) for claim in finding.claims)
    what = "All positions of one layer" if whole else "Single patches"
    return [
        f"{what} raise {of_answer or f'the probability of {answer_name(report)}'} at "
        f"{places(finding.claims)}, {size}."
    ]


def direct_sentence(finding: Finding) -> str:
    """Where a patch acts directly, and where through later thoughts; empty without a claim."""
    said = [
        f"at {where} {how}"
        for where, how in (
            (places(of_kind(finding, "direct")), "through what the readout sees"),
            (places(of_kind(finding, "mediated")), "through the thoughts made after it"),
        )
        if where
    ]
    whole = all(claim.column in (None, ALL) for claim in finding.claims)
    what = "With all thoughts patched at once, a patch" if whole else "A patch of one thought"
    return f"{what} acts {listed(said)}." if said else ""


def parts_sentence(finding: Finding) -> str:
    """At which layers the effect of whole layers is direct, mediated or undone, or that none is."""
    own = [claim for claim in finding.claims if claim.kind in ("direct", "mediated")]
    if any(claim.claimed for claim in own):
        where = {verdicts: _kinds_at(finding, verdicts) for verdicts in (RISES, FALLS)}
        falls = [f"against the source answer {said}" for said in where[FALLS]]
        return f"The effect of whole layers is {listed([*where[RISES], *falls])}."
    if own and all(claim.verdict == "counts" for claim in own):
        return TOO_FEW
    most = short(max([0.0, *(claim.bound for claim in own)]))
    return f"Nothing is claimed: no direct or mediated effect is shown, each at most {most}."


def _kinds_at(finding: Finding, verdicts: Sequence[str]) -> list[str]:
    """`direct at layers 0 to 6`, of each kind that goes this way somewhere."""
    at = {k: places(of_kind(finding, k, verdicts), verdicts) for k in ("direct", "mediated")}
    return [f"{kind} at {where}" for kind, where in at.items() if where]


def layers_sentence(claims: Mapping[str, Sequence[Claim]]) -> str:
    """At which layers each run raises the source answer's probability, or that none does.

    Args:
        claims: About a run's whole layers, by its label; none where nothing was tested.
    """
    tested = {label: own for label, own in claims.items() if own}
    judged = [claim for own in tested.values() for claim in own]
    if not judged:
        return ""
    if all(claim.verdict == "counts" for claim in judged):
        return TOO_FEW
    runs: dict[str, list[str]] = {}
    for label, own in tested.items():
        layers = layers_named([c.layer for c in own if c.layer and c.verdict in RISES])
        runs.setdefault(layers or "no layer", []).append(label)
    if list(runs) == ["no layer"]:
        most = short(max(0.0, *(claim.bound for claim in judged)))
        rise = f"a rise of P(source answer) is at most {most}"
        return f"Nothing is claimed: no layer is shown to act, {rise}."
    said = [f"{own} ({'; '.join(names)})" for own, names in runs.items()]
    every = len(tested) == len(claims)
    if every and len(runs) > 1:
        last = max(runs, key=lambda own: len(runs[own]))
        if len(runs[last]) > 1:  # named once, as what is left
            said = [text for text, own in zip(said, runs) if own != last] + [f"{last} (others)"]
    where = f"{next(iter(runs))}, in every run" if every and len(runs) == 1 else ", ".join(said)
    return f"P(source answer) rises at {where}."


def _chain_said(report: Report) -> list[str]:
    said = []
    for finding in (f for f in report.findings if f.key == "chain" and f.courses):
        name = {"relay": "a relayed patch", "cumulative": "the cumulative chain"}
        who = next((text for run, text in name.items() if run in finding.runs[0]), "the chain")
        if told := courses_named(finding):
            said.append(f"Along the chain the effect of {who} {told}.")
    return said


def _read_said(report: Report) -> list[str]:
    finding = report.finding("read")
    if finding is None:
        return []
    steps = steps_named(finding.claims)
    return [f"The head reads the result of {steps} in the thoughts."] if steps else []


def _attention_said(report: Report) -> list[str]:
    finding = report.finding("attention")
    if finding is None or not finding.claims:
        return []
    return [
        f"The token before the answer attends most to {attention_words(finding)}: "
        f"{attention_sizes(finding)}."
    ]


def _needed_said(report: Report) -> list[str]:
    said = []
    for finding in (f for f in report.findings if f.key == "needed"):
        both = places([claim for claim in finding.claims if claim.kind == BOTH])
        if both:
            said.append(f"What restores the answer is also needed for it, at {both}.")
        elif finding.answer == "described" and (where := places(finding.claims)):
            said.append(f"Noising lowers the probability of the clean answer at {where}.")
    return said[:1]


def _around_said(report: Report) -> list[str]:
    """What the answer loses where the readout does not see the question, or the thoughts."""
    finding, edges = report.finding("around"), report.finding("edges")
    if finding is None or not finding.claims:
        return []
    found = [
        f"With {what} hidden from the readout {_fallen(shown)}."
        for edge, what in ((DIRECT, "the question"), (THROUGH, "the thoughts"))
        if needs(finding, edge) and (shown := claim_of(finding, edge)) is not None
    ]
    if edges is not None and (most := needed_words(edges)):
        found.append(f"Of single thoughts the answer loses most without {most}.")
    return found


def _fallen(claim: Claim) -> str:
    if claim.verdict == "rises":
        return f"the answer's probability falls by {short(claim.lead.mean)}"
    return f"the answer becomes less probable in {claim.lead.up} of {claim.lead.n} pairs"


def _nothing_said(report: Report) -> str:
    bounds = [f for f in report.findings if f.key == "cells" and f.claims]
    around = report.finding("around")
    if not bounds and around is not None and around.answer in ("at most", "no") and around.lead:
        return (
            "Nothing is claimed: with the question hidden from the readout the answer's "
            f"probability falls by at most {short(max(around.lead.bound, 0.0))}."
        )
    chain = report.finding("chain")
    if not bounds and chain is not None and chain.answer in ("at most", "no") and chain.lead:
        return (
            "Nothing is claimed: no change along the chain is shown, each is at most "
            f"{short(max(0.0, *(claim.bound for claim in chain.claims)))}."
        )
    if not bounds:
        counts = [f for f in report.findings if f.answer == "counts"]
        return (
            TOO_FEW if counts else "Nothing is claimed: no question of this report could be tested."
        )
    if all(claim.verdict == "counts" for claim in bounds[0].claims):
        return TOO_FEW
    most = max(bounds[0].claims, key=lambda claim: claim.bound)
    return (
        "Nothing is claimed: no single patch is shown to raise the probability of "
        f"{answer_name(report)}; {_gain(most)} is at most {short(max(most.bound, 0.0))} for each."
    )


def _gain(claim: Claim) -> str:
    """What a bound is of."""
    if len(claim.comparisons) > 1:
        return "the smaller of the gains over the unpatched run and over the control's patch"
    return "the gain over the unpatched run"
