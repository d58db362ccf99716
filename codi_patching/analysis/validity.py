"""Whether a run can be trusted, from its dataset alone: what was expected, what was seen.

Validity is measured: cells and whole runs that the reference engine and independent metrics made
again, self-patches, cells that nothing reads, chains, own against control. What compares files with
themselves is a file check, and tells of nothing but the files.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import xarray as xr

from codi_patching.analysis.checks import Check, judged
from codi_patching.analysis.effects import cells_of, content, of_run, source_probability
from codi_patching.analysis.intervals import ROUNDING, mean_intervals
from codi_patching.analysis.made_again import (
    check_made_again,
    check_read_again,
    limits_of,
    rounding_of,
)
from codi_patching.results.dataset import (
    CONTROL,
    OWN,
    has_control,
    is_attention,
    is_knockout,
    pairs_of,
    patches,
    run_of,
    structural_of,
)
from codi_patching.results.description import Mask, RunDescription
from codi_patching.results.layout import CHECKSUMS

EXACT = 1e-9
"""What a KL that must be 0 may be instead, in nats: the two runs take the same path."""

SHARES_SUM = 1e-5
"""How far the sum of a reader's shares may be off, of shares that are kept to seven decimals."""

LEAST_PAIRS = 20
"""With fewer pairs nothing is said of an effect's sign."""


def check_run(data: xr.Dataset) -> list[Check]:
    """All checks of one run."""
    if is_attention(data):
        return [check_read_again(data), check_shares(data), check_unchanged(data)]
    if is_knockout(data):
        return [
            *check_made_again(data),
            *check_structural_zeros(data),
            check_control_words(data),
            check_unchanged(data),
            describe_uncut(data),
        ]
    if not patches(data):
        return [check_unchanged(data)]
    return [
        *check_made_again(data),
        check_self_patch(data),
        *check_structural_zeros(data),
        check_chain(data),
        check_control(data),
        check_unchanged(data),
        check_recovery(data),
        check_source_run(data),
        describe_ceiling(data),
        describe_unknown_words(data),
    ]


# -- measured ---------------------------------------------------------------------------------


def check_shares(data: xr.Dataset) -> Check:
    """What a reader gives to all that it can attend to is the whole of its attention."""
    total = data["attention"].sum("attended").values
    off = float(np.abs(total - 1.0).max(initial=0.0))
    expected = f"the shares of every reader sum to 1 within {SHARES_SUM:g}"
    return judged("attention adds up", expected, f"off by at most {off:.2g}", off <= SHARES_SUM)


def check_self_patch(data: xr.Dataset) -> Check:
    """Patching the base run with its own activations changes nothing."""
    run = run_of(data)
    limit = limits_of(run).self_patch
    name, expected = "self-patch identity", f"KL at most {limit:g} nats in every cell"
    tried = [pair.self_patch for pair in pairs_of(data) if pair.self_patch is not None]
    if not tried:
        return Check(name, expected, "no pair was run", "not made")
    known = [value for value in tried if np.isfinite(value)]
    seen = f"at most {max(known, default=0.0):.2g} nats in {len(known)} pairs"
    if len(known) < len(tried):
        return judged(name, expected, f"{seen}; undefined in {len(tried) - len(known)}", False)
    if (holds := max(known) <= limit) or run.precision.startswith("64"):
        return judged(name, expected, seen, holds)
    return judged(name, expected, f"{seen}; {rounding_of(run)}", False)


def check_structural_zeros(data: xr.Dataset) -> list[Check]:
    """Cells that nothing reads have no effect, own and control."""
    cells = int(structural_of(data).sum())
    expected = f"KL at most {EXACT:g} nats where nothing reads what is changed"
    checks = []
    for arm in (OWN, CONTROL) if has_control(data) else (OWN,):
        name = f"structural zeros, {arm}"
        kl = cells_of(data, "kl_divergence", arm)[:, structural_of(data)]
        missing = ~np.isfinite(kl) & ~_left_out(data)[:, structural_of(data)]
        if arm == CONTROL:
            controlled = data["control_kind"].values != ""
            kl, missing = kl[controlled], missing[controlled]
        if arm == CONTROL and is_knockout(data):  # some edges have no control
            made = np.isfinite(kl).any(axis=0)
            kl, missing = kl[:, made], missing[:, made]
        if not kl.size:
            seen = "no pair has a control" if cells else "there are no such cells"
            checks.append(judged(name, expected, seen, None))
            continue
        unknown = int(missing.any(axis=1).sum())
        worst = float(np.abs(kl[np.isfinite(kl)]).max(initial=0.0))
        seen = f"at most {worst:.2g} nats in {_count(cells, 'cell')}"
        seen += f"; undefined in {_count(unknown, 'pair')}" if unknown else ""
        checks.append(judged(name, expected, seen, worst <= EXACT and not unknown))
    return checks


def check_control_words(data: xr.Dataset) -> Check:
    """What the control cuts are words of the question that carry no number, as many as are cut."""
    name = "words of the control"
    expected = "of the question, none with a number, as many as are cut or all that there are"
    wrong, drawn = [], 0
    for pair_id, pair in zip(data["pair"].values, pairs_of(data), strict=True):
        plain, cut = set(pair.plain_tokens), {"thoughts": run_of(data).num_latents}
        cut["numbers"] = len(pair.number_tokens)
        apart = plain < set(pair.question_tokens) - set(pair.number_tokens)
        for edge, tokens in pair.control_tokens.items():
            count = min(cut.get(edge.partition("->")[0], 1), len(plain))
            if not apart or not plain.issuperset(tokens) or len(set(tokens)) != count:
                wrong.append(f"{edge} of {pair_id}")
            drawn += 1
    if not drawn:
        return judged(name, expected, "no pair has a control", None)
    seen = f"not so in {len(wrong)} of {drawn} cuts: {wrong[0]}" if wrong else f"so in {drawn} cuts"
    return judged(name, expected, seen, not wrong)


def _left_out(data: xr.Dataset) -> Mask:
    """Cells of which a pair says why it has no values, `(pairs, layers, columns)`."""
    if not patches(data):
        return np.zeros((data.sizes["pair"], *run_of(data).grid.shape), dtype=bool)
    columns = run_of(data).grid.columns
    named = [[column in pair.left_out for column in columns] for pair in pairs_of(data)]
    rows = np.array(named, dtype=bool).reshape(-1, 1, len(columns))
    return np.broadcast_to(rows, (len(rows), *run_of(data).grid.shape))


def check_chain(data: xr.Dataset) -> Check:
    """In relay each iteration patches exactly what the one before it generated."""
    name, expected = "chain of relay", "every later iteration held what the one before it generated"
    links = sum(pair.chain_links for pair in pairs_of(data))
    if not links:
        return judged(name, expected, "there are no such patches", None)
    broken = sum(pair.chain_broken for pair in pairs_of(data))
    return judged(name, expected, f"{links - broken} of {links} patched cells did", not broken)


def check_control(data: xr.Dataset) -> Check:
    """The own activations raise the source answer's probability, more than the control's do.

    At one cell, that of the largest mean KL: chosen by disruption, which does not favour either
    side. It holds if the 95 % intervals of both paired differences, own patch minus unpatched run
    and minus control, lie over 0: where the control alone disrupts, only the second does. It fails
    if the second lies under 0.
    """
    name = "own against control"
    expected = "at the cell of the largest mean KL the source answer is likelier with the own "
    expected += "activations than without a patch and than with the control's"
    run, effects = run_of(data), content(data)
    if run.source != "clean":
        return judged(name, expected, f"source is {run.source}: no content to carry", None)
    if "control" not in effects:
        return judged(name, expected, "no control was run", None)
    if (cell := _strongest(data)) is None:
        return judged(name, expected, "no cell has an effect beyond rounding", None)
    restored, specific = (effects[key][(slice(None), *cell)] for key in ("unpatched", "control"))
    kept = np.isfinite(specific)
    if not kept.any():
        return judged(name, expected, "no pair has a control", None)
    groups = [str(group) for group in data["group"].values[kept]]
    seen = f"{specific[kept].mean():+.3f} in probability at {run.label(cell)}, {kept.sum()} pairs"
    if len(set(groups)) < LEAST_PAIRS:
        return judged(name, expected, f"{seen}: too few to tell", None)
    low, high = mean_intervals(specific[kept], groups, run.seed)
    seen += f", 95 % interval {float(low):+.3f} to {float(high):+.3f}"
    if high < 0:
        return judged(name, expected, seen, False)
    if not low > 0:
        return judged(name, expected, f"{seen}: cannot be told apart", None)
    low, _ = mean_intervals(restored[kept], groups, run.seed)
    seen += f"; over the unpatched run {float(restored[kept].mean()):+.3f}"
    if not low > 0:
        return judged(name, expected, f"{seen}, which is not told apart from none", None)
    return judged(name, expected, seen, True)


def _strongest(data: xr.Dataset) -> tuple[int, int] | None:
    """The cell of the largest mean KL; None if there is none beyond rounding."""
    kl = data["kl_divergence"].sel(arm=OWN).mean("pair").values
    kl = np.where(structural_of(data) | ~np.isfinite(kl), 0.0, kl)
    row, column = np.unravel_index(int(kl.argmax()), kl.shape)
    return (int(row), int(column)) if kl[row, column] > ROUNDING else None


# -- files ------------------------------------------------------------------------------------


def check_unchanged(data: xr.Dataset) -> Check:
    """Measured files are all listed, and as the run wrote them."""
    name, expected = "unchanged files", f"every measured file has its SHA-256 in {CHECKSUMS}"
    if data.attrs["folder"] is None:
        return judged(name, expected, "there are no files", None, "file")
    changed = data.attrs["changed"]
    seen = f"missing, changed or not listed: {', '.join(changed)}"
    if not changed:
        seen = "none is missing, changed or not listed"
    return judged(name, expected, seen, not changed, "file")


def check_recovery(data: xr.Dataset) -> Check:
    """Recovery follows from the logit differences that are kept beside it."""
    name = "recovery in the files"
    expected = "(patched − base) / (source − base) of the answer logit differences beside it"
    if not {"recovery", "answer_logit_difference"} <= set(data.data_vars):
        return judged(name, expected, "they are not measured", None, "file")
    recovery, difference = data["recovery"].values, data["answer_logit_difference"].values
    base, source = (
        of_run(data, run, "answer_logit_difference")[:, None, None, None]
        for run in ("base", "source")
    )
    known = np.isfinite(recovery)
    if not known.any():
        return judged(name, expected, "undefined in every cell", None, "file")
    with np.errstate(invalid="ignore", divide="ignore"):
        wanted = (difference - base) / (source - base)
    wrong = known & ~(np.abs(recovery - wanted) <= 1e-6 * np.maximum(1.0, np.abs(recovery)))
    pairs = int(wrong.any((1, 2, 3)).sum())
    return judged(name, expected, f"differs in {pairs} of {len(recovery)} pairs", not pairs, "file")


def check_source_run(data: xr.Dataset) -> Check:
    """The source run restores itself."""
    name = "source run against itself in the files"
    expected = f"KL of the source run from itself at most {EXACT:g} nats"
    kl = of_run(data, "source", "kl_to_source")
    known = np.abs(kl[np.isfinite(kl)])
    if not known.size:
        return judged(name, expected, "undefined in every pair", None, "file")
    seen = f"at most {known.max():.2g} nats in {known.size} pairs"
    return judged(name, expected, seen, float(known.max()) <= EXACT, "file")


# -- described --------------------------------------------------------------------------------


def describe_ceiling(data: xr.Dataset) -> Check:
    """How far all thoughts of the source run, at all layers, bring its answer."""
    name = "ceiling"
    expected = "all thoughts of the source run give its answer as far as thoughts carry it"
    metric = source_probability(run_of(data))
    base, source, own, control = data[f"run_{metric}"].mean("pair").values
    hits = of_run(data, "ceiling", f"predicts_{metric.partition('_')[0]}")
    if np.isnan(own):
        return judged(name, expected, "no ceiling was run", None)
    other = "" if np.isnan(control) else f"; with the control's thoughts {control:.3f}"
    seen = (
        f"probability of the source answer {own:.3f} (base run {base:.3f}, source run "
        f"{source:.3f}{other}); predicted in {np.nanmean(hits):.0%} of pairs"
    )
    return Check(name, expected, seen, "described")


def describe_uncut(data: xr.Dataset) -> Check:
    """How often the run says its answer that edges are cut of."""
    said = of_run(data, "base", "predicts_clean")
    seen = f"in {int((said == 1.0).sum())} of {_count(len(said), 'pair')}"
    return Check("own answer", "said by the run without a cut", seen, "described")


def describe_unknown_words(data: xr.Dataset) -> Check:
    """Which questions have words that the model cannot read."""
    name, expected = "unknown words", "the tokenizer knows every word of every question"
    unknown = [pair.unknown_words for pair in pairs_of(data) if pair.unknown_words]
    if not unknown:
        return Check(name, expected, "it does", "described")
    words = list(dict.fromkeys(word for own in unknown for word in own))
    seen = f"{_count(len(unknown), 'pair')} with words it does not know: {', '.join(words[:10])}"
    return Check(name, expected, seen + ", …" * (len(words) > 10), "described")


def describe_conditions(runs: Mapping[str, xr.Dataset]) -> Check:
    """Whether several runs were measured by the same code and packages in the same precision.

    Args:
        runs: Datasets by label, two or more.
    """
    name = "measured alike"
    expected = "one code, one precision, and one version of each package in all runs"
    known = {label: _conditions(run_of(data)) for label, data in runs.items()}
    said = []
    for what in dict.fromkeys(what for own in known.values() for what in own):
        having: dict[str, list[str]] = {}
        for label, own in known.items():
            having.setdefault(own.get(what, "unknown"), []).append(label)
        if len(having) > 1:
            each = (f"{value} ({', '.join(labels)})" for value, labels in having.items())
            said.append(f"{what} {' and '.join(each)}")
    seen = f"they differ: {'; '.join(said)}" if said else "they are"
    return Check(name, expected, seen, "described")


def _conditions(run: RunDescription) -> dict[str, str]:
    """Under which a run was measured, by name."""
    code = f"version {run.code.version}, sources {run.code.sha256[:12]}"
    return {"code": code, "precision": run.precision, **run.versions}


def _count(number: int, what: str) -> str:
    return f"{number} {what}{'s' if number != 1 else ''}"
