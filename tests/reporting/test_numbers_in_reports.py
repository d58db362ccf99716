"""Numbers that are printed: in sentences, tables, CSV, LaTeX, JSON, Markdown, journal and console.

The findings are written down with numbers that all differ, or are numpy's means of a dataset whose
means are no medians; what is swapped, rounded otherwise or of another cell is another text.
"""

import csv
import io
import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import report_maker as maker
from lens_maker import make_lens
from made_reports import POSITION, claim, comparison, finding, report, strata_of
from results_maker import make, records_of, run_of, write, written

from codi_patching.analysis.checks import Check
from codi_patching.analysis.findings import Carried, Claim, Course, Finding, StrataFinding
from codi_patching.analysis.inference import SMALL
from codi_patching.analysis.levels import SHARES
from codi_patching.analysis.report import Report, build_report
from codi_patching.reporting.aggregate import aggregate_json, aggregate_rows
from codi_patching.reporting.claims_in_words import (
    claim_details,
    claim_words,
    course_words,
    direct_sizes,
    direct_words,
    places,
    strata_words,
)
from codi_patching.reporting.console import console_text
from codi_patching.reporting.documents import figure_links, write_comparison_document
from codi_patching.reporting.formats import (
    layers_named,
    listed,
    p_value,
    runs_of,
    short,
    with_interval,
)
from codi_patching.reporting.methods import answered, limits, methods
from codi_patching.reporting.page import page_text
from codi_patching.reporting.question_texts import UNTOLD
from codi_patching.reporting.rows import as_row, more_rows, once, table_rows
from codi_patching.reporting.runs import (
    ReportOptions,
    compare_folders,
    comparison_json,
    report_folder,
)
from codi_patching.reporting.sentences import headline
from codi_patching.reporting.table_files import write_table
from codi_patching.reporting.templates import environment
from codi_patching.results.read import read_results

PLAIN = ReportOptions(figures=False, pair_sheets=False, page=False)


# -- formats ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (0.0, "0"), (None, "–"), (np.nan, "–"), (9.94, "9.94"), (9.96, "10"), (-12.6, "-13"),
        (0.0951, "0.10"), (0.0949, "0.095"), (0.0126, "0.013"), (-0.394, "-0.39"), (1e-13, "1e-13"),
    ],
)  # fmt: skip
def test_two_digits_that_tell_something(value, text):
    assert short(value) == text


@pytest.mark.parametrize(
    ("p", "text"),
    [
        (0.0004, "0.0004"), (0.0013, "0.001"), (0.0456, "0.046"), (0.0912, "0.091"),
        (0.123, "0.12"), (np.nan, "–"),
    ],
)  # fmt: skip
def test_p_with_its_digits(p, text):
    assert p_value(p) == text


def test_intervals_lists_and_runs():
    assert with_interval(0.5, 0.2, 0.9) == "0.50 [0.20, 0.90]"
    assert with_interval(0.5, np.nan, 0.9) == with_interval(0.5, 0.2, np.nan) == "0.50"
    assert listed(list("abcde"), 2) == "a, b and 3 more"
    assert listed(list("abcdefghijkl")) == "a, b, c, d, e, f, g, h, i, j, k and l"
    assert listed(list("abcdefghijklm")) == "a, b, c, d, e, f, g, h, i, j, k, l and 1 more"
    assert runs_of([3, 1, 2, 5]) == [(1, 3), (5, 5)]
    assert layers_named(["0", "1", "3", "4", "5"]) == "layers 0, 1 and 3 to 5"
    assert layers_named(["thought"]) == "the thoughts themselves"


# -- claims -------------------------------------------------------------------------------------


def odd(verdict="rises", **more):
    """A claim in which up, down, both ends, the bound and p all differ."""
    both = (comparison(0.5, low=0.41, high=0.62, up=17, down=3), comparison(
        0.4, "control", low=0.33, high=0.57, up=16, down=5,
    ))  # fmt: skip
    return Claim("layer 1, position 2", verdict, both, 0.0021, 0.29, "1", "2", **more)


def test_a_claim_in_words_has_each_number_at_its_place():
    assert claim_words(odd()) == "0.40 [0.33, 0.57]"
    assert claim_words(odd("less often")) == "down in 5 of 24 pairs; mean 0.40 [0.33, 0.57]"
    assert claim_words(odd("at most")) == "at most 0.29"
    assert claim_words(odd("at most", unit="logits")) == "at most 0.29 logits"
    assert claim_words(odd(unit="nats")) == "0.40 [0.33, 0.57] nats"
    assert claim_words(odd("counts")) == "up in 16, down in 5 of 24 pairs"
    assert claim_details(odd()) == [
        "relative to the unpatched run 0.50 [0.41, 0.62], up in 17 and down in 3 of 24 pairs",
        "relative to the control's patch 0.40 [0.33, 0.57], up in 16 and down in 5 of 24 pairs",
    ]


def test_a_row_has_each_number_in_its_column():
    lead = odd()
    row = as_row(finding("cells", 2, "yes", lead, tied=("a", "b", "c")), report())
    assert (row.answer, row.estimate, row.p, row.n, row.tone) == (
        "z2 at layer 1", "0.40 [0.33, 0.57]; 3 cells not told apart", "0.002", "24", "yes",
    )  # fmt: skip
    both = as_row(finding("cells", 2, "yes", lead, tied=("a", "b")), report())
    assert both.estimate.endswith("; 2 cells not told apart")
    alone = as_row(finding("cells", 2, "at most", odd("at most"), tied=("a",)), report())
    assert (alone.answer, alone.estimate, alone.tone) == ("not shown", "at most 0.29", "open")
    described = as_row(finding("accuracy", None, "described", lead), report())
    assert (described.answer, described.p) == ("most at layer 1, position 2", "–")
    numbers = (("r squared", 0.81), ("low", 0.62), ("high", 0.93))
    squared = finding("layers_from_positions", None, "described", numbers=numbers)
    assert as_row(squared, report()).estimate == "r² 0.81 [0.62, 0.93]"
    size = (("root mean square", 2e-05),)
    none = finding("layers_from_positions", None, "described", numbers=size)
    row = as_row(none, report())
    assert (row.answer, row.estimate) == ("no layer effect to predict", "root mean square 2e-05")


@pytest.mark.parametrize(
    "key",
    [
        "thoughts", "layers_by_positions", "iterative_or_parallel", "accuracy", "hops", "sums",
        "sums_of_logits", "increments",
    ],
)  # fmt: skip
def test_the_largest_of_noise_is_not_named(key):
    """Only where all comparisons are on one side of 0 is anything named."""
    over, other = odd().comparisons
    nan = float("nan")
    ones = replace(over, mean=1.0, low=nan, high=nan, up=24, down=0)
    zeros = replace(ones, mean=0.0, up=0)
    for comparisons, named in (
        ((over, other), True),
        ((over, replace(other, low=-0.1)), False),
        ((replace(over, low=0.0), other), False),
        ((replace(over, low=-0.3, high=-0.1), other), False),
        ((ones, other), True),
        ((zeros, zeros), False),
        ((zeros,), False),
        ((ones,), True),
    ):
        lead = replace(odd(), comparisons=comparisons)
        row = as_row(finding(key, None, "described", lead), report())
        assert ("position 2" in row.answer) == named
        assert (row.answer == UNTOLD[key]) != named


def test_places_are_said_apart_up_to_four():
    shown = [claim(str(n), str(c)) for n, c in ((0, 0), (1, 1), (2, 2), (3, 3))]
    assert places(shown) == "z0 at layer 0, z1 at layer 1, z2 at layer 2, z3 at layer 3"


def test_direct_and_mediated_have_their_largest_each():
    claims = [
        claim(str(n), "all", verdict, mean=mean, other=mean - 0.01, kind=kind)
        for n, (kind, verdict, mean) in enumerate((
            ("direct", "rises", 0.3), ("direct", "rises", 0.6), ("mediated", "rises", 0.2),
            ("mediated", "rises", 0.5), ("mediated", "falls", -0.2), ("direct", "falls", -0.1),
        ))
    ]  # fmt: skip
    own = finding("direct", 4, "yes", claims[0], claims=tuple(claims))
    assert direct_words(own) == (
        "direct at layers 0 and 1, mediated at layers 2 and 3, undone by later thoughts at layer 4"
    )
    assert direct_sizes(own) == (
        "0.59 [0.49, 0.69] at layer 1, position all; 0.49 [0.39, 0.59] at layer 3, position all"
    )


def test_a_chain_is_told_where_it_is_largest_with_its_change():
    def course(layer, name, *means):
        effects = tuple(claim(layer, str(n), mean=m, other=m) for n, m in enumerate(means))
        change = replace(odd(), name=f"layer {layer}, last minus first")
        return Course(layer, name, effects, change)

    courses = (course("0", "fades", 0.3, 0.2), course("1", "compounds", 0.4, 0.7))
    courses += (course("2", "none", 0.9, 0.1),)
    chain = finding("chain", 5, "yes", courses=courses)
    assert course_words(chain) == ("0.40 → 0.70 at layer 1; last minus first: 0.40 [0.33, 0.57]")
    chain = replace(chain, courses=(*courses, course("3", "fades", 0.45, 0.1)))  # by the first
    assert course_words(chain).startswith("0.45 → 0.10 at layer 3;")


def test_what_is_carried_partly_or_not_at_all():
    def carried(*shown):
        made = tuple(
            Carried(str(c), s, (), k, n, 0, 0, most=m) for c, (s, k, n, m) in enumerate(shown)
        )
        main = strata_of([], [(2, 1, [1, 2], 9)], ("0", "1")).main
        return StrataFinding(replace(main, carried=made), (), 0.1, 0.9, 0.9)

    nan = float("nan")
    assert strata_words(carried((1, 9, 9, nan), (None, 2, 9, 0.3))) == "step 1 · – in z0 to z1"
    assert strata_words(carried((None, 1, 9, 0.21), (None, 2, 9, 0.34))) == (
        "nothing shown, at most 0.34 of pairs restored"
    )
    assert strata_words(carried((None, 8, 9, nan), (None, 2, 9, 0.34))) == (
        "z0 in some pairs, no step told apart; elsewhere at most 0.34 of pairs restored"
    )
    both = carried((1, 5, 9, nan), (1, 7, 9, nan))
    said = headline(report(finding("strata", 3, "yes", strata=both)))
    assert said[0] == "Thoughts z0 and z1 carry the result of step 1 in 5 of 9 pairs or more."
    row = as_row(finding("strata", 3, "yes", strata=both), report())
    assert row.estimate == "5/9, 7/9"
    # of several lengths the one that is shown stands for the position, the first of them
    main = both.main
    lengths = tuple(Carried("0", s, (), k, 9, 0, 0) for s, k in ((None, 1), (2, 8), (1, 7)))
    several = replace(both, main=replace(main, carried=lengths, columns=("0",)))
    assert strata_words(several) == "step 2 in z0 to z0"
    assert as_row(finding("strata", 3, "yes", strata=several), report()).estimate == "8/9"
    bounds = tuple(Carried("0", None, (), k, 9, 0, 0, most=m) for k, m in ((1, 0.3), (2, 0.2)))
    none = replace(both, main=replace(main, carried=bounds, columns=("0",)))
    assert strata_words(none) == "nothing shown, at most 0.30 of pairs restored"


def test_the_ceiling_and_the_bound_are_those_of_the_claims():
    lead = odd()
    assert headline(report(finding("ceiling", 1, "yes", lead)))[0].endswith("answer by 0.40.")
    often = finding("ceiling", 1, "yes", odd("more often"))
    assert headline(report(often))[0].endswith("more probable in 16 of 24 pairs.")
    cells = finding("cells", 2, "yes", odd("more often"))
    assert headline(report(cells))[0].endswith("at z2 at layer 1, in 16 of 24 pairs.")
    whole = claim("1", "all")
    said = headline(report(finding("cells", 2, "yes", whole)))[0]
    assert said.startswith("All positions of one layer raise")


def test_chains_and_last_steps_are_said():
    effects = (claim("0", "0"), claim("0", "1"))
    chains = [
        Finding("chain", 5, "yes", (run,), courses=(Course("0", course, effects, None),))
        for run, course in (("relay", "fades"), ("cumulative", "compounds"))
    ]
    assert headline(report(*chains)) == [
        "Along the chain the effect of a relayed patch fades at layer 0.",
        "Along the chain the effect of the cumulative chain compounds at layer 0.",
    ]
    rows = [(2, 1, [9], 9), (2, 2, [0], 5), (3, 3, [1], 8), (3, 1, [9], 9)]
    strata = strata_of([("0", 1, 9, 9)], rows, ("0",))
    said = headline(report(finding("strata", 3, "yes", strata=strata)))
    assert (
        said[1]
        == "In the 13 pairs in which only the last step changes, no thought is shown to act."
    )


# -- two models ---------------------------------------------------------------------------------


def between(*verdicts, key="between_models", means=(0.31, -0.22, 0.43, -0.14)):
    claims = tuple(
        Claim(f"layer {n}", v, (comparison(m, up=20 - n, down=n + 3),), 0.01, 0.5, str(n), "0",
              "first minus second", either=True)
        for n, (v, m) in enumerate(zip(verdicts, means))
    )  # fmt: skip
    lead = max(claims, key=lambda c: abs(c.lead.mean))
    answer = "yes" if any(c.claimed for c in claims) else claims[0].verdict
    return Finding(key, None, answer, (f"A: {POSITION}", f"B: {POSITION}"), lead, claims)


def of_models(*findings):
    made = report(*findings)
    one, two = (replace(made.summaries[POSITION], label=f"{m}: {POSITION}") for m in "AB")
    summaries = {one.label: one, two.label: two}
    checks = dict.fromkeys(summaries, made.checks[POSITION])
    return replace(made, summaries=summaries, models=("A", "B"), checks=checks)


def test_which_model_carries_more_where_and_by_how_much():
    made = of_models(between("rises", "falls", "rises", "less often"))
    assert headline(made) == [
        "Position, recomputed: A carries more than B at 2 of 4 cells, by up to 0.43.",
        "Position, recomputed: B carries more than A at 2 of 4 cells, by up to 0.22.",
    ]
    (row,) = table_rows(made)
    assert row.question == "Where does one model carry more? Position, recomputed"
    assert row.answer == "A in 2, B in 2 of 4 cells"
    assert row.estimate == "A minus B: 0.43 [0.33, 0.53]"
    often = of_models(between("more often", "less often", "at most", "less often"))
    assert table_rows(often)[0].answer == "A in 1, B in 2 of 4 cells"
    assert headline(often)[0].endswith("A carries more than B at 1 of 4 cells, in 20 of 24 pairs.")
    assert headline(often)[1].endswith("at 2 of 4 cells, in up to 6 of 24 pairs.")


def test_the_ceilings_of_two_models():
    more = between("falls", key="between_ceilings", means=(-0.31,))
    made = of_models(more)
    assert headline(made) == [
        "All thoughts of B together carry more than those of A, by 0.31.",
    ]
    (row,) = table_rows(made)
    assert (row.answer, row.estimate) == ("B", "A minus B: -0.31 [-0.41, -0.21]")


def test_no_difference_is_said_before_what_each_model_carries():
    strata = strata_of([("0", 1, 27, 27)], [(2, 1, [14], 14)], ("0",))
    own = replace(finding("strata", 3, "yes", strata=strata), model="B", runs=(f"B: {POSITION}",))
    made = of_models(between("at most", "no"), own)
    assert headline(made) == [
        "No difference between the models is shown.",
        "In B: Thought z0 carries the result of step 1.",
    ]
    few = of_models(between("counts"))
    assert headline(few) == ["Too few pairs to compare the models: counts stand alone."]
    some = of_models(between("counts"), between("at most"))
    assert headline(some) == ["No difference between the models is shown."]
    unshown = replace(own, strata=strata_of([("0", None, 5, 27)], [(2, 1, [5], 14)], ("0",)))
    assert headline(of_models(between("at most"), unshown)) == headline(some)


def test_differences_are_said_before_a_model_that_feeds_nothing_back():
    made = of_models(between("rises", "falls"))
    still = make(run_of(checkpoint={"feeds_back": False}), pairs=2)
    label = f"B: {POSITION}"
    summaries = made.summaries | {label: replace(made.summaries[label], data=still)}
    said = headline(replace(made, summaries=summaries))
    assert said[:2] == headline(made)
    assert said[2].startswith("B feeds nothing back: what it shares")


def test_claims_between_models_name_the_model_in_page_and_document(tmp_path):
    made = of_models(between("rises", "less often", "at most"))
    page = page_text(made)
    for said in (
        "<td>A carries more</td>",
        "<td>B carries more in more pairs</td>",
        "<td>at most</td>",
    ):
        assert said in page
    assert "<td>rises</td>" not in page
    write_comparison_document(made, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert "| layer 0 | A carries more: 0.31 [0.21, 0.41] | 0.010 |" in text
    assert "between models, of the one minus the other." in once(made)
    assert "other models" in " ".join(limits(make(run_of(), pairs=3)))


def test_several_runs_of_a_model_are_told_apart():
    own = [
        replace(finding("cells", 2, "yes", odd()), runs=(f"{m}: {run}",), model=m)
        for m in "AB"
        for run in ("position, recomputed", "layer, frozen")
    ]
    ceilings = [replace(finding("ceiling", 1, "yes", odd()), model=m) for m in "AB"]
    made = of_models(*own, *ceilings)
    assert [row.question for row in table_rows(made)] == [
        "Do the thoughts carry the answer at all? A",
        "Do the thoughts carry the answer at all? B",
        "Which positions and layers? A: position, recomputed",
        "Which positions and layers? B: position, recomputed",
    ]
    assert [row.question for row in more_rows(made)] == [
        "Which positions and layers? A: layer, frozen",
        "Which positions and layers? B: layer, frozen",
    ]
    early = replace(finding("early_or_late_layers", None, "described", odd()), model="A")
    row = as_row(replace(early, runs=("A: layer, frozen",)), of_models(early))
    assert row.question == "Early or late layers? A: layer, frozen"


# -- aggregate ----------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def measured():
    """A run of 4 layers × 3 positions and its report; disruption leads elsewhere than content."""
    data = make(run_of(), pairs=9, planted={(2, 1): 0.4}, disrupting={(1, 2): 6.0})
    return data, build_report([data])


def test_aggregate_has_each_cells_own_statistics(measured):
    data, made = measured
    summary = made.summaries[POSITION]
    told = aggregate_json(summary)
    assert told["num_pairs"] == 9
    table = summary.table.copy(deep=True)
    table["recovery"].loc[{"layer": "0", "column": "0", "statistic": "n"}] = np.nan
    few = aggregate_json(replace(summary, data=data.isel(pair=slice(4)), table=table))
    assert few["num_pairs"] == 4
    assert few["metrics"]["recovery"]["0"]["0"]["n"] == 0
    assert "median" not in few["metrics"]["control_kl_divergence"]["0"]["0"]
    kl = data["kl_divergence"].sel(arm="own").values
    for layer in "0123":
        for column in "012":
            cell = told["metrics"]["kl_divergence"][layer][column]
            if (layer, column) == ("3", "2"):
                assert cell == {"structural_zero": True}
                continue
            own = kl[:, int(layer), int(column)]
            assert cell["mean"] == pytest.approx(own.mean())
            assert cell["std"] == pytest.approx(own.std(ddof=1))
            assert cell["median"] == pytest.approx(np.median(own))
            assert cell["median_low"] < cell["median"] < cell["median_high"]
            share = np.sort(own)[-5:].sum() / own.sum()
            assert cell["share_of_5_largest"] == pytest.approx(share)
            assert cell["n"] == 9
    assert "median" not in told["metrics"]["recovery"]["0"]["0"]
    top, content = told["top_cells"][0], told["top_content"][0]
    assert (top["layer"], top["position"], top["name"]) == ("1", "2", "layer 1, position 2")
    assert (content["layer"], content["position"]) == ("2", "1")
    assert content["name"] == "layer 2, position 1"
    effect = min(part[:, 2, 1].mean() for part in maker.parts(data).values())
    assert content["content_effect"] == pytest.approx(effect)
    assert content["kl_divergence"]["mean"] == pytest.approx(kl[:, 2, 1].mean())


def test_rows_of_the_aggregate_are_its_cells_without_zeros(measured):
    data, made = measured
    rows = list(aggregate_rows(made.summaries[POSITION]))
    shown = {(r["layer"], r["position"]): r for r in rows if r["metric"] == "recovery"}
    assert set(shown) == {(a, b) for a in "0123" for b in "012"} - {("3", "2")}
    recovery = data["recovery"].sel(arm="own").values
    for (layer, column), row in shown.items():
        own = recovery[:, int(layer), int(column)]
        assert row["mean"] == pytest.approx(own.mean())
        assert own.std() < 1e-9 or row["ci_low"] < row["mean"] < row["ci_high"]


# -- console, methods ---------------------------------------------------------------------------


def test_the_console_has_answers_numbers_and_failures():
    lead = odd()
    failing = [
        Check(f"check {n}", f"wanted {n}", f"seen {n}", "fail", "measured") for n in range(5)
    ]
    missing = [Finding(k, n, "missing", (), missing=(("layer",),)) for k, n in (
        ("direct", 4), ("chain", 5), ("needed", 8),
    )]  # fmt: skip
    excluded = {f"p{n}": f"why {n}" for n in range(5)}
    made = report(
        finding("ceiling", 1, "yes", lead), finding("accuracy", None, "described", lead),
        finding("cells", 2, "at most", replace(odd("at most"), p=float("nan"))), *missing,
        checks=failing, run=run_of(excluded=excluded),
    )  # fmt: skip
    text = console_text(made)
    flat = " ".join(text.split())
    assert "of codi-tiny on word-problems: 24 pairs" in text
    assert "at all? yes; 0.40 [0.33, 0.57]; p = 0.002" in flat
    assert "layers? not shown; at most 0.29 " in flat
    assert "p = –" not in text
    assert "FAILS: position, recomputed, check 0: expected wanted 0; seen: seen 0" in text
    assert "  and 2 more" in text
    assert "3 further questions take other runs" in text
    assert "excluded: 5 pairs (p0: why 0; p1: why 1; p2: why 2; and 2 more)" in text
    strata = strata_of([("0", 1, 9, 9)], [(2, 1, [9], 9), (2, 2, [0], 5)], ("0",))
    more = report(finding("ceiling", 1, "yes", lead), finding("strata", 3, "yes", strata=strata))
    assert len(headline(more)) == 3
    assert " ".join(headline(more)) in " ".join(console_text(more).split())


def unequal(**changed):
    """24 pairs; 24 source and 20 base questions are answered right."""
    data = make(run_of(**changed), pairs=24)
    side = "clean" if changed.get("direction") == "noising" else "corrupted"
    data[f"run_predicts_{side}"].loc[{"run": "base"}] = (np.arange(24) < 20).astype(float)
    return data


def test_the_console_and_methods_count_right_answers_of_each_side():
    data = unequal()
    assert (answered(data, "source"), answered(data, "base")) == (24, 20)
    assert "24 source and 20 base questions, of 24 each" in console_text(build_report([data]))
    said = " ".join(methods(data))
    assert "answers 20 of the base and 24 of the source questions right, of 24 each" in said
    assert "The run of the corrupted question is patched" in said
    assert not any("answers right; effects" in sentence for sentence in limits(data))
    noising = unequal(direction="noising")
    assert (answered(noising, "source"), answered(noising, "base")) == (24, 20)
    assert "The run of the clean question is patched" in " ".join(methods(noising))


def test_a_model_that_answers_fewer_than_half_is_warned_of():
    data = make(run_of(), pairs=8)
    data["run_predicts_clean"].loc[{"run": "source"}] = (np.arange(8) < 3).astype(float)
    assert "answers 3 of 8 source questions right" in console_text(build_report([data]))
    data["run_predicts_clean"].loc[{"run": "source"}] = (np.arange(8) < 4).astype(float)
    assert "WARNING" not in console_text(build_report([data]))


def test_methods_count_steps_groups_and_controls():
    strata = ((3, 2), (2, None), (3, 1), (3, 3))
    data = make(run_of(), pairs=12, strata=strata)
    said = " ".join(methods(data))
    assert "Questions by reasoning steps: 3 of 2 steps, 9 of 3 steps." in said
    assert "for 9 pairs" in said.partition("sibling, the same question")[2][:60]
    assert "share a question" not in said
    data["group"][:6] = "one"
    assert "12 pairs of questions that differ in one number, from word-problems, in 7 groups" in (
        " ".join(methods(data))
    )
    frozen = " ".join(methods(make(run_of("layer"), pairs=3)))
    assert "what is measured is the direct effect" in frozen
    assert "The output of the last layer" not in frozen
    assert "The output of the last layer, 3, is read by nothing but the next thought" in said
    shared = make(run_of(), pairs=24)
    shared["group"][:] = [f"g{n // 2}" for n in range(24)]
    assert any("fewer than 20 independent pairs" in sentence for sentence in limits(shared))
    for source in ("zero", "mean"):
        given = make(run_of(source=source, control="none"), pairs=3)
        assert any(f"The source {source} leaves" in sentence for sentence in limits(given))
    mean = run_of(source="mean", control="none")
    for known, of in ((57, "all 57 usable pairs."), (None, "all usable pairs.")):
        said = " ".join(methods(make(replace(mean, mean_runs=known), pairs=3)))
        assert f"by the mean activations there over the source runs of {of}" in said


# -- console and methods in other cases -----------------------------------------------------------


def test_the_console_names_a_few_missing_runs_and_counts_many():
    missing = [Finding(k, n, "missing", (), missing=((k,),)) for k, n in (
        ("direct", 4), ("chain", 5), ("needed", 8),
    )]  # fmt: skip
    two = console_text(report(*missing[:2], pairs=2))
    assert "not run: codi-patching predict --config direct" in two
    assert "not run: codi-patching predict --config chain" in two
    assert "further questions" not in two
    three = console_text(report(finding("ceiling", 1, "yes", odd()), *missing, pairs=2))
    assert "not run:" not in three
    assert "3 further questions take other runs: codi-patching study makes them" in three


def test_the_console_names_three_failures_and_three_excluded_pairs():
    checks = [Check(f"c{n}", "a", "b", "fail") for n in range(3)] + [
        Check("d", "a", "a", status) for status in ("pass", "not applicable")
    ]
    run = run_of(excluded={f"p{n}": "long" for n in range(3)})
    text = console_text(report(checks=checks, run=run, pairs=2))
    assert text.count("FAILS") == 3
    assert "more" not in text.partition("validity")[2]
    assert "excluded: 3 pairs (p0: long; p1: long; p2: long)" in text
    assert "written to" not in text
    assert "validity: " in text
    assert "excluded" not in console_text(report(pairs=2))
    written_to = console_text(report(pairs=2), Path("/some/folder"))
    assert written_to.splitlines()[-1] == "written to /some/folder"


def test_the_console_counts_runs_and_names_them():
    one = report(pairs=2, run=run_of(excluded={"p9": "long"}))
    data = one.summaries[POSITION].data
    summaries = {name: replace(one.summaries[POSITION], label=name) for name in ("one", "two")}
    both = console_text(replace(one, summaries=summaries)).splitlines()
    assert both.count("excluded: 1 pair (p9: long)") == 1
    assert both[:2] == ["codi-tiny on word-problems: 2 pairs, 2 runs", "one; two"]
    assert "answered right without patches: 2 source and 2 base" in both[2]
    models = console_text(replace(one, summaries=summaries, models=("A", "B")))
    assert "answered right" not in models
    unknown = data.drop_vars("run_predicts_clean")
    summary = replace(one.summaries[POSITION], data=unknown)
    assert "answered right" not in console_text(replace(one, summaries={POSITION: summary}))


def of_several_checkpoints(**changed):
    data = make(run_of(checkpoint={"pooled": ["a/one", "b/two"]}, **changed), pairs=6)
    data["group"][:] = list("gghhii")
    return data


def test_checkpoints_put_together_are_counted_with_their_groups():
    data = of_several_checkpoints()
    summary = replace(report(pairs=2).summaries[POSITION], data=data)
    text = console_text(replace(report(pairs=2), summaries={POSITION: summary}))
    assert "one and two on word-problems: 6 pairs of 2 checkpoints together, 3 groups" in text
    assert methods(data)[0].startswith(
        "6 pairs of questions that differ in one number, from word-problems, each once for each "
        "of 2 checkpoints, together: 3 groups, a pair's runs being one. What is said holds of "
        "these checkpoints. "
    )


def test_methods_name_what_was_left_out_of_a_column():
    data = make(run_of(filtered=("x", "y")), pairs=3)
    descriptions = data["description"].values
    descriptions[1] = replace(descriptions[1], left_out={"1": "too long"})
    descriptions[2] = replace(descriptions[2], left_out={"1": "too short", "0": "odd"})
    said = methods(data)[0]
    assert "Left out before: 2 pairs with equal answers." in said
    assert said.count("Without values") == 2
    assert "Without values at 0: 1 pair (pair_02, odd)." in said
    assert "Without values at 1: 2 pairs (pair_01, too long; pair_02, too short)." in said
    assert "Left out before" not in methods(make(run_of(), pairs=3))[0]


def test_what_is_unknown_of_answers_and_steps_is_not_said():
    data = make(run_of(), pairs=4, strata=((None, None), (2, 1)))
    known = methods(data)[0]
    assert "Questions by reasoning steps: 2 of 2 steps." in known
    said = methods(data.drop_vars("run_predicts_corrupted"))[0]
    assert "Without patches" in known
    assert "Without patches" not in said
    for side in ("clean", "corrupted"):
        data[f"run_predicts_{side}"].values[:] = 0.0
    wrong = "Without patches codi-tiny answers 0 of the base and 0 of the source questions right"
    assert wrong in methods(data)[0]
    none = make(run_of(), pairs=4, strata=((None, None),))
    assert "reasoning steps" not in methods(none)[0]
    assert any("The pairs have no reasoning steps" in sentence for sentence in limits(none))
    assert not any("no reasoning steps" in sentence for sentence in limits(data))


@pytest.mark.parametrize(
    ("run", "words", "absent"),
    [
        (run_of(), "one layer and one latent position at a time, the block's output", "Positions"),
        (run_of(positions="all"), "one layer and one position at a time", "latent position at a"),
        (run_of(positions="all"), "Before the answer the head reads it. Thoughts", "thought”"),
        (run_of(positions="all"), " Positions are the latent ones and places outside", "thought”"),
        (run_of("layer"), "For each pair and layer, the block's output", "one layer"),
        (run_of("layer"), "at all latent positions at once by the source run's activations",
         "output of the last layer"),
        (run_of("layer", latents="recomputed"), "The output of the last layer, 3, is read", "head"),
        (run_of("iterative"), "by exactly what the previous iteration generated", "holds"),
        (run_of("iterative", strategy="cumulative"), "Iteration N holds the block's", "exactly"),
        (run_of("iterative", strategy="cumulative"), "at positions 0 to N at the source", "exact"),
        (run_of(site="kv"), "the layer's entry of keys and values", "output of the last layer"),
        (run_of(site="attn_out"), "what the attention sublayer adds to the residual", "MLP"),
        (run_of(site="mlp_out"), "what the MLP sublayer adds to the residual", "attention"),
        (run_of("head", site="head"), "is overwritten at all latent positions at once by", "bot"),
        (run_of("head", site="head", positions="bot"), "is overwritten at bot by", "all latent"),
        (run_of("head", site="head", positions="1"), "is overwritten at position 1 by", "all lat"),
        (run_of(thought=True), "The row “thought” is of the latent thoughts themselves", "zeros"),
        (run_of(source="zero", control="none"), "is overwritten by zeros.", "activations there"),
        (run_of(source="random_pair", control="none"),
         "by the activations there of another pair's source run", "zeros"),
        (run_of(checkpoint={"feeds_back": False}), "A patch changes no later", "Thoughts after"),
        (run_of(checkpoint={"feeds_back": False}), "feeds nothing back", "output of the last"),
    ],
)  # fmt: skip
def test_methods_say_what_is_overwritten_where_and_by_what(run, words, absent):
    said = methods(make(run, pairs=2))[1]
    assert words in said
    assert absent not in said


def test_methods_say_the_levels_and_the_scales_that_are_used():
    *_, measures, statistics = methods(make(run_of(), pairs=2))
    share = {key: 100 * sum(own.values()) for key, own in SHARES.items()}
    assert (
        f"{share['cells']:.0f} % for where the effects are, {share['strata']:.0f} % for what each "
        f"thought carries, {share['direct']:.2f} % for each other primary question."
    ) in statistics
    assert f"“no” is said where the bound is within {SMALL:.2f}." in statistics
    assert "0 as in the base run and 1 as in the source run" in measures
    edges = once(replace(report(pairs=2), summaries={}, knockout=object()))
    assert f"at {share['around']:.1f} % of the 5 % that belong to a study" in edges
    assert "and but for the question to a cut of as many words that carry no number" in edges


def test_methods_say_why_there_was_no_control():
    for run, reason in (
        (run_of(control="none"), "No control was run: the content effect"),
        (run_of(source="zero", control="none"), "No control was run, since the source is zero:"),
        (run_of(source="random_pair", control="none"), "since the source is random pair:"),
    ):
        assert reason in methods(make(run, pairs=2))[2]
    given = methods(make(run_of(), pairs=4, siblings=True))[2]
    assert given.endswith("with yet another number in that place, for 4 pairs.")
    assert "matched" not in given


def test_methods_and_limits_of_what_patches_nothing():
    lens = make_lens(pairs=3, top=7)
    sample, read = methods(lens)
    assert sample == "3 pairs of questions that differ in one number, from word-problems."
    assert "is among the 7 most probable tokens" in read
    assert limits(lens)[1:] == ["What can be read need not be used: patching tells."]
    names = (("attention", "attended to need not be used"), ("knockout", "not trained for"))
    for experiment, limit in names:
        other = lens.copy()
        other.attrs = {**lens.attrs, "run": run_of(experiment)}
        paragraphs = methods(other)
        assert len(paragraphs) == {"attention": 2, "knockout": 3}[experiment]
        assert paragraphs[1].startswith("Nothing is patched: ")
        assert ("attention probabilities are kept" in paragraphs[1]) == (experiment == "attention")
        assert limit in limits(other)[1]
        assert len(limits(other)) == 2


def test_limits_are_of_the_pairs_and_sources_that_were_run():
    right = "All questions are ones that the model answers right"
    few = "With fewer than 20 independent pairs"
    for pairs, is_few in ((19, True), (20, False)):
        said = " ".join(limits(make(run_of(), pairs=pairs)))
        assert right in said
        assert (few in said) == is_few
        assert "leaves the distribution" not in said
    both = make(run_of(), pairs=4)
    for side, metric in (("base", "corrupted"), ("source", "clean")):
        both[f"run_predicts_{metric}"].loc[{"run": side}] = [1, 1, 1, 0]
    assert right not in " ".join(limits(both))
    given = make(run_of(source="random_pair", control="none"), pairs=4)
    assert "leaves the distribution" not in " ".join(limits(given))


# -- files --------------------------------------------------------------------------------------


def rows_in(path):
    return list(csv.DictReader(io.StringIO(path.read_text(encoding="utf-8"))))


def test_a_table_in_latex_has_columns_rows_and_caption(tmp_path):
    rows = [{"a": "1 %", "b": "x_2"}, {"a": "−3", "b": "0.5 → 0.7"}, {"a": "5", "b": "–"}]
    write_table(tmp_path, "one", rows, ("a", "b"), "What & where")
    assert (tmp_path / "one.tex").read_text() == (
        "\\begin{table}\n\\centering\n\\caption{What \\& where}\n\\begin{tabular}{ll}\n\\toprule\n"
        "a & b \\\\\n\\midrule\n1 \\% & x\\_2 \\\\\n--3 & 0.5 $\\rightarrow$ 0.7 \\\\\n"
        "5 & -- \\\\\n"
        "\\bottomrule\n\\end{tabular}\n\\end{table}\n"
    )
    assert rows_in(tmp_path / "one.csv") == rows


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A run whose effect carries step 1 at layer 2, with all files and documents."""
    docs = tmp_path_factory.mktemp("numbers") / "docs"
    path = docs / "results" / "position"
    shares = {(2, 1): {1: 1.0}, (1, 0): {2: 0.5}}
    written(path, run_of(), {"pair_99": "too long"}, planted={(2, 1): 0.4}, carried=shares)
    report_folder(path, replace(PLAIN, docs=docs))
    return path


@pytest.fixture(scope="module")
def saved(folder):
    return build_report([read_results(folder)])


def test_files_of_questions_are_the_rows(folder, saved):
    names = ("question", "answer", "estimate", "p", "n")
    for name, rows in (("questions", table_rows(saved)), ("more_questions", more_rows(saved))):
        wanted = [{k: getattr(row, k) for k in names} for row in rows if not row.command]
        shown = rows_in(folder / "tables" / f"{name}.csv")
        assert [{k: v.lstrip("'") for k, v in row.items()} for row in shown] == wanted
        assert all(row["estimate"] for row in wanted)


def test_the_file_of_what_is_carried_is_the_main_table(folder, saved):
    data = read_results(folder)
    rows = rows_in(folder / "tables" / "carried_position_recomputed.csv")
    main = saved.finding("strata").strata.main
    assert main.layer == "2"
    says = data["predicts_clean"].sel(layer="2")
    for row in rows:
        alike = (data["num_steps"] == int(row["steps"])) & (
            data["changed_step"] == int(row["changed step"])
        )
        own, control = (says.sel(arm=arm).values[alike.values] for arm in ("own", "control"))
        restored = ((own == 1) & (control != 1)).sum(0)
        assert [row[f"z{c}"] for c in range(3)] == [f"{k}/{int(alike.sum())}" for k in restored]
    assert len({row["z1"] for row in rows}) > 1
    tex = (folder / "tables" / "carried_position_recomputed.tex").read_text()
    assert "\\caption{Pairs that a patch restores: position, recomputed, layer 2}" in tex


def test_findings_and_validity_are_those_of_the_report(folder, saved):
    told = json.loads((folder / "findings.json").read_text())
    assert told["answer"] == headline(saved)
    assert [f["key"] for f in told["findings"]] == [f.key for f in saved.findings]
    checks = json.loads((folder / "validity.json").read_text())["checks"]
    assert checks == [asdict(check) for check in saved.checks[POSITION]]


def test_the_document_has_rows_claims_strata_and_settings(folder, saved):
    text = (folder.parents[1] / "experiments" / "codi-tiny_word-problems_position.md").read_text()
    for row in [*table_rows(saved), *more_rows(saved)]:
        answer = f"not run: `{row.command}`" if row.command else row.answer
        assert f"| {row.question} | {answer} | {row.estimate} | {row.p} | {row.n} |" in text
    first = saved.finding("cells").claims[4]
    details = "; ".join(claim_details(first))
    words = f"{first.verdict}: {claim_words(first)}"
    assert f"| {first.name} | {words} | {p_value(first.p)} | {details} |" in text
    main = saved.finding("strata").strata.main
    for stratum, row in zip(main.strata, main.entries, strict=True):
        bold = [f"**{e.restored}/{e.n}**" if e.counts else f"{e.restored}/{e.n}" for e in row]
        shown = (
            f"| {stratum.num_steps} | {stratum.changed_step} | {stratum.n} | {' | '.join(bold)} |"
        )
        assert shown in text
    assert any(e.counts for row in main.entries for e in row)
    assert f"over this table: {main.control_restored} of {main.control_n}." in text
    assert "| grid | 4 layers × 3 positions |" in text
    assert "| cells that cannot have an effect | 1 |" in text
    assert f"| patched runs | {24 * 13 * 2} |" in text
    for check in saved.checks[POSITION]:
        assert f"| {check.name} | {check.expected} | {check.seen} | {check.status} |" in (
            text.replace("\\", "")
        )


def test_strata_by_a_field_are_named_by_it_in_document_and_tables(tmp_path):
    records = records_of(run_of(), pairs=6, carried={(0, 0): {1: 1.0, 2: 1.0}})
    records = [
        replace(each, description=replace(each.description, fields={"kind": "xy"[n % 2]}))
        for n, each in enumerate(records)
    ]
    folder = write(tmp_path / "out", run_of(), records)
    report_folder(folder, replace(PLAIN, docs=tmp_path, strata=("kind",)), "mine")
    (path,) = (folder / "tables").glob("carried_*.csv")
    header, *_, x, y = csv.reader(path.open(encoding="utf-8"))
    assert header[:3] == ["steps", "changed step", "field"]
    assert [x[:3], y[:3]] == [["", "", "kind = x"], ["", "", "kind = y"]]
    text = (tmp_path / "experiments" / "mine.md").read_text()
    assert "| steps | changed step | field | pairs | z0 |" in text
    assert "| 2 | 1 | – | 1 |" in text
    assert "| – | – | kind = y | 3 |" in text


def test_tables_of_strata_stand_in_the_order_of_the_findings(tmp_path):
    both = [
        strata_of([], [(2, 1, [k], 9)], ("0",), layer=layer) for k, layer in ((7, "2"), (6, "5"))
    ]
    made = report(*(finding("strata", 3, "yes", strata=strata) for strata in both))
    write_comparison_document(made, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert 0 < text.index("layer 2: pairs") < text.index("layer 5: pairs")
    assert text.index("**7/9**") < text.index("layer 5: pairs") < text.index("**6/9**")


def test_pairs_unlike_the_rest_stand_with_their_own_numbers(tmp_path):
    made = report(finding("cells", 2, "yes", odd()))
    far = (("pair_a", 4.5, 1.25), ("pair_b", 3.5, 1.25))
    summary = replace(made.summaries[POSITION], outliers=far)
    write_comparison_document(replace(made, summaries={POSITION: summary}), tmp_path)
    text = " ".join((tmp_path / "comparison.md").read_text().split())
    assert "upper quartile (1.25 nats)" in text
    assert "pair\\_a (4.50 nats), pair\\_b (3.50 nats)." in text


def test_the_journal_has_a_line_for_each_answer(folder, saved):
    text = (folder.parents[1] / "research_journal.md").read_text()
    for row in table_rows(saved):
        if row.tone == "off":
            assert f"- {row.question}" not in text
            continue
        line = f"- {row.question} {row.answer[0].upper()}{row.answer[1:]}: {row.estimate}"
        line += f", p = {row.p}" if row.p != "–" else ""
        line += f", n = {row.n}" if row.n else ""
        assert f"{line}.\n" in text
    assert {row.tone for row in table_rows(saved)} == {"yes", "off"}
    (row,) = table_rows(report(finding("cells", 2, "at most", odd("at most"))))
    line = (
        environment()
        .get_template("journal.md.j2")
        .render(title="t", answer=[], rows=[row], counts="", failed=[], name="n", data_folder="d")
    )
    assert f"- {row.question} Not shown: at most 0.29, p = 0.002, n = 24.\n" in line


def test_the_inventory_counts_pairs_and_cells(folder):
    text = (folder.parents[1] / "DATA_INVENTORY.md").read_text()
    assert ": 24 pairs, 12 cells each, model codi-tiny" in text
    assert "| `validity.json` | each check: expected, seen, status |" in text
    example = json.loads(text.partition("```json\n")[2].partition("```")[0])
    kl = read_results(folder)["kl_divergence"].sel(arm="own").values[0, 0, 0]
    assert example["results"]["pair_00"]["0"]["0"]["kl_divergence"] == pytest.approx(kl)


def test_each_caption_is_of_its_own_figures(tmp_path):
    for name in ("by_layer", "decomposition", "lens_and_patching", "lens_hit_rates",
                 "trajectories", "trajectories_cosine", "content_1", "content_2", "attention",
                 "attention_heads"):  # fmt: skip
        (tmp_path / f"{name}.png").touch()
    assert figure_links(tmp_path, tmp_path) == [
        ("where the content is, and what each thought carries", "content_1.png"),
        ("where the content is, and what each thought carries", "content_2.png"),
        ("effects along the chain, a line for each layer", "trajectories.png"),
        (
            "generated activations against the clean and the corrupted run's",
            "trajectories_cosine.png",
        ),
        ("how often each step's result is read, beside chance", "lens_hit_rates.png"),
        (
            "where the token before the answer looks, beside where patching acts",
            "attention.png",
        ),
        ("which heads of that token look at which thought", "attention_heads.png"),
        ("whole layers, each run", "by_layer.png"),
        ("direct, mediated and total effect by layer", "decomposition.png"),
        ("what is read, beside where patching acts", "lens_and_patching.png"),
    ]


def test_a_comparison_has_both_runs_and_the_strata_that_are_asked(tmp_path):
    folders = []
    for kind in ("position", "layer"):
        run = run_of(kind)
        records = records_of(run, pairs=6)
        folders.append(write(tmp_path / kind, run, records))
    made = compare_folders(folders, tmp_path / "out", PLAIN)
    told = comparison_json(made.report)
    assert told["runs"][POSITION]["pairs"] == 6
    assert json.loads((tmp_path / "out" / "comparison.json").read_text())["runs"] == told["runs"]
    excluded = [run_of("layer", excluded={"a": "short"}), run_of(excluded={"b": "long"})]
    two = Report(
        {str(n): replace(made.report.summaries[POSITION], data=make(r, pairs=2))
         for n, r in enumerate(excluded)},
        None, None, (), {"0": (), "1": ()}, {}, 0,
    )  # fmt: skip
    write_comparison_document(two, tmp_path)
    text = (tmp_path / "comparison.md").read_text()
    assert "- a: short" in text
    assert "- b: long" in text
    assert "## Settings" not in text
    assert "<summary>Settings" not in text
