"""What is described and never judged: disruption, how well positions predict layers, rank order."""

from __future__ import annotations

import numpy as np
from scipy import stats

from codi_patching.analysis.arms import THOUGHT, Arm, Array, command
from codi_patching.analysis.claims import Claim, Finding, unanswered
from codi_patching.analysis.effects import content, mean_over, without_rounding
from codi_patching.analysis.families import Family
from codi_patching.analysis.intervals import ROUNDING, median_interval, share_of_largest
from codi_patching.analysis.prediction import Prediction, predict_held_out
from codi_patching.analysis.questions.setup import Setting, Setup, common_layers
from codi_patching.analysis.sentences import number

FAMILY = "described"
KL = "kl_divergence"
PREDICTION = "Are layer effects predictable from the effects of single positions"


def described_family(setup: Setup) -> Family:
    """Disruption of every arm, and prediction for all matched latents."""
    findings = [_disruption(arm, setup) for arm in setup.arms if KL in arm.values]
    for setting in setup.settings():
        findings += [_prediction(setup, latents, setting) for latents in ("frozen", "recomputed")]
    return Family(FAMILY, (), tuple(findings))


def _disruption(arm: Arm, setup: Setup) -> Finding:
    """Median KL by cell; medians, since the mean of KL has no trustworthy interval."""
    question = f"Where does patching disrupt the answer most, whatever the content ({arm.name})?"
    claims = []
    for i, j in np.argwhere(~arm.structural):
        values = without_rounding(arm.values[KL][:, i, j])
        median, low, high = median_interval(values, arm.groups)
        if not np.isnan(median):
            claims.append(
                Claim(
                    arm.cell_name(i, j), "not applicable", median, _known(low), _known(high), None,
                    int(np.isfinite(values).sum()),
                    setup.thresholds.nats, "nats", "median KL", arm.layers[i], arm.columns[j],
                    "unpatched alone",
                )
            )  # fmt: skip
    if not claims:
        return unanswered(question, "No pair has a value in any cell.", (arm.name,), FAMILY)
    lead = max(claims, key=lambda claim: claim.estimate or 0.0)
    if not lead.estimate:
        reason = (
            f"Described, not judged. No cell has a median KL beyond rounding ({ROUNDING:g} nats)."
        )
        return unanswered(question, reason, (arm.name,), FAMILY)
    row, column = arm.layers.index(lead.layer or ""), arm.columns.index(lead.column or "")
    values = arm.values[KL][:, row, column]
    share = share_of_largest(values)
    interval = "no interval"
    if lead.low is not None:
        interval = f"95 % interval {number(lead.low)} to {number(lead.high)}"
    sentence = (
        f"Described, not judged. The largest median of KL to the unpatched run is "
        f"{number(lead.estimate)} nats at {lead.name} ({interval}, of this cell alone; n = "
        f"{lead.n} pairs). KL says how much the answer's distribution moves, and nothing about "
        f"whose content moved it. The five largest pairs have {share:.0%} of that cell's mean of "
        f"{np.nanmean(values):.3g} nats"
        + (", so the mean says more about them than about the sample." if share > 0.5 else ".")
    )
    if not np.isfinite(share):
        sentence = sentence[: sentence.index(" The five")]
    return Finding(
        question, "not applicable", lead.estimate, lead.low, lead.high, None, lead.n,
        setup.thresholds.nats, "nats", sentence, (arm.name,), tuple(claims), FAMILY,
    )  # fmt: skip


def _prediction(setup: Setup, latents: str, setting: Setting) -> Finding:
    question = f"{PREDICTION} ({latents} latents)?"
    position = setup.one("position", latents, None, setting)
    whole = setup.whole(latents, setting)
    if position is None or whole is None:
        made = command("position" if position is None else "layer", latents, None, setting[1])
        reason = f"It takes both with {latents} latents; `{made}`."
        return unanswered(question, reason, family=FAMILY)
    names = (position.name, whole.name)
    singles, together = _effects(position, whole)
    found = predict_held_out(singles, together, position.groups, setup.seed, setup.thresholds.folds)
    if found.r_squared is None:
        reason = "Not described: too few pairs, or layer effects that do not vary."
        return unanswered(question, reason, names, FAMILY)
    return _describe(question, found, names, _ranks(singles, together))


def _effects(position: Arm, whole: Arm) -> tuple[Array, Array]:
    """Own minus unpatched: `(pairs, layers, positions)` and `(pairs, layers)`."""
    rows = [
        row
        for row in common_layers(position, whole)
        if row[0] != THOUGHT and not whole.structural[row[2]].all()
    ]
    here, there = [row[1] for row in rows], [row[2] for row in rows]
    return (
        content(position, structural=0.0).restored[:, here],
        content(whole, structural=0.0).restored[:, there, 0],
    )


def _ranks(singles: Array, together: Array) -> float:
    """Spearman's rank correlation over layers of mean sums and mean wholes."""
    sums, wholes = mean_over(singles.sum(axis=2), 0), mean_over(together, 0)
    if len(sums) < 3 or np.ptp(sums) == 0 or np.ptp(wholes) == 0:
        return float("nan")
    return float(stats.spearmanr(sums, wholes).statistic)


def _describe(question: str, found: Prediction, names: tuple[str, str], rho: float) -> Finding:
    assert found.r_squared is not None
    interval = "no interval"
    if found.low is not None and found.high is not None:
        interval = f"95 % interval {found.low:.2f} to {found.high:.2f}"
    order = f" Over layers, sums and wholes have a rank correlation of {rho:.2f}."
    sentence = (
        f"Described, not judged. A linear fit to the other pairs explains R² = "
        f"{found.r_squared:.2f} ({interval}; n = {found.n} pairs) of the variance of a held-out "
        "pair's layer effects on the answer's probability around the other pairs' means of each "
        f"layer, under 0 where these predict better.{order if np.isfinite(rho) else ''}"
    )
    return Finding(
        question, "not applicable", found.r_squared, found.low, found.high, None, found.n, None,
        "R²", sentence, names, (), FAMILY,
    )  # fmt: skip


def _known(value: float) -> float | None:
    return float(value) if np.isfinite(value) else None
