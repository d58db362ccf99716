"""Every question of a report with a planted yes, its opposite and nothing, against numpy.

What is estimated is written out for each question: signs, halves, ends of chains. Intervals are
made again flip by flip, or are those of the numbers that are written out.
"""

import numpy as np
import planted_study as made
import pytest
from by_hand import make_effect
from lens_maker import make_lens
from planted_study import ceiling, few_flips, planted, planted_run, rise, simultaneous
from scipy import stats

from codi_patching.analysis import inference, summary
from codi_patching.analysis.asking import answer_of, ask, describe, strongest, ties
from codi_patching.analysis.courses import ask_chains
from codi_patching.analysis.described import FOLDS, from_positions, leading, rank_agreement
from codi_patching.analysis.findings import Claim, Comparison
from codi_patching.analysis.intervals import mean_intervals
from codi_patching.analysis.prediction import predict_held_out
from codi_patching.analysis.questions import DESCRIBED, PRIMARY
from codi_patching.analysis.study import studies_of
from codi_patching.analysis.summary import summarise
from codi_patching.analysis.used import DIFFERS, SAME, ask_needed, ask_read

QUESTIONS = {question.key: question for question in (*PRIMARY, *DESCRIBED)}
SIGNS = (1.0, -1.0, 0.0)
POSITION, FROZEN = "position, recomputed", "position, frozen"
WHOLE, TOTAL = "layer, frozen", "layer, recomputed"


@pytest.fixture(scope="module", autouse=True)
def _quick():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(inference, "draw_signs", few_flips)
        yield


@pytest.fixture(scope="module")
def studies():
    return {sign: planted(sign) for sign in SIGNS}


def findings(study, key):
    return {finding.runs: finding for finding in ask(QUESTIONS[key], study)}


def by_name(columns):
    """Columns by name, each `{"unpatched": (pairs,), "control": (pairs,)}`."""
    return list(columns), [
        np.stack([c[against] for c in columns.values()], axis=1)
        for against in ("unpatched", "control")
    ]


def check_counts(claim, place, sides, groups, rounding=1e-6):
    for comparison, values in zip(claim.comparisons, sides, strict=True):
        column = values[:, place]
        assert comparison.mean == pytest.approx(column.mean(), abs=1e-6 / len(column))
        assert comparison.up == (column > rounding).sum()
        assert comparison.down == (column < -rounding).sum()
        assert (comparison.n, comparison.groups) == (len(column), len(set(groups)))


def check_judged(claims, columns, groups, share, level=0.05):
    """Names, estimates, counts, simultaneous intervals and p of a question that is judged."""
    names, sides = by_name(columns)
    assert [claim.name for claim in claims] == names
    ends, p = simultaneous(sides, groups, share)
    for place, claim in enumerate(claims):
        check_counts(claim, place, sides, groups)
        for comparison, side in zip(claim.comparisons, ends, strict=True):
            assert (comparison.low, comparison.high) == pytest.approx(side[:, place], abs=1e-6)
        least = max(side[place] for side in p) * level / share
        assert claim.p >= min(1.0, least) * (1 - 1e-9)  # or what the guard and the counts allow


def check_described(claims, columns, groups):
    """Names, estimates, counts and unadjusted intervals of what is described."""
    names, sides = by_name(columns)
    assert [claim.name for claim in claims] == names
    low, high = mean_intervals(np.stack(sides, axis=1), list(groups), 0)
    for place, claim in enumerate(claims):
        assert claim.verdict == "described"
        check_counts(claim, place, sides, groups)
        for side, comparison in enumerate(claim.comparisons):
            ends = low[side, place], high[side, place]
            assert (comparison.low, comparison.high) == pytest.approx(ends, abs=1e-12, nan_ok=True)


def both(function, *effects):
    """A function of effects, relative to the unpatched run and to the control."""
    return {key: function(*(e[key] for e in effects)) for key in ("unpatched", "control")}


def cell_names(data):
    """Cells that can have an effect, by name as sentences have it."""
    run = data.attrs["run"]
    zero = data["structural_zero"].values
    return {run.label(cell): cell for cell, *_ in run.grid.cells() if not zero[cell]}


def layer_name(data, row):
    return data.attrs["run"].layer_label(row)


# -- primary ------------------------------------------------------------------------------------


@pytest.mark.parametrize(("sign", "verdict"), [(1.0, "rises"), (-1.0, "falls"), (0.0, "at most")])
def test_ceiling(studies, sign, verdict):
    study = studies[sign]
    (finding,) = ask(QUESTIONS["ceiling"], study)
    data = study.runs[POSITION]  # the first of the runs that have one
    columns = {"all thoughts at all layers": ceiling(data)}
    check_judged(finding.claims, columns, made.groups_of(data), 0.0033)
    assert finding.lead.verdict == verdict
    assert finding.answer == "yes" if sign > 0 else "at most"
    assert finding.runs == study.labels
    assert finding.number == 1


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(
    ("kind", "share"), [(POSITION, 0.014), (FROZEN, 0.003), (WHOLE, 0.001), (TOTAL, 0.001)]
)
def test_cells(studies, kind, share, sign):
    study = studies[sign]
    finding, data = findings(study, "cells")[(kind,)], study.runs[kind]
    assert (finding.key, finding.number) == ("cells", 2)
    names = cell_names(data)
    columns = {n: both(lambda e, c=c: e[:, c[0], c[1]], rise(data)) for n, c in names.items()}
    check_judged(finding.claims, columns, made.groups_of(data), share)
    there = {c.name: (c.layer, c.column) for c in finding.claims}
    grid = data.attrs["run"].grid
    assert there == {n: (grid.layers[r], grid.columns[c]) for n, (r, c) in names.items()}
    strongest = "layer 1, position 3" if len(grid.columns) > 1 else "layer 1"
    verdicts = {claim.name: claim.verdict for claim in finding.claims}
    if sign:
        assert verdicts[strongest] == ("rises" if sign > 0 else "falls")
        assert (finding.lead.name == strongest) == (sign > 0)
    smallest = {n: min(c.values(), key=np.mean).mean() for n, c in columns.items()}
    lead = max(smallest, key=smallest.get)  # only a rise answers
    assert round(smallest[finding.lead.name], 3) == round(smallest[lead], 3)
    assert (finding.answer == "yes") == (sign > 0)
    assert (finding.tied != ()) == finding.lead.claimed


@pytest.mark.parametrize("sign", SIGNS)
def test_total_minus_direct(studies, sign):
    """Of the runs that are there: layers, else a chain's end, else positions."""
    study = studies[sign]
    (finding,) = ask(QUESTIONS["direct"], study)
    assert (finding.key, finding.number) == ("direct", 4)
    assert finding.runs == (WHOLE, TOTAL)
    direct, total = study.runs[WHOLE], study.runs[TOTAL]
    columns = {
        layer_name(total, row): both(
            lambda t, d, row=row: t[:, row, 0] - d[:, row, 0], rise(total), rise(direct)
        )
        for row in range(made.LAYERS)
    }
    check_judged(finding.claims, columns, made.groups_of(total), 0.0033)
    assert {claim.column for claim in finding.claims} == {"all"}
    assert {claim.kind for claim in finding.claims} == {"mediated"}


@pytest.mark.parametrize(
    ("sign", "verdict", "answer"),
    [(1.0, "rises", "yes"), (-1.0, "falls", "yes"), (0.0, "at most", "at most")],
)
def test_what_is_mediated_has_the_sign_of_total_minus_direct(sign, verdict, answer):
    total = planted_run(sign, 1, experiment="layer", latents="recomputed")
    direct = planted_run(0.0, 2, experiment="layer")
    (study,) = studies_of([direct, total], 0, ())
    (finding,) = ask(QUESTIONS["direct"], study)
    claim = next(c for c in finding.claims if c.layer == "1")
    assert (claim.verdict, finding.answer) == (verdict, answer)
    if sign:
        assert finding.lead == claim
        assert claim.lead.mean == pytest.approx(sign * 0.45, abs=0.03)


def test_the_total_may_be_a_chains_end_or_of_positions():
    direct, chain = (
        planted_run(1.0, 2, experiment="layer"),
        planted_run(1.0, 3, experiment="iterative", strategy="cumulative"),
    )
    (study,) = studies_of([direct, chain], 0, ())
    (finding,) = ask(QUESTIONS["direct"], study)
    assert finding.runs == (WHOLE, "cumulative")
    end = made.COLUMNS - 1
    columns = {
        layer_name(chain, row): both(
            lambda t, d, row=row: t[:, row, end] - d[:, row, 0], rise(chain), rise(direct)
        )
        for row in range(made.LAYERS)
    }
    check_judged(finding.claims, columns, made.groups_of(chain), 0.0033)
    total, frozen = (
        planted_run(1.0, seed, experiment="position", thought=True, latents=latents)
        for seed, latents in ((4, "recomputed"), (5, "frozen"))
    )
    fewer = planted_run(1.0, 5, experiment="position", latents="frozen")  # without a row for them
    for other, moved in ((frozen, 0), (fewer, 1)):
        (study,) = studies_of([total, other], 0, ())
        (finding,) = ask(QUESTIONS["direct"], study)
        columns = {
            name: both(
                lambda t, d, r=r, c=c, m=moved: t[:, r, c] - d[:, r - m, c],
                rise(total), rise(other),
            )
            for name, (r, c) in cell_names(total).items()
            if r >= moved
        }  # fmt: skip
        check_judged(finding.claims, columns, made.groups_of(total), 0.0033)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(("kind", "end"), [("relay", 3), ("cumulative", 4)])
def test_along_the_chain(studies, kind, end, sign):
    """Last minus first; relay ends where the last layer still has an effect."""
    study = studies[sign]
    finding = next(f for f in ask_chains(study) if f.runs == (kind,))
    data = study.runs[kind]
    effect = rise(data)
    columns = {
        n: both(lambda e, c=c: e[:, c[0], c[1]], effect) for n, c in cell_names(data).items()
    }
    for row in range(made.LAYERS):
        name = f"{layer_name(data, row)}, iteration {end} minus 0"
        columns[name] = both(lambda e, row=row: e[:, row, end] - e[:, row, 0], effect)
    check_judged(finding.claims, columns, made.groups_of(data), 0.00165)
    assert [course.layer for course in finding.courses] == ["0", "1", "2", "3"]
    for row, course in enumerate(finding.courses):
        assert course.change.name == f"{layer_name(data, row)}, iteration {end} minus 0"
        assert [c.column for c in course.effects] == [
            str(c) for c in range(5) if (row, c) in cell_names(data).values()
        ]
    assert (finding.key, finding.number) == ("chain", 5)


@pytest.mark.parametrize("sign", SIGNS)
def test_needed_is_what_lowers_the_clean_answer(sign):
    """Noising: the source run is the corrupted one, and the clean answer is what can be lost."""
    noising = planted_run(sign, 6, experiment="position", direction="noising")
    denoising = planted_run(abs(sign), 7, experiment="position")
    (study,) = studies_of([denoising, noising], 0, ())
    (finding,) = ask_needed(study, list(ask(QUESTIONS["cells"], study)))
    assert (finding.key, finding.number) == ("needed", 8)
    kept = noising["clean_probability"].values[..., 0]
    fall = noising["run_clean_probability"].values[:, 0][:, None, None] - kept
    names = cell_names(noising)
    sides = [np.stack([fall[:, r, c] for r, c in names.values()], axis=1)]
    groups = made.groups_of(noising)
    ends, _ = simultaneous(sides, groups, 0.0011)
    assert [claim.name for claim in finding.claims] == list(names)
    for place, claim in enumerate(finding.claims):
        check_counts(claim, place, sides, groups)
        (comparison,) = claim.comparisons
        assert (comparison.low, comparison.high) == pytest.approx(ends[0][:, place], abs=1e-6)
    claim = next(c for c in finding.claims if c.name == "layer 1, position 3")
    assert claim.verdict == {1.0: "rises", -1.0: "falls", 0.0: "at most"}[sign]
    assert claim.kind == ("needed and sufficient" if sign > 0 else "needed")
    assert finding.answer == ("yes" if sign > 0 else "at most")


@pytest.mark.parametrize(("own", "chance"), [(0.9, 0.1), (0.1, 0.9), (0.5, 0.5)])
def test_read_is_the_pairs_own_result_more_often_than_anothers(own, chance):
    lens = make_lens(pairs=60, planted={(1, 2, 1): own, (0, 0, 2): 0.3}, chance={(1, 2, 1): chance})
    data = planted_run(1.0, 8, pairs=60, groups=[f"pair_{row:02d}" for row in range(60)])
    (study,) = studies_of([data, lens], 0, ())
    (finding,) = ask_read(study)
    read = {(c.step, c.layer, c.column): c for c in finding.claims if c.kind == "read"}
    assert len(read) == 2 * 4 * 3
    claim = read[2, "2", "1"]
    (comparison,) = claim.comparisons
    assert comparison.against == "chance"
    assert comparison.mean == pytest.approx(own - chance)
    moved = round(60 * abs(own - chance))
    counts = (moved, 0) if own > chance else (0, moved)
    assert (comparison.up, comparison.down, comparison.n, comparison.groups) == (*counts, 60, 60)
    expected = {0.9: "rises", 0.1: "falls", 0.5: "at most"}
    assert claim.verdict == expected[own]
    assert claim.unit == "rate"
    assert read[1, "0", "2"].comparisons[0].mean == pytest.approx(0.3)
    numbers = dict(finding.numbers)
    assert numbers["read"] == 1 + (own > chance)
    assert numbers["judged"] == 24


def test_where_a_patch_acts_is_asked_where_the_step_differs_and_where_it_does_not():
    lens = make_lens(pairs=60, planted={(0, 1, 2): 0.9}, columns=5)
    lens["differs"].values[:, 0] = np.arange(60) % 3 == 0
    data = planted_run(1.0, 8, pairs=60, groups=[f"pair_{row:02d}" for row in range(60)])
    (study,) = studies_of([data, lens], 0, ())
    (finding,) = ask_read(study)
    effect = rise(data)
    zero = data["structural_zero"].values
    for kind, wanted in ((DIFFERS, 1), (SAME, 0)):
        own = [c for c in finding.claims if c.kind == kind and c.step == 1]
        assert len(own) == (~zero).sum()
        chosen = lens["differs"].values[:, 0] == wanted
        for claim in own:
            for comparison in claim.comparisons:
                cell = effect[comparison.against][:, int(claim.layer), int(claim.column)][chosen]
                assert comparison.mean == pytest.approx(cell.mean())
                assert comparison.n == comparison.groups == len(cell) == (20 if wanted else 40)
                assert (comparison.up, comparison.down) == ((cell > 0).sum(), (cell < 0).sum())


# -- described ----------------------------------------------------------------------------------

EARLY_LATE = {
    # the last layer has a cell that nothing reads: of the upper half layer 2 alone is whole
    "early minus late layers": lambda e: e[:, :2].mean((1, 2)) - e[:, 2:3].mean((1, 2)),
}
POSITIONS = {  # the one in the middle is in neither half
    "early minus late positions": lambda e: e[:, :3, :2].mean((1, 2)) - e[:, :3, 3:].mean((1, 2))
}
THOUGHTS = {
    f"position {p} minus the others": lambda e, p=p: (
        e[:, :3, p].mean(1) - np.delete(e[:, :3], p, axis=2).mean((1, 2))
    )
    for p in range(5)
}
CROSSED = {
    f"position {p}, early minus late layers": lambda e, p=p: (
        (e[:, :2, p].mean(1) - e[:, 2, p]) - (e[:, :2].mean((1, 2)) - e[:, 2:3].mean((1, 2)))
    )
    for p in range(5)
}
OF_POSITIONS = {
    "early_or_late_layers": EARLY_LATE,
    "early_or_late_positions": POSITIONS,
    "thoughts": THOUGHTS,
    "layers_by_positions": CROSSED,
}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("key", OF_POSITIONS)
@pytest.mark.parametrize("kind", [POSITION, FROZEN])
def test_questions_about_positions(studies, kind, key, sign):
    study = studies[sign]
    finding, data = findings(study, key)[(kind,)], study.runs[kind]
    columns = {name: both(hand, rise(data)) for name, hand in OF_POSITIONS[key].items()}
    check_described(finding.claims, columns, made.groups_of(data))
    assert all(claim.either for claim in finding.claims)
    sizes = {
        n: abs(min(c.values(), key=lambda v: abs(v.mean())).mean()) for n, c in columns.items()
    }
    assert round(sizes[finding.lead.name], 3) == round(max(sizes.values()), 3)
    assert finding.answer == "described"
    for claim in finding.claims:
        position = claim.name.partition("position ")[2][:1]
        assert claim.column == (position if position.isdigit() else None)


@pytest.mark.parametrize("sign", SIGNS)
def test_early_and_late_layers_of_whole_layers(studies, sign):
    study = studies[sign]
    for kind, late in ((WHOLE, slice(2, 3)), (TOTAL, slice(2, 4))):
        finding, data = findings(study, "early_or_late_layers")[(kind,)], study.runs[kind]
        hand = both(
            lambda e, late=late: e[:, :2].mean((1, 2)) - e[:, late].mean((1, 2)), rise(data)
        )
        groups = made.groups_of(data)
        check_described(finding.claims, {"early minus late layers": hand}, groups)


@pytest.mark.parametrize("sign", SIGNS)
def test_what_iteration_adds_to_parallel_patching(studies, sign):
    study = studies[sign]
    (finding,) = ask(QUESTIONS["iterative_or_parallel"], study)
    chain, whole = study.runs["cumulative"], study.runs[WHOLE]
    columns = {
        layer_name(chain, row): both(
            lambda t, d, row=row: t[:, row, 4] - d[:, row, 0], rise(chain), rise(whole)
        )
        for row in range(made.LAYERS)
    }
    check_described(finding.claims, columns, made.groups_of(chain))
    assert finding.runs == (WHOLE, "cumulative")
    assert {claim.kind for claim in finding.claims} == {"iterative minus parallel"}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(("kind", "end"), [(WHOLE, 0), (TOTAL, 0), ("relay", 3), ("cumulative", 4)])
def test_accuracy_is_the_rate_of_source_answers(studies, kind, end, sign):
    study = studies[sign]
    finding, data = findings(study, "accuracy")[(kind,)], study.runs[kind]
    effect = rise(data, "predicts_clean")
    rows = range(made.LAYERS - (kind == WHOLE))
    columns = {
        layer_name(data, row): both(lambda e, row=row: e[:, row, end], effect) for row in rows
    }
    check_described(finding.claims, columns, made.groups_of(data))
    unpatched = (data["run_clean_probability"].values[:, 0] > 0.6).mean()
    assert dict(finding.numbers) == {"unpatched": pytest.approx(unpatched)}
    assert {claim.unit for claim in finding.claims} == {"rate"}


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(("key", "kind"), [("hops", "relay"), ("increments", "cumulative")])
def test_hops_and_increments(studies, key, kind, sign):
    study = studies[sign]
    (finding,) = ask(QUESTIONS[key], study)
    data = study.runs[kind]
    able = set(cell_names(data).values())
    columns = {
        f"{layer_name(data, row)}, iteration {n} minus {n - 1}": both(
            lambda e, row=row, n=n: e[:, row, n] - e[:, row, n - 1], rise(data)
        )
        for row in range(made.LAYERS)
        for n in range(1, made.COLUMNS)
        if (row, n) in able
    }
    check_described(finding.claims, columns, made.groups_of(data))
    assert finding.runs == (kind,)


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize(
    ("key", "metric", "unit"),
    [
        ("sums", "clean_probability", "probability"),
        ("sums_of_logits", "answer_logit_difference", "logits"),
    ],
)
def test_sums_of_positions_minus_the_whole(studies, key, metric, unit, sign):
    study = studies[sign]
    (finding,) = ask(QUESTIONS[key], study)
    single, whole = study.runs[FROZEN], study.runs[WHOLE]
    columns = {
        layer_name(single, row): both(
            lambda s, w, row=row: s[:, row].sum(1) - w[:, row, 0],
            rise(single, metric), rise(whole, metric),
        )
        for row in range(made.LAYERS - 1)
    }  # fmt: skip
    check_described(finding.claims, columns, made.groups_of(single))
    assert {claim.unit for claim in finding.claims} == {unit}
    assert finding.runs == (FROZEN, WHOLE)


def test_sums_are_of_the_same_layer_where_rows_are_others():
    single = planted_run(1.0, 1, experiment="position", latents="frozen", thought=True)
    whole = planted_run(1.0, 2, experiment="layer")
    (study,) = studies_of([single, whole], 0, ())
    (finding,) = ask(QUESTIONS["sums"], study)
    columns = {
        layer_name(whole, row): both(
            lambda s, w, row=row: s[:, row + 1].sum(1) - w[:, row, 0], rise(single), rise(whole)
        )
        for row in range(made.LAYERS - 1)
    }
    check_described(finding.claims, columns, made.groups_of(single))


@pytest.mark.parametrize("sign", SIGNS)
@pytest.mark.parametrize("kind", [POSITION, FROZEN, WHOLE, TOTAL, "relay", "cumulative"])
def test_below_the_ceiling(studies, kind, sign):
    """The cell of the largest effect, of a chain at its end, minus the ceiling of the same run."""
    study = studies[sign]
    finding, data = findings(study, "below_ceiling")[(kind,)], study.runs[kind]
    effect, names = rise(data), cell_names(data)
    if kind in ("relay", "cumulative"):
        end = 3 if kind == "relay" else 4
        names = {layer_name(data, row): (row, end) for row in range(made.LAYERS)}
    means = {n: min(e[:, r, c].mean() for e in effect.values()) for n, (r, c) in names.items()}
    best = max(means, key=lambda n: round(means[n], 3))
    row, column = names[best]
    hand = both(lambda e, c: e[:, row, column] - c, effect, ceiling(data))
    check_described(finding.claims, {best: hand}, made.groups_of(data))
    assert [claim.kind for claim in finding.claims] == ["cell minus ceiling"]


def test_with_noising_logits_rise_as_they_fall():
    """Clean minus corrupted falls where the corrupted answer is restored: its sign is turned."""
    from codi_patching.analysis.effects import ceiling_content, content

    noising = planted_run(1.0, 6, experiment="position", direction="noising")
    found = content(noising, "answer_logit_difference")
    hand = rise(noising, "answer_logit_difference")
    for against, values in found.items():
        np.testing.assert_allclose(values, -hand[against])
        assert values[:, 1, 3].mean() > 0
    whole = ceiling_content(noising, "answer_logit_difference")
    by_hand = ceiling(noising, "answer_logit_difference")
    for against, values in whole.items():
        np.testing.assert_allclose(values, -by_hand[against])


# -- numbers without claims ---------------------------------------------------------------------


def profile(data):
    """By layer the smaller comparison's mean: the largest over positions, of a chain its end."""
    kind = data.attrs["run"].strategy
    smaller = np.minimum(*(e.mean(axis=0) for e in rise(data).values()))
    smaller = np.where(data["structural_zero"].values, -np.inf, smaller)
    if kind is not None:
        return smaller[:, 3 if kind == "relay" else 4]
    return smaller.max(axis=1)


@pytest.mark.parametrize("same", [[0.2, 0.2004, 0.2], [0.1, 0.2]])
def test_ranks_of_what_does_not_vary_or_of_two_values_agree_with_nothing(same):
    other = np.arange(len(same)) / 10
    assert np.isnan(rank_agreement(np.array(same), other))
    assert np.isnan(rank_agreement(other, np.array(same)))
    assert rank_agreement(np.array([0.1, 0.2, 0.9]), np.array([0.3, 0.2, 0.1])) == -1


def test_rank_agreement_is_spearmans_over_layers(studies, monkeypatch):
    monkeypatch.setattr(
        summary, "mean_intervals", lambda values, *_: np.full((2, *values.shape[1:]), 0.0)
    )
    study = studies[1.0]
    summaries = {
        study.label(kind): summarise(d, study.label(kind)) for kind, d in study.runs.items()
    }
    found = {finding.runs: dict(finding.numbers) for finding in leading(study, summaries)}
    assert list(found) == [
        (WHOLE, FROZEN), (TOTAL, POSITION), (WHOLE, TOTAL), (FROZEN, POSITION),
        ("relay", "cumulative"),
    ]  # fmt: skip
    for (first, second), numbers in found.items():
        one, other = profile(study.runs[first]), profile(study.runs[second])
        kept = np.isfinite(one) & np.isfinite(other)
        rho = stats.spearmanr(one[kept].round(3), other[kept].round(3)).statistic
        assert numbers == {"rank agreement": pytest.approx(rho), "layers": kept.sum()}
    del summaries[TOTAL]
    runs = {kind: data for kind, data in study.runs.items() if kind != TOTAL}
    (without,) = studies_of(list(runs.values()), 0, ())
    pairs = [finding.runs for finding in leading(without, summaries)]
    assert pairs == [
        (WHOLE, FROZEN), ("cumulative", POSITION), (WHOLE, "cumulative"), (FROZEN, POSITION),
        ("relay", "cumulative"),
    ]  # fmt: skip


def test_rank_agreement_is_over_layers_without_the_thoughts_own_row():
    """Of four layers nothing reads the last one's frozen patches."""
    runs = [
        planted_run(1.0, 1, experiment="position", latents=latents, thought=True)
        for latents in ("frozen", "recomputed")
    ]
    (study,) = studies_of(runs, 0, ())
    summaries = {
        study.label(kind): summarise(d, study.label(kind)) for kind, d in study.runs.items()
    }
    (finding,) = leading(study, summaries)
    assert dict(finding.numbers)["layers"] == 3


@pytest.mark.parametrize(("latents", "whole"), [("frozen", WHOLE), ("recomputed", TOTAL)])
def test_layers_from_positions(latents, whole):
    """The whole is what its positions add up to, a fixed share of each: it is predicted wholly."""
    single = planted_run(1.0, 1, experiment="position", latents=latents, thought=True)
    layer = planted_run(1.0, 2, experiment="layer", latents=latents)
    parts = rise(single)["unpatched"][:, 1:]
    target = parts @ np.array([0.1, 0.2, 0.3, 0.1, 0.2]) + 0.05
    base = layer["run_clean_probability"].values[:, 0]
    zero = layer["structural_zero"].values[:, 0]
    own = base[:, None] + np.where(zero, 0.0, target)
    layer["clean_probability"].values[:, :, 0, 0] = own
    (study,) = studies_of([single, layer], 0, ())
    (finding,) = from_positions(study)
    numbers = dict(finding.numbers)
    assert finding.runs == (f"position, {latents}", whole)
    assert numbers["r squared"] == pytest.approx(1.0)
    assert numbers["n"] == made.PAIRS
    rows = np.flatnonzero(~zero)
    ranks = parts.sum(axis=2).mean(axis=0)[rows], target.mean(axis=0)[rows]
    rho = stats.spearmanr(*(r.round(3) for r in ranks)).statistic
    assert numbers["rank agreement"] == pytest.approx(rho)


def test_layers_from_positions_have_both_ends_of_the_prediction():
    single = planted_run(1.0, 1, experiment="position", latents="frozen")
    layer = planted_run(1.0, 2, experiment="layer", latents="frozen")
    noise = np.random.default_rng(0).normal(0, 0.1, layer.sizes["pair"])
    zero = layer["structural_zero"].values[:, 0]
    parts = rise(single)["unpatched"]
    target = np.where(zero, np.nan, parts.sum(axis=2) + noise[:, None])
    base = layer["run_clean_probability"].values[:, 0]
    layer["clean_probability"].values[:, :, 0, 0] = base[:, None] + np.where(zero, 0.0, target)
    (study,) = studies_of([single, layer], 0, ())
    (finding,) = from_positions(study)
    numbers = dict(finding.numbers)
    able = ~zero
    found = predict_held_out(
        parts[:, able], target[:, able], list(single["group"].values), study.seed, FOLDS
    )
    assert found.low < found.r_squared < found.high < 1
    told = [numbers[name] for name in ("r squared", "low", "high")]
    assert told == pytest.approx([found.r_squared, found.low, found.high])


def test_where_no_layer_has_an_effect_none_is_predicted():
    """What rounding leaves is predicted from what it leaves elsewhere, and means nothing."""
    single = planted_run(1.0, 1, experiment="position", latents="frozen")
    layer = planted_run(1.0, 2, experiment="layer", latents="frozen")
    base = layer["run_clean_probability"].values[:, 0]
    parts = rise(single)["unpatched"].sum(axis=2)
    layer["clean_probability"].values[:, :, 0, 0] = base[:, None] + 1e-6 * parts
    (study,) = studies_of([single, layer], 0, ())
    (finding,) = from_positions(study)
    (largest,) = finding.numbers
    assert largest[0] == "root mean square"
    assert largest[1] == pytest.approx(1e-6 * np.sqrt((parts**2).mean(axis=0)).max(), rel=1e-6)


def test_layers_from_positions_take_a_chains_end_where_no_layers_were_recomputed():
    single = planted_run(1.0, 1, experiment="position")
    chain = planted_run(1.0, 2, experiment="iterative", strategy="cumulative")
    base = chain["run_clean_probability"].values[:, 0]
    sums = rise(single)["unpatched"].sum(axis=2)
    chain["clean_probability"].values[:, :, 4, 0] = base[:, None] + 0.5 * sums
    (study,) = studies_of([single, chain], 0, ())
    (finding,) = from_positions(study)
    assert finding.runs == (POSITION, "cumulative")
    assert dict(finding.numbers)["r squared"] == pytest.approx(1.0)
    whole = planted_run(1.0, 3, experiment="layer", latents="recomputed")
    (study,) = studies_of([single, chain, whole], 0, ())
    assert [finding.runs for finding in from_positions(study)] == [(POSITION, TOTAL)]


def test_layers_that_the_positions_do_not_have_are_not_predicted():
    """Nothing is: the whole has a row of all thoughts, and its only layer nothing reads."""
    single = planted_run(1.0, 1, experiment="position", latents="frozen", thought=True)
    layer = planted_run(1.0, 2, experiment="layer", latents="frozen", thought=True)
    layer["structural_zero"].values[1:] = True
    (study,) = studies_of([single, layer], 0, ())
    assert list(from_positions(study)) == []


def test_layers_of_which_nothing_is_known_are_not_predicted():
    single = planted_run(1.0, 1, experiment="position", latents="frozen")
    layer = planted_run(1.0, 2, experiment="layer", latents="frozen")
    layer["clean_probability"].values[..., 0] = np.nan
    (study,) = studies_of([single, layer], 0, ())
    assert list(from_positions(study)) == []


def test_too_few_pairs_predict_no_layers():
    """Of 3 pairs each fold leaves two, 6 values for 5 positions and a constant."""
    for pairs, findings in ((3, 0), (4, 1)):
        names = [f"p{row}" for row in range(pairs)]
        single, layer = (
            planted_run(1.0, seed, pairs=pairs, groups=names, experiment=name, latents="frozen")
            for seed, name in ((1, "position"), (2, "layer"))
        )
        (study,) = studies_of([single, layer], 0, ())
        found = list(from_positions(study))
        assert [finding.runs for finding in found] == [(FROZEN, WHOLE)] * findings


@pytest.mark.parametrize(("share", "predicted"), [(0.99, False), (1.01, True)])
def test_layers_are_predicted_from_a_largest_effect_of_a_thousandth_on(share, predicted):
    """The root of the mean square over pairs of the layer with the largest."""
    single = planted_run(1.0, 1, experiment="position", latents="frozen")
    layer = planted_run(1.0, 2, experiment="layer", latents="frozen")
    base = layer["run_clean_probability"].values[:, 0]
    effect = np.resize([3.0, -1.0], made.PAIRS)
    effect *= share * 1e-3 / np.sqrt((effect**2).mean())
    layer["clean_probability"].values[..., 0] = base[:, None, None]
    layer["clean_probability"].values[:, 1, 0, 0] += effect
    (study,) = studies_of([single, layer], 0, ())
    (finding,) = from_positions(study)
    numbers = dict(finding.numbers)
    assert ("r squared" in numbers) == predicted
    if not predicted:
        assert numbers == {"root mean square": pytest.approx(share * 1e-3)}


def numbered(verdict, mean, name="x", either=False):
    """A claim of one comparison."""
    comparison = Comparison("unpatched", mean, mean, mean, 1, 1, 30, 30)
    return Claim(name, verdict, (comparison,), 0.5, 0.5, either=either)


@pytest.mark.parametrize(
    ("verdicts", "answer", "of_either"),
    [
        (["rises", "no"], "yes", "yes"), (["more often", "falls"], "yes", "yes"),
        (["falls", "no"], "at most", "yes"), (["less often", "no"], "at most", "yes"),
        (["no", "no"], "no", "no"), (["no", "at most"], "at most", "at most"),
        (["counts", "counts"], "counts", "counts"), (["counts", "no"], "at most", "at most"),
        ([], "at most", "at most"),
    ],
)  # fmt: skip
def test_what_claims_that_are_judged_together_answer(verdicts, answer, of_either):
    claims = [numbered(verdict, 0.1) for verdict in verdicts]
    assert (answer_of(claims), answer_of(claims, either=True)) == (answer, of_either)


def test_the_strongest_is_the_first_of_those_that_agree_to_three_decimals():
    low, first, second = (numbered("no", mean) for mean in (-0.5, 0.3001, 0.3004))
    more, unknown = numbered("no", 0.3006), numbered("no", np.nan)
    assert strongest([unknown, low, first, second], rise=True) is first
    assert strongest([first, second, more], rise=True) is more
    assert strongest([first, low, more]) is low  # in size
    assert strongest([unknown]) is unknown
    assert strongest([]) is None


def test_what_ties_agrees_in_every_comparison():
    """The first leads; the second is 0.02 behind it by an error of 0.03, the third by 0.006.

    What reads the same to 0.005 ties whatever its error, and the last is behind the control alone.
    """
    wide, narrow = (size * np.resize([1.0, -1.0], 20) for size in (0.03, 0.006))
    scale = np.sqrt(19.0)  # errors of means of 20 pairs are size / √19
    values = np.stack([
        np.full(20, 0.5), 0.48 + scale * wide, 0.48 + scale * narrow, np.full(20, 0.4951),
        np.full(20, 0.4949), np.full(20, 0.5),
    ], axis=1)  # fmt: skip
    control = values.copy()
    control[:, 5] -= 0.1
    effect = make_effect(values, control)
    claims = [numbered("rises", 0.5, contrast.name) for contrast in effect.contrasts]
    assert ties(claims[0], claims, effect) == ("cell 0", "cell 1", "cell 3")
    assert ties(claims[0], claims[:3:2], effect) == ("cell 0",)
    alone = make_effect(values)
    assert ties(claims[0], claims, alone) == ("cell 0", "cell 1", "cell 3", "cell 5")


def test_described_columns_are_those_with_a_value_in_every_comparison():
    values = np.resize([0.2, 0.4], (20, 3))
    values[:4, 1] = np.nan
    control = values.copy()
    control[:, 2] = np.nan
    groups = [f"g{row // 2}" for row in range(20)]
    claims = describe(make_effect(values, control, groups=groups), 0)
    assert [claim.name for claim in claims] == ["cell 0", "cell 1"]
    counts = [[(c.n, c.groups, c.up, c.down) for c in claim.comparisons] for claim in claims]
    assert counts == [[(20, 10, 20, 0)] * 2, [(16, 8, 16, 0)] * 2]
    low, high = mean_intervals(values[:, 1], groups, 0)
    ends = [(c.low, c.high) for c in claims[1].comparisons]
    np.testing.assert_allclose(ends, [(low, high)] * 2)


def test_a_question_that_is_asked_once_takes_the_first_runs_that_are_there():
    study = planted(1.0)
    assert [f.runs for f in ask(QUESTIONS["direct"], study)] == [(WHOLE, TOTAL)]
    runs = [study.runs[kind] for kind in (WHOLE, "cumulative", POSITION, FROZEN)]
    (fewer,) = studies_of(runs, 0, ())
    assert [f.runs for f in ask(QUESTIONS["direct"], fewer)] == [(WHOLE, "cumulative")]
    (fewer,) = studies_of(runs[2:], 0, ())
    assert [f.runs for f in ask(QUESTIONS["direct"], fewer)] == [(FROZEN, POSITION)]
    (fewer,) = studies_of(runs[2:3], 0, ())
    (missing,) = ask(QUESTIONS["direct"], fewer)
    assert (missing.answer, missing.number) == ("missing", 4)
    assert missing.missing == (("layer",), ("layer_recomputed",))


def test_what_no_pair_has_a_value_of_is_not_asked():
    """No ceiling was run, and a question that needs no runs of its own is not missing."""
    data = planted_run(1.0, 1, experiment="position")
    data["run_clean_probability"].values[:, 2:] = np.nan
    (study,) = studies_of([data], 0, ())
    assert list(ask(QUESTIONS["ceiling"], study)) == []
    assert list(ask(QUESTIONS["below_ceiling"], study)) == []
