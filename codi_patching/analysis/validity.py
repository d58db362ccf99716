"""Whether a run can be trusted, from its records alone: what was expected, what was seen."""

from __future__ import annotations

import numpy as np

from codi_patching.analysis.checks import Check, judged
from codi_patching.analysis.intervals import mean_and_deviation, mean_intervals
from codi_patching.analysis.summary import (
    content_effect,
    groups_of,
    mean_kl,
    rank_cells,
    source_probability,
)
from codi_patching.results.files import CHECKSUMS
from codi_patching.results.read import Results
from codi_patching.results.schema import Array

EXACT = 1e-9
"""What a KL that must be 0 may be instead, in nats: the two runs take the same path."""

LEAST_PAIRS = 20
"""With fewer pairs nothing is said of an effect's sign."""

_SELF_PATCH = {"64": 1e-12, "32": 1e-6}
_SELF_PATCH_HALF = 1e-2
"""What a self-patch may change by rounding, in nats, by the model's precision."""


def check_run(results: Results) -> list[Check]:
    """All checks of one run."""
    return [
        check_unchanged(results),
        check_self_patch(results),
        check_structural_zeros(results),
        check_source_run(results),
        check_chain(results),
        check_recovery(results),
        check_control(results),
        describe_ceiling(results),
        describe_first_cell(results),
        describe_unknown_words(results),
    ]


def check_unchanged(results: Results) -> Check:
    """Measured files are as the run wrote them."""
    name, expected = "unchanged files", f"every measured file has its SHA-256 in {CHECKSUMS}"
    if results.folder is None or not (results.folder / CHECKSUMS).is_file():
        return judged(name, expected, f"there is no {CHECKSUMS}", None)
    changed = ", ".join(results.changed)
    seen = f"missing or changed: {changed}" if changed else "none is missing or changed"
    return judged(name, expected, seen, not changed)


def check_self_patch(results: Results) -> Check:
    """Patching the base run with its own activations changes nothing."""
    precision = results.run.precision
    limit = next((t for digits, t in _SELF_PATCH.items() if digits in precision), _SELF_PATCH_HALF)
    name, expected = "self-patch identity", f"KL at most {limit:g} nats in every cell"
    tried = [pair.self_patch for pair in results.pairs if pair.self_patch is not None]
    known = [value for value in tried if np.isfinite(value)]
    if not known:
        seen = "no pair was run" if not tried else f"undefined in all {len(tried)} pairs"
        return judged(name, expected, seen, None)
    seen = f"at most {max(known):.2g} nats in {len(known)} pairs"
    if len(known) < len(tried):
        return judged(name, expected, f"{seen}; undefined in {len(tried) - len(known)}", False)
    return judged(name, expected, seen, max(known) <= limit)


def check_structural_zeros(results: Results) -> Check:
    """Cells that nothing reads have no effect, with the own and with the control's activations."""
    name, expected = "structural zeros", f"KL at most {EXACT:g} nats where nothing reads the state"
    cells = int(results.structural.sum())
    if not cells:
        return judged(name, expected, "there are no such cells", None)
    seen, worst = [], 0.0
    for kind, values in (("own", results.values), ("control", results.control)):
        kl = values["kl_divergence"][:, results.structural] if values else np.empty(0)
        known = np.abs(kl[np.isfinite(kl)])
        if known.size:
            worst = max(worst, float(known.max()))
            seen.append(f"{kind} at most {known.max():.2g} nats")
    if not seen:
        return judged(name, expected, f"undefined in all {cells} cells", None)
    return judged(name, expected, f"{', '.join(seen)} in {_count(cells, 'cell')}", worst <= EXACT)


def check_source_run(results: Results) -> Check:
    """The source run restores itself."""
    name = "source run against itself"
    expected = f"KL of the source run from itself at most {EXACT:g} nats"
    kl = results.unpatched("source", "kl_to_source")
    known = np.abs(kl[np.isfinite(kl)])
    if not known.size:
        return judged(name, expected, "undefined in every pair", None)
    seen = f"at most {known.max():.2g} nats in {known.size} pairs"
    return judged(name, expected, seen, float(known.max()) <= EXACT)


def check_chain(results: Results) -> Check:
    """In relay each iteration patches exactly what the one before it generated."""
    name, expected = "chain of relay", "every later iteration held what the one before it generated"
    links = sum(pair.chain_links for pair in results.pairs)
    if not links:
        return judged(name, expected, "there are no such patches", None)
    broken = sum(pair.chain_broken for pair in results.pairs)
    return judged(name, expected, f"{links - broken} of {links} patched cells did", not broken)


def check_recovery(results: Results) -> Check:
    """Recovery follows from the logit differences that are kept beside it."""
    difference = results.values["answer_logit_difference"]
    base, source = (
        results.unpatched(run, "answer_logit_difference")[:, None, None]
        for run in ("base", "source")
    )
    name = "recovery"
    expected = "(patched − base) / (source − base) of the answer logit differences"
    recovery = results.values["recovery"]
    known = np.isfinite(recovery)
    if not known.any():
        return judged(name, expected, "undefined in every cell", None)
    with np.errstate(invalid="ignore", divide="ignore"):
        wanted = (difference - base) / (source - base)
    wrong = known & ~(np.abs(recovery - wanted) <= 1e-6 * np.maximum(1.0, np.abs(recovery)))
    pairs = int(wrong.any((1, 2)).sum())
    return judged(name, expected, f"differs in {pairs} of {len(recovery)} pairs", pairs == 0)


def check_control(results: Results) -> Check:
    """The own activations raise the source answer's probability, more than the control's do.

    At one cell, that of the largest mean KL: chosen by disruption, which does not favour either
    side. It holds if the 95 % intervals of both paired differences, own patch minus unpatched run
    and minus control, lie over 0: where the control alone disrupts, only the second does. It fails
    if the second lies under 0.
    """
    name = "own against control"
    expected = "at the cell of the largest mean KL the source answer is likelier with the own "
    expected += "activations than without a patch and than with the control's"
    if results.run.source != "clean":
        return judged(name, expected, f"source is {results.run.source}: no content to carry", None)
    restored, specific = content_effect(results)
    if specific is None:
        return judged(name, expected, "no control was run", None)
    if not (strongest := rank_cells(mean_kl(results), 1)):
        return judged(name, expected, "no cell has an effect beyond rounding", None)
    (cell,) = strongest
    differences = specific[(slice(None), *cell)]
    kept = np.isfinite(differences)
    where, n = results.run.label(cell), int(kept.sum())
    if n == 0:
        return judged(name, expected, "no pair has a control", None)
    mean = float(differences[kept].mean())
    seen = f"{mean:+.3f} in probability at {where}, {n} pairs"
    groups = [group for group, keep in zip(groups_of(results), kept) if keep]
    if len(set(groups)) < LEAST_PAIRS:
        return judged(name, expected, f"{seen}: too few to tell", None)
    low, high = mean_intervals(differences[kept], groups, results.run.seed)
    seen += f", 95 % interval {float(low):+.3f} to {float(high):+.3f}"
    if high < 0:
        return judged(name, expected, seen, False)
    if not low > 0:
        return judged(name, expected, f"{seen}: cannot be told apart", None)
    rise = restored[(slice(None), *cell)][kept]
    low, high = mean_intervals(rise, groups, results.run.seed)
    seen += f"; over the unpatched run {float(rise.mean()):+.3f}"
    if not low > 0:
        return judged(name, expected, f"{seen}, which is not told apart from none", None)
    return judged(name, expected, seen, True)


def describe_ceiling(results: Results) -> Check:
    """How far all thoughts of the source run, at all layers, bring its answer."""
    name = "ceiling"
    expected = "all thoughts of the source run give its answer as far as thoughts carry it"
    metric = source_probability(results.run)
    runs = ("base", "ceiling", "ceiling_control", "source")
    means = [_mean(results.unpatched(run, metric)) for run in runs]
    hit = metric.replace("probability", "").rstrip("_")
    share = _mean(results.unpatched("ceiling", f"predicts_{hit}"))
    if np.isnan(means[1]):
        return judged(name, expected, "no ceiling was run", None)
    control = "" if np.isnan(means[2]) else f"; with the control's thoughts {means[2]:.3f}"
    seen = (
        f"probability of the source answer {means[1]:.3f} (base run {means[0]:.3f}, source run "
        f"{means[3]:.3f}{control}); predicted in {share:.0%} of pairs"
    )
    return Check(name, expected, seen, "described")


def describe_first_cell(results: Results) -> Check:
    """How small the effect is where little has been computed yet: position 0 at layer 0."""
    grid, name = results.run.grid, "position 0 at layer 0"
    expected = "a small share of the strongest cell's mean KL: so early little is computed there"
    if grid.column != "position" or grid.whole_layers or "0" not in grid.layers:
        return judged(name, expected, "there is no such cell", None)
    kl = mean_kl(results)
    cell = float(kl[grid.layers.index("0"), 0])
    strongest = float(np.nanmax(kl, initial=0.0))
    if not np.isfinite(cell) or strongest <= 0:
        return judged(name, expected, "no cell has an effect", None)
    seen = f"{cell:.3g} of {strongest:.3g} nats ({cell / strongest:.1%})"
    return Check(name, expected, seen, "described")


def describe_unknown_words(results: Results) -> Check:
    """Which questions have words that the model cannot read."""
    name, expected = "unknown words", "the tokenizer knows every word of every question"
    found = unknown_words(results)
    if not found:
        return judged(name, expected, "it does", True)
    pairs = sum(bool(pair.unknown_words) for pair in results.pairs)
    seen = f"{_count(pairs, 'pair')} with words it does not know: {', '.join(list(found)[:10])}"
    return Check(name, expected, seen + ", …" * (len(found) > 10), "described")


def unknown_words(results: Results) -> dict[str, list[str]]:
    """Words that the tokenizer does not know, each with the ids of the pairs that have it."""
    found: dict[str, list[str]] = {}
    for pair_id, pair in zip(results.pair_ids, results.pairs):
        for word in pair.unknown_words:
            found.setdefault(word, []).append(pair_id)
    return found


def _mean(values: Array) -> float:
    return float(mean_and_deviation(values)[0])


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
