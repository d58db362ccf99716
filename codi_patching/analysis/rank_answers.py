"""Answers to the research questions, each a sentence computed from the comparison's numbers.

An answer says what the corrected test shows at the 5 % level: a difference, no evidence for one, or
that the two things are identical by construction. Its evidence is the numbers it rests on.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

LEVEL = 0.05


@dataclass(frozen=True)
class Finding:
    """A research question and its answer.

    Attributes:
        question: As it was asked.
        answer: One sentence or two.
        evidence: The statistics that it rests on.
    """

    question: str
    answer: str
    evidence: str


def answer_questions(compared: Mapping[str, Any]) -> list[Finding]:
    """All questions that the arms of a comparison can answer; see `comparison.compare_arms`."""
    findings = [_positions(compared), _shares(compared), _early_or_late(compared)]
    for name, chain in compared["chains"].items():
        findings += [
            _along_the_chain(name, chain),
            _against_parallel(name, compared["iterative_against_parallel"][name]),
        ]
    findings += [_combine(compared), _predictable(compared)]
    return findings + [
        _criticality(name, test) for name, test in compared["criticality_and_chain"].items()
    ]


def _positions(compared: Mapping[str, Any]) -> Finding:
    positions = compared["positions"]
    test, means = positions["friedman"], positions["means"]
    known = {name: m for name, m in means.items() if m["mean"] is not None}
    strongest = max(known, key=lambda name: known[name]["mean"])
    if test["identical"]:
        answer = "No: all positions have the same effect in every pair, to rounding."
    elif test["p"] is None or test["p"] >= LEVEL:
        answer = "No evidence that positions differ."
    else:
        beaten = [
            _other(row["positions"], strongest)
            for row in positions["pairs"]
            if strongest in row["positions"].split(" − ") and _significant(row)
        ]
        answer = (
            f"Yes: position {strongest} is the most critical, with a mean KL of "
            f"{_interval(known[strongest])} nats over layers; "
            + (
                f"it differs from position {_list(beaten)} (corrected)."
                if beaten
                else "no single difference from it survives correction."
            )
        )
    differing = [
        layer
        for layer, row in positions["layers"].items()
        if row["p_holm"] is not None and row["p_holm"] < LEVEL
    ]
    answer += (
        f" Within a layer they differ in {len(differing)} of {len(positions['layers'])} layers."
    )
    evidence = f"Friedman over positions: {_friedman(test)}; means " + ", ".join(
        f"position {name} {_interval(mean)}" for name, mean in known.items()
    )
    return Finding("Are some positions more critical than others?", answer, evidence)


def _shares(compared: Mapping[str, Any]) -> Finding:
    rows = compared["shares_of_early_and_late_layers"]
    moved = [row for row in rows if _significant(row)]
    if all(row["identical"] for row in rows):
        answer = "No: early and late layers share their effect among positions identically."
    elif not moved:
        answer = "No evidence that early and late layers rely on different positions."
    else:
        shares = [
            f"position {row['position']} goes from {row['first']:.1%} to {row['second']:.1%}"
            for row in moved
        ]
        answer = f"Yes: from early to late layers the share of {_list(shares)}."
    evidence = "; ".join(f"position {row['position']}: {_paired(row)}" for row in rows)
    return Finding("Do different layers rely on different positions?", answer, evidence)


def _early_or_late(compared: Mapping[str, Any]) -> Finding:
    sentences, evidence = [], []
    for what, test in compared["early_against_late"].items():
        p = test["p_wilcoxon"]
        if test["identical"]:
            sentences.append(f"early and late {what} are identical")
        elif p is None or p >= LEVEL:
            sentences.append(f"no evidence that early and late {what} differ")
        else:
            stronger = "early" if test["difference"] > 0 else "late"
            sentences.append(f"{stronger} {what} have the larger effect")
        evidence.append(f"{what}: {_paired({**test, 'p_wilcoxon_holm': p})}")
    answer = "; ".join(sentences)
    return Finding("Early or late?", answer[0].upper() + answer[1:] + ".", "; ".join(evidence))


def _along_the_chain(name: str, rows: Sequence[Mapping[str, Any]]) -> Finding:
    counts = Counter(row["verdict"] for row in rows)
    if all(row["identical"] for row in rows):
        answer = "The effect is the same after every iteration, to rounding."
    else:
        answer = f"Of {len(rows)} layers: " + "; ".join(
            f"{verdict} in {count} ({_list([r['layer'] for r in rows if r['verdict'] == verdict])})"
            for verdict, count in counts.most_common()
        ) + "."  # fmt: skip
        answer += (
            " So it depends on the layer."
            if len(counts) > 1
            else " There is no evidence that it depends on the layer."
        )
    evidence = "last minus first iteration, KL: " + "; ".join(
        f"layer {row['layer']} {_paired(row)}" for row in rows
    )
    return Finding(
        f"Does the {name} chain compound, saturate or fade, and does it depend on the layer?",
        answer,
        evidence,
    )


def _against_parallel(name: str, compared: Mapping[str, Any]) -> Finding:
    question = f"Is iterative patching ({name}) more effective than parallel patching?"
    metrics = compared["metrics"]
    overall, layers = metrics["kl_divergence"]["overall"], metrics["kl_divergence"]["layers"]
    evidence = "; ".join(
        f"{metric} {_paired({**m['overall'], 'p_wilcoxon_holm': m['overall']['p_wilcoxon']})}"
        for metric, m in metrics.items()
    )
    if compared["same_by_construction"]:
        answer = (
            "They are identical by construction: the last cumulative iteration is layer patching "
            "with recomputed latents."
        )
        return Finding(question, answer, evidence)
    if overall["identical"]:
        return Finding(question, "They agree to rounding in every pair, unexpectedly.", evidence)
    p = overall["p_wilcoxon"]
    if p is None or p >= LEVEL:
        answer = "No evidence for a difference in KL overall."
    else:
        more = "More" if overall["difference"] > 0 else "Less"
        answer = (
            f"{more} effective overall: mean KL {overall['first']:.4g} against "
            f"{overall['second']:.4g} nats."
        )
    higher = [row["layer"] for row in layers if _significant(row) and row["difference"] > 0]
    lower = [row["layer"] for row in layers if _significant(row) and row["difference"] < 0]
    answer += (
        f" By layer (corrected) it moves the answer more at {_list(higher) or 'none'}, "
        f"less at {_list(lower) or 'none'}."
    )
    return Finding(question, answer, evidence)


def _combine(compared: Mapping[str, Any]) -> Finding:
    question = "How do position-specific effects combine?"
    sentences, evidence = [], []
    for whole, effects in compared["additivity"].items():
        for effect, found in effects.items():
            line, broken = found["line"], found["breaks_at"]
            if line["slope"] is None:
                continue
            sentences.append(
                f"{effect} against {whole}: all at once is {line['slope']:.2f} times the sum of "
                f"single positions plus {line['intercept']:.2g}, R² {line['r_squared']:.2f}; sum "
                f"and whole differ at {f'layers {_list(broken)}' if broken else 'no layer'}"
            )
            evidence.append(
                f"{whole}, {effect}: "
                + "; ".join(f"layer {row['layer']} {_paired(row)}" for row in found["layers"])
            )
    if not sentences:
        answer = (
            "Not answered: it takes all positions at once with the latents that the single "
            "positions have (a cumulative chain, or layer patching with recomputed latents)."
        )
        return Finding(question, answer, "none")
    return Finding(question, ". ".join(sentences) + ".", " | ".join(evidence))


def _predictable(compared: Mapping[str, Any]) -> Finding:
    question = "Are layer effects predictable from position effects?"
    found = compared["prediction_of_layers_from_positions"]
    share = found["r_squared"]
    if share is None:
        return Finding(question, "Not answered: there are too few pairs.", f"n = {found['n']}")
    low, high = found["ci_low"], found["ci_high"]
    verdict = "Yes" if low > 0 else ("No" if high < 0 else "No evidence that they are")
    answer = (
        f"{verdict}: a linear fit to the other pairs predicts {share:.1%} of the variance of a "
        "left-out pair's layer effects."
    )
    weights = ", ".join(f"{weight:.3g}" for weight in found["weights"])
    evidence = (
        f"leave-one-pair-out R² {share:.3f} [{low:.3f}, {high:.3f}], n = {found['n']}; weights of "
        f"the positions, then the constant: {weights}"
    )
    return Finding(question, answer, evidence)


def _criticality(name: str, test: Mapping[str, Any]) -> Finding:
    question = f"Do critical layers have strong iterative effects ({name})?"
    rho, p = test["rho"], test["p"]
    if rho is None:
        return Finding(question, "Not answered: one of the two does not vary.", f"n = {test['n']}")
    if p >= LEVEL:
        answer = "No evidence that layer criticality and the chain's effect go together."
    else:
        answer = "Yes: they go together." if rho > 0 else "The other way round: they go apart."
    evidence = (
        f"Spearman's ρ {rho:.3f} [{test['ci_low']:.3f}, {test['ci_high']:.3f}] over {test['n']} "
        f"layers, p {_p(p)}"
    )
    return Finding(question, answer, evidence)


def _significant(row: Mapping[str, Any]) -> bool:
    return row["p_wilcoxon_holm"] is not None and row["p_wilcoxon_holm"] < LEVEL


def _other(pair: str, one: str) -> str:
    return next(name for name in pair.split(" − ") if name != one)


def _list(names: Sequence[str]) -> str:
    return ", ".join(names)


def _interval(summary: Mapping[str, Any]) -> str:
    if summary["ci_low"] is None:
        return f"{summary['mean']:.4g}"
    return f"{summary['mean']:.4g} [{summary['ci_low']:.4g}, {summary['ci_high']:.4g}]"


def _friedman(test: Mapping[str, Any]) -> str:
    if test["p"] is None:
        return f"not tested, n = {test['n']}"
    return (
        f"χ²({test['conditions'] - 1}) = {test['chi_squared']:.2f}, p {_p(test['p'])}, "
        f"W = {test['kendall_w']:.2f}, n = {test['n']}"
    )


def _paired(row: Mapping[str, Any]) -> str:
    if row["identical"]:
        return f"identical in {row['n']} pairs"
    if row["p_wilcoxon_holm"] is None:
        return f"not tested, n = {row['n']}"
    size = "" if row["effect_size"] is None else f"d_z {row['effect_size']:.2f}, "
    return (
        f"Δ {row['difference']:.4g} [{row['ci_low']:.4g}, {row['ci_high']:.4g}], {size}"
        f"p {_p(row['p_wilcoxon_holm'])}, n = {row['n']}"
    )


def _p(value: float) -> str:
    return "< 0.0001" if value < 1e-4 else f"= {value:.4f}"
