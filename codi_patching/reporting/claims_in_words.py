"""Claims in a few words, which sentences, tables, pages and figures share."""

from __future__ import annotations

import math
from collections.abc import Sequence

from codi_patching.analysis.attended import most_attended
from codi_patching.analysis.findings import Carried, Claim, Finding, StrataFinding, StrataTable
from codi_patching.analysis.knocked_out import CUT, DIRECT, THROUGH, claim_of, most_needed, needs
from codi_patching.analysis.report import Report
from codi_patching.analysis.used import READ
from codi_patching.reporting.formats import layers_named, listed, short, with_interval
from codi_patching.reporting.names import counted, data_name, edge_name, model_name, title
from codi_patching.reporting.question_texts import BETWEEN, DESCRIBED, SIDES, UNTOLD
from codi_patching.results.dataset import run_of
from codi_patching.results.description import ALL, RunDescription, place_name

RISES, FALLS = ("rises", "more often"), ("falls", "less often")
"""Verdicts that something goes up, or down."""


CUT_VERDICTS = {
    "rises": "the answer falls",
    "falls": "the answer rises",
    "more often": "the answer falls in more pairs",
    "less often": "the answer rises in more pairs",
}
"""Verdicts on how far the answer falls where an edge is cut."""


def claim_words(claim: Claim) -> str:
    """A claim's numbers: of the comparison with the smaller gain."""
    lead, unit = claim.lead, {"logits": " logits", "nats": " nats"}.get(claim.unit, "")
    estimate = f"{with_interval(lead.mean, lead.low, lead.high)}{unit}"
    if claim.verdict in ("more often", "less often"):
        way = "up" if claim.verdict == "more often" else "down"
        return f"{way} in {getattr(lead, way)} of {lead.n} pairs; mean {estimate}"
    if claim.verdict in ("no", "at most"):
        return f"at most {short(max(claim.bound, 0.0))}{unit}"
    if claim.verdict == "counts":
        return f"up in {lead.up}, down in {lead.down} of {lead.n} pairs"
    return estimate


def verdict_words(claim: Claim, finding: Finding) -> str:
    """A claim's verdict; of a difference between two models, which of them carries more.

    Example: `rises`, `codi-tiny carries more`.
    """
    if claim.kind.startswith(CUT):
        return CUT_VERDICTS.get(claim.verdict, claim.verdict)
    if finding.key not in BETWEEN or not claim.claimed:
        return claim.verdict
    first, second = models_of(finding)
    more = f"{first if claim.verdict in RISES else second} carries more"
    return more if claim.verdict in ("rises", "falls") else f"{more} in more pairs"


def models_of(finding: Finding) -> tuple[str, str]:
    """The two models of a difference, the one first from which the other is subtracted."""
    first, second = (run.partition(": ")[0] for run in finding.runs)
    return first, second


def claim_details(claim: Claim) -> list[str]:
    """Each comparison of a claim in full, for a fold or an appendix."""
    names = {"unpatched": "the unpatched run", "control": "the control's patch"}
    names["chance"] = "another pair's result"
    up, down = "up", "down"
    if claim.kind.startswith(CUT):
        names |= {"unpatched": "the uncut run", "control": "the control's cut"}
        up, down = "lower", "higher"
    shares = [with_interval(c.mean, c.low, c.high) for c in claim.comparisons]
    if any(c.against == "nothing" for c in claim.comparisons):
        return shares
    return [
        f"relative to {names[c.against]} {share}, {up} in {c.up} and {down} in {c.down} of {c.n} "
        "pairs"
        for c, share in zip(claim.comparisons, shares, strict=True)
    ]


def described_words(finding: Finding) -> str:
    """What a description shows, in a few words."""
    lead = finding.lead
    if finding.key in SIDES and lead is not None:
        more, less = SIDES[finding.key]
        return {1: more, -1: less, 0: "neither more than the other"}[lead.side]
    if finding.key == "read":
        return f"{steps_named(finding.claims)} can be read" if finding.claims else "nothing read"
    if finding.key == "needed":
        where = places(finding.claims)
        return f"the answer falls at {where}" if where else "the answer is not shown to fall"
    if finding.key == "edges" and (said := needed_words(finding)):
        return said
    if finding.key in UNTOLD and lead is not None and _may_be_nothing(lead):
        return UNTOLD[finding.key]
    if finding.key == "layers_from_positions" and "r squared" not in dict(finding.numbers):
        return "no layer effect to predict"
    return DESCRIBED.get(finding.key, "at {}").format(lead.name if lead else "no cell")


def _may_be_nothing(claim: Claim) -> bool:
    """Whether intervals are not all on one side of 0; where pairs are alike, whether they are 0."""
    some = any(math.isnan(c.low) and c.mean != 0 for c in claim.comparisons)
    return claim.side == 0 and not some


def around_words(finding: Finding) -> str:
    """Whether the readout needs the question, and whether it needs the thoughts."""
    said = {"yes": "yes", "no": "no", "counts": "counts alone"}.get(finding.answer, "not shown")
    if finding.answer == "counts":
        return said
    through = claim_of(finding, THROUGH)
    if needs(finding, THROUGH):
        return f"{said}, and from the thoughts" if finding.answer == "yes" else f"{said}; from them"
    if through is not None and through.verdict == "no":
        return f"{said}; the thoughts are not needed"
    return f"{said}; the thoughts are not shown to be needed"


def around_sizes(finding: Finding) -> str:
    """How far the answer falls without the question, and without the thoughts."""
    claims = [claim_of(finding, edge) for edge in (DIRECT, THROUGH)]
    return "; ".join(f"{edge_name(c.column)} {claim_words(c)}" for c in claims if c is not None)


def needed_words(finding: Finding) -> str:
    """Which thought's edge the answer loses most with, by number of steps, and how much."""
    parts = [
        (length, f"{edge_name(claim.column)} {short(claim.lead.mean)}")
        for length, claim in most_needed(finding).items()
    ]
    if not parts or parts[0][0] == CUT:
        return "".join(said for _, said in parts)
    first, *rest = ((said, length.removesuffix(" steps")) for length, said in parts)
    told = [f"{first[0]} in problems of {counted(int(first[1]), 'step')}"]
    return listed([*told, *(f"{said} of {length}" for said, length in rest)])


def attention_words(finding: Finding) -> str:
    """What the token before the answer looks at most: `z1 in problems of 2 steps, z3 of 3`."""
    most = most_attended(finding)
    seen = {claim.column for claim in most.values()}
    if len(seen) == 1:
        return f"z{seen.pop()}" + (", whatever the number of steps" if len(most) > 1 else "")
    first, *rest = (
        (f"z{claim.column}", length.removesuffix(" steps")) for length, claim in most.items()
    )
    return listed(
        [f"{first[0]} in problems of {counted(int(first[1]), 'step')}"]
        + [f"{column} of {length}" for column, length in rest]
    )


def attention_sizes(finding: Finding) -> str:
    """How much of its attention, beside an even spread or, with a run of patching, what acts."""
    most = list(most_attended(finding).values())
    shares, layers = [short(c.lead.mean) for c in most], [c.layer or "" for c in most]
    if len(set(layers)) == 1:
        said = f"{listed(shares)} at layer {layers[0]}"
    else:
        said = listed([f"{s} at layer {layer}" for s, layer in zip(shares, layers, strict=True)])
    known = dict(finding.numbers)
    if "acting" not in known:
        return f"{said}; {short(known['evenly spread'])} if spread evenly"
    acting, hardly = int(known["acting"]), int(known["acting, hardly seen"])
    said += f"; {acting} of {known['cells']:.0f} cells act"
    if hardly:  # that all are seen says little: the largest of many shares seldom is small
        said += f", {hardly} of them hardly seen"
    rho = known["rank agreement"]
    return f"{said}; rank agreement with the share above {short(rho)}" if rho == rho else said


def places(claims: Sequence[Claim], verdicts: Sequence[str] = RISES) -> str:
    """Where something is claimed, by position: `z0 and z1 at layers 0 to 15, z3 at layers 0 to 6`.

    Positions with the same layers stand together; layers alone where a layer is one cell.
    """
    shown = [claim for claim in claims if claim.verdict in verdicts]
    if not shown:
        return ""
    if all(claim.column in (None, ALL) for claim in shown):
        return layers_named([claim.layer for claim in shown if claim.layer]) or "some layers"
    by_column: dict[str, tuple[str, ...]] = {}
    for claim in shown:
        column = _column_named(claim)
        by_column[column] = (*by_column.get(column, ()), claim.layer or "")
    by_layers: dict[tuple[str, ...], list[str]] = {}
    for column, layers in by_column.items():
        by_layers.setdefault(layers, []).append(column)
    parts = [
        f"{listed(columns)} at {layers_named(layers)}" for layers, columns in by_layers.items()
    ]
    if len(parts) > 4:
        columns = sorted(by_column, key=lambda name: (len(name), name))
        return f"{len(shown)} of {len(claims)} cells, of {listed(columns)}"
    return ", ".join(parts)


def _column_named(claim: Claim) -> str:
    """What sentences call a claim's column: `z1`, `head 2`, `the changed number`."""
    column = claim.column or ""
    if claim.axis == "head":
        return f"head {column}"
    return f"z{column}" if column.isdigit() else place_name(column)


def best_carried(table: StrataTable) -> dict[str, Carried]:
    """Of each position what is shown of it, else what is not."""
    best: dict[str, Carried] = {}
    for carried in table.carried:
        known = best.get(carried.column)
        if known is None or (known.step is None and carried.step is not None):
            best[carried.column] = carried
    return best


def carried_sentence(strata: StrataFinding) -> str:
    """What each thought carries, and at which layers.

    Example: `At layers 0 to 6, thoughts z0 and z1 carry the result of step 1 and z2 of step 2.`
    """
    where = _where_carried(strata)
    parts: list[str] = []
    for step, by_column in _by_step(strata):
        names = listed([f"z{column}" for column in by_column])
        said = f"{names} of step {step}"
        if not parts:
            many = len(by_column) > 1
            noun = f"{'thought' if where else 'Thought'}{'s' if many else ''}"
            said = f"{where}{noun} {names} {'carry' if many else 'carries'}"
            said += f" the result of step {step}"
        parts.append(said + _partly(list(by_column.values())))
    shorter = any(c.step is None and c.lengths for c in strata.main.carried)
    end = "; in shorter problems the later thoughts are not shown to carry any" if shorter else ""
    return f"{listed(parts)}{end}."


def carried_title(strata: StrataFinding) -> str:
    """What each thought carries, in the few words of a narrow figure's title.

    Example: `At layers 0 to 6, z0 and z1 carry the result of step 1, z2 step 2, z3 and z4 step 3.`
    """
    parts: list[str] = []
    for step, by_column in _by_step(strata):
        many = len(by_column) > 1
        verb = "" if parts else f"{'carry' if many else 'carries'} the result of "
        names = listed([f"z{column}" for column in by_column])
        parts.append(f"{names} {verb}step {step}{_partly(list(by_column.values()))}")
    return f"{_where_carried(strata)}{', '.join(parts)}."


def _where_carried(strata: StrataFinding) -> str:
    """The layers at which the same is carried as in the main table, unless these are all."""
    same = [table.layer for table in strata.others if _steps_of(table) == _steps_of(strata.main)]
    return f"At {layers_named(same)}, " if 0 < len(same) < len(strata.others) else ""


def _by_step(strata: StrataFinding) -> list[tuple[int, dict[str, Carried]]]:
    """The positions that carry each step, by column."""
    steps: dict[int, dict[str, Carried]] = {}
    for carried in strata.main.carried:
        if carried.step is not None:
            steps.setdefault(carried.step, {}).setdefault(carried.column, carried)
    return sorted(steps.items())


def _steps_of(table: StrataTable) -> dict[str, int | None]:
    return {column: carried.step for column, carried in best_carried(table).items()}


def later_layers(strata: StrataFinding) -> list[str]:
    """Layers at which each position carries what the next one carries in the main table."""
    main, columns = _steps_of(strata.main), strata.main.columns
    wanted = dict(zip(columns[:-1], (main[column] for column in columns[1:])))
    if not any(wanted.values()):
        return []
    found = []
    for table in strata.others:
        steps = _steps_of(table)
        last = steps.pop(columns[-1], None)  # a position without a cell carries nothing
        if last is None and steps == wanted and {**steps, columns[-1]: None} != main:
            found.append(table.layer)
    return found


def _partly(carried: Sequence[Carried]) -> str:
    """In how many pairs a result is carried, where that is not nearly all."""
    weakest = min(carried, key=lambda c: c.restored / max(c.n, 1))
    if weakest.restored >= 0.9 * weakest.n:
        return ""
    return f" in {weakest.restored} of {weakest.n} pairs" + " or more" * (len(carried) > 1)


def strata_words(strata: StrataFinding) -> str:
    """Which step each thought carries, or the most that any of them may."""
    by_column = best_carried(strata.main)
    if all(carried.step is None for carried in by_column.values()):
        alike = [f"z{column}" for column, c in by_column.items() if math.isnan(c.most)]
        bounds = [c.most for c in by_column.values() if not math.isnan(c.most)]
        said = f"at most {short(max(bounds))} of pairs restored" if bounds else ""
        if not alike:
            return f"nothing shown, {said}"
        whichever = f"{listed(alike)} in some pairs, no step told apart"
        return f"{whichever}; elsewhere {said}" if said else whichever
    steps = ["–" if c.step is None else str(c.step) for c in by_column.values()]
    return f"step {' · '.join(steps)} in z0 to z{len(steps) - 1}"


def direct_words(finding: Finding) -> str:
    """At which layers the direct effect is shown, and the one through later thoughts."""
    said = [
        f"{name} at {where}"
        for name, where in (
            ("direct", places(of_kind(finding, "direct"))),
            ("mediated", places(of_kind(finding, "mediated"))),
            ("undone by later thoughts", places(of_kind(finding, "mediated", FALLS), FALLS)),
        )
        if where
    ]
    return ", ".join(said) or {"no": "no"}.get(finding.answer, "not shown")


def direct_sizes(finding: Finding) -> str:
    """The largest direct and mediated effect that are claimed, each with its layer."""
    said = []
    for kind in ("direct", "mediated"):
        largest = max(of_kind(finding, kind), key=lambda c: c.lead.mean, default=None)
        if largest is not None:
            said.append(f"{claim_words(largest)} at {largest.name}")
    return "; ".join(said) or (claim_words(finding.lead) if finding.lead else "")


def of_kind(finding: Finding, kind: str, verdicts: Sequence[str] = RISES) -> list[Claim]:
    """Claims of a kind that something rises, or falls."""
    return [c for c in finding.claims if c.kind == kind and c.verdict in verdicts]


def courses_named(finding: Finding) -> str:
    """What chains do, by layer: `fades at layers 0 to 5, saturates at layers 7 to 15`."""
    names = ("compounds", "saturates", "fades", "turns")
    parts = []
    for name in names:
        layers = [course.layer for course in finding.courses if course.course == name]
        if layers:
            parts.append(f"{name} at {layers_named(layers)}")
    return ", ".join(parts)


def course_words(finding: Finding) -> str:
    """The effects along a chain at the layer where they are largest."""
    told = [c for c in finding.courses if c.course not in ("none", "open")] or finding.courses
    course = max(told, key=lambda c: c.effects[0].lead.mean)
    effects = " → ".join(short(effect.lead.mean) for effect in course.effects)
    change = course.change
    end = f"; {change.name.partition(', ')[2]}: {claim_words(change)}" if change else ""
    return f"{effects} at layer {course.layer}{end}"


def steps_named(claims: Sequence[Claim]) -> str:
    """The steps whose results are shown to be read, of claims that they are: `steps 1 and 2`."""
    read = {c.step for c in claims if c.kind == READ and c.step and c.verdict in RISES}
    steps = [str(step) for step in sorted(read)]
    return f"step{'s' if len(steps) > 1 else ''} {listed(steps)}" if steps else ""


def between_words(finding: Finding) -> str:
    """Of two models, how many claims go each way."""
    up = sum(claim.verdict in RISES for claim in finding.claims)
    down = sum(claim.verdict in FALLS for claim in finding.claims)
    first, second = models_of(finding)
    if len(finding.claims) == 1:
        return first if up else second
    return f"{first} in {up}, {second} in {down} of {len(finding.claims)} cells"


def _of_run(report: Report) -> RunDescription:
    return run_of(next(iter(report.datasets.values())))


def heading(report: Report) -> str:
    """What was run: a run's title, or the model or models and the data."""
    run = _of_run(report)
    if len(report.datasets) == 1:
        return title(run)
    return f"{listed(report.models) or model_name(run)} on {data_name(run)}"


def side(report: Report) -> str:
    """Which run the patches are taken from: `clean` or `corrupted`."""
    return "clean" if _of_run(report).clean_is_source else "corrupted"


def answer_name(report: Report) -> str:
    """What the patches push towards: `the clean answer`."""
    return f"the {side(report)} answer"
