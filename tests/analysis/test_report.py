"""Whole reports: what belongs together, what is said once, and the same by itself and together."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from lens_maker import make_lens
from results_maker import make, run_of

from codi_patching.analysis import asking, inference, summary
from codi_patching.analysis.contrasts import cells
from codi_patching.analysis.effects import effect_of
from codi_patching.analysis.findings import Finding
from codi_patching.analysis.levels import SHARES, kind_of, label_of, share_of
from codi_patching.analysis.report import _once, build_report
from codi_patching.analysis.study import studies_of
from codi_patching.results.description import ResultsError
from codi_patching.results.read import read_results

SHIPPED = Path(__file__).parents[2] / "docs" / "results" / "codi-tiny"


def study(pairs=24, planted=None):
    """All runs of a study, small."""
    runs = [
        run_of("position"),
        run_of("position", latents="frozen"),
        run_of("layer"),
        run_of("layer", latents="recomputed"),
        run_of("iterative"),
        run_of("iterative", strategy="cumulative"),
    ]
    plan = {(0, 0): 0.6} if planted is None else planted
    return [make(run, pairs=pairs, planted=plan, seed=i) for i, run in enumerate(runs)]


@pytest.fixture(scope="module")
def runs():
    return study()


@pytest.fixture(scope="module")
def together(runs):
    return build_report([*runs, make_lens()])


def test_the_shares_of_all_questions_add_up_to_five_percent():
    given = sum(sum(parts.values()) for parts in SHARES.values())
    assert given + 0.0033 == pytest.approx(0.05, abs=3e-4)  # and question 7, not asked yet
    assert given + 0.0033 <= 0.05
    assert sum(SHARES["cells"].values()) == pytest.approx(0.02)
    assert sum(SHARES["strata"].values()) == pytest.approx(0.01)
    assert all(sum(SHARES[k].values()) <= 0.01 / 3 for k in ("ceiling", "direct", "chain", "read"))


def test_labels_have_what_is_unusual_and_no_brackets():
    assert label_of(run_of("position")) == "position, recomputed"
    assert label_of(run_of("layer")) == "layer, frozen"
    assert label_of(run_of("iterative")) == "relay"
    assert label_of(run_of("iterative", strategy="cumulative")) == "cumulative"
    odd = run_of("position", site="kv", direction="noising", source="mean")
    assert label_of(odd) == "position, recomputed, kv, noising, mean"
    assert label_of(run_of("neighbours")) == "neighbours, recomputed"


def test_a_study_is_of_one_site_and_source_and_a_users_own_run_is_its_own():
    """Lens, attention and cut edges read the block's output with the clean run's activations."""
    usual, noising = make(run_of(), pairs=2), make(run_of("layer", direction="noising"), pairs=2)
    site, source = (
        make(run_of(**other), pairs=2) for other in ({"site": "kv"}, {"source": "zero"})
    )
    own, lens = make(run_of("neighbours"), pairs=2), make_lens()
    first, *others = studies_of([site, usual, lens, source, own, noising], 7, ("sort",))
    assert (first.runs, first.noising) == ({"position, recomputed": site}, {})
    second, third, fourth = others
    assert second.runs == {"position, recomputed": usual}
    assert second.noising == {"layer, frozen": noising}
    assert (third.runs, fourth.runs) == ({"position, recomputed": source}, {"own": own})
    assert [study.lens is lens for study in (first, *others)] == [False, True, False, False]
    assert {(study.seed, study.strata) for study in (first, *others)} == {(7, ("sort",))}
    assert second.labels == ("position, recomputed",)
    assert second.noising_labels == ("layer, frozen, noising",)
    assert second.lacking(("relay", "position, recomputed", "layer, recomputed")) == (
        ("iterative",), ("layer_recomputed",),
    )  # fmt: skip
    assert second.playing({"run": "layer, frozen"}) is None


def test_patches_at_other_places_are_a_users_own_kind():
    everywhere = run_of(positions="all")
    assert kind_of(everywhere) == "own"
    assert label_of(everywhere) == "position, recomputed, all positions"
    heads = run_of("head", site="head")
    assert (kind_of(heads), label_of(heads)) == ("own", "head, recomputed")
    assert label_of(run_of("head", site="resid_post")) == "head, recomputed, resid_post"
    assert [kind_of(run_of(name)) for name in ("lens", "attention", "knockout")] == [
        "lens", "attention", "knockout",
    ]  # fmt: skip
    assert label_of(run_of("lens", source="zero", site="kv")) == "lens"
    assert (share_of("cells", "own"), share_of("cells", "relay")) == (0.0010, None)


def test_primary_questions_come_first_and_in_order(together):
    numbers = [finding.number for finding in together.findings]
    primary = [number for number in numbers if number is not None]
    assert numbers[: len(primary)] == primary == sorted(primary)
    assert set(primary) == {1, 2, 3, 4, 5, 6, 8}
    assert all(f.answer == "described" for f in together.findings if f.number is None)


def test_a_runs_own_report_and_the_comparison_say_the_same(runs, together):
    """Of every question that a run answers by itself, to the last digit."""
    compared = 0
    for data in runs:
        alone = build_report([data])
        label = label_of(data.attrs["run"])
        for finding in alone.findings:
            if finding.answer == "missing" or finding.key == "ceiling":
                continue
            both = next(f for f in together.findings if (f.key, f.runs) == (finding.key, (label,)))
            assert repr(both) == repr(finding)  # NaN is not equal to itself
            compared += 1
    assert compared > 20


def test_what_takes_other_runs_is_missing_with_their_configurations(runs):
    report = build_report([runs[0]])
    missing = {f.key: f.missing for f in report.findings if f.answer == "missing"}
    assert missing["direct"] == (("layer",), ("layer_recomputed",))
    assert missing["chain"] == (("iterative",), ("iterative_cumulative",))
    assert missing["read"] == (("lens",),)
    assert missing["needed"] == (("position", "noising"),)
    assert "cells" not in missing
    (direct,) = [f for f in build_report([runs[2]]).findings if f.key == "direct"]
    assert direct.missing == (("layer_recomputed",),)


def test_direct_and_total_effects_are_the_claims_of_the_cells(together):
    finding = together.finding("direct")
    cells_of = together.finding("cells", "layer, frozen")
    direct = [claim for claim in finding.claims if claim.kind == "direct"]
    assert repr(direct) == repr([replace(claim, kind="direct") for claim in cells_of.claims])
    assert {claim.kind for claim in finding.claims} == {"mediated", "direct", "total"}


def test_where_layers_were_not_recomputed_the_total_is_the_chains_end(runs):
    report = build_report([runs[2], runs[5]])
    finding = report.finding("direct")
    assert finding.runs == ("layer, frozen", "cumulative")
    totals = [claim for claim in finding.claims if claim.kind == "total"]
    of_chain = report.finding("chain", "cumulative").claims
    ends = [claim for claim in of_chain if claim.kind == "content" and claim.column == "2"]
    assert [claim.layer for claim in totals] == ["0", "1", "2", "3"]
    assert repr(totals) == repr([replace(claim, kind="total") for claim in ends])
    direct = [claim for claim in finding.claims if claim.kind == "direct"]
    of_layers = report.finding("cells", "layer, frozen").claims
    assert repr(direct) == repr([replace(claim, kind="direct") for claim in of_layers])


def test_each_statistic_is_computed_once(runs, monkeypatch):
    """The bootstrap once a measure of a run and a described question, max-T once a table."""
    calls = Counter()

    def counted(module, name):
        original = getattr(module, name)

        def call(*arguments, **options):
            calls[name] += 1
            return original(*arguments, **options)

        monkeypatch.setattr(module, name, call)

    counted(summary, "mean_intervals")
    counted(summary, "median_interval")
    counted(asking, "mean_intervals")
    counted(inference, "max_t")
    report = build_report([*runs, make_lens()])
    asked = [f for f in report.findings if f.number in (1, 2, 4, 5)]
    tables = [f for f in report.findings if f.number is None and f.claims and f.key != "disruption"]
    assert calls["max_t"] == len(asked) + 3  # and readings, and where two runs act
    measured = sum(len(summary.measures(data)) for data in runs)
    assert calls["mean_intervals"] == measured + len(tables)
    able = sum(int((~data["structural_zero"]).sum()) for data in runs)
    assert calls["median_interval"] == able


def test_a_users_own_experiment_is_judged_on_its_cells():
    data = make(run_of("neighbours"), planted={(1, 1): 0.7})
    report = build_report([data])
    finding = report.finding("cells")
    assert (finding.answer, finding.runs) == ("yes", ("neighbours, recomputed",))
    assert finding.lead.name == "layer 1, position 1"


def test_noise_claims_nothing_and_no_layer_leads(runs):
    """No finding of leading layers has a p or a claim, whatever the data."""
    report = build_report(study(planted={}))
    told = [f for f in report.findings if f.key != "ceiling"]  # which has an effect here
    assert not [c.name for f in told for c in f.claims if c.claimed]
    for finding in report.findings:
        if finding.key == "leading":
            assert (finding.answer, finding.claims, finding.lead) == ("described", (), None)


def test_ties_are_what_the_standard_error_of_the_difference_says():
    data = make(run_of("position"), pairs=60, planted={(0, 0): 0.5, (0, 1): 0.5, (2, 2): 0.2})
    finding = build_report([data]).finding("cells")
    values = effect_of({"run": data}, cells({"run": data})).values
    names = [c.name for c in cells({"run": data})]
    lead = names.index(finding.lead.name)
    expected = []
    for place, name in enumerate(names):
        gaps = [v[:, place] - v[:, lead] for v in values.values()]
        if all(abs(g.mean()) <= max(g.std(ddof=1) / np.sqrt(60), 1e-6) for g in gaps):
            expected.append(name)
    assert finding.tied == tuple(expected)
    assert "layer 2, position 2" not in finding.tied


def test_described_intervals_are_unadjusted(together):
    finding = together.finding("thoughts", "position, recomputed")
    assert {claim.verdict for claim in finding.claims} == {"described"}
    assert all(np.isnan([claim.p, claim.bound]).all() for claim in finding.claims)


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("data_sha256", "0" * 64),
        ("seed", 7),
    ],
)
def test_runs_that_do_not_belong_together_are_refused(runs, field, value):
    other = make(run_of("layer", **{field: value}))
    with pytest.raises(
        ResultsError, match=f"position, recomputed and layer, frozen differ in {field}"
    ):
        build_report([runs[0], other])


def test_the_same_run_twice_is_refused(runs):
    with pytest.raises(
        ResultsError, match="expected each experiment once, got position, recomputed"
    ):
        build_report([runs[0], runs[0]])


def test_other_pairs_are_refused_unless_a_run_says_why(runs):
    with pytest.raises(ResultsError, match="only one of them has pair_23"):
        build_report([runs[0], make(run_of("layer"), pairs=23)])
    excluded = make(run_of("layer", excluded={"pair_23": "too long"}), pairs=23)
    assert build_report([runs[0], excluded]).summaries.keys() == {
        "position, recomputed", "layer, frozen",
    }  # fmt: skip


@pytest.mark.parametrize(
    "metric",
    [
        "kl_divergence",
        *("predicts_clean", "predicts_corrupted", "clean_probability", "corrupted_probability"),
    ],
)
def test_a_run_without_a_metric_that_conclusions_take_is_refused(runs, metric):
    """One of a user's own experiment may have others beside them, not fewer."""
    some = runs[0].drop_vars(metric)
    had = runs[0].attrs["run"]
    fewer = tuple(name for name in had.metrics if name != metric)
    some.attrs = {**some.attrs, "run": replace(had, metrics=fewer)}
    with pytest.raises(ResultsError, match=f"it lacks {metric}: keep them in .*metric_table"):
        build_report([some])


def test_no_runs_at_all_are_refused():
    with pytest.raises(ResultsError, match="at least one run, got none"):
        build_report([])


def test_of_one_layer_whose_frozen_patches_nothing_reads_there_is_a_report():
    """No cell can have an effect: none is asked, alone, beside the lens, or along a chain."""
    frozen = make(run_of(layers=1, latents="frozen"), pairs=24)
    chain = make(run_of("iterative", layers=1, columns=1), pairs=24)
    for runs in ([frozen, make_lens(layers=1)], [chain]):
        report = build_report(runs)
        answers = {finding.key: finding.answer for finding in report.findings}
        assert (answers["ceiling"], answers["cells"], answers["chain"]) == (
            "yes", "missing", "missing",
        )  # fmt: skip
        assert answers["read"] == ("missing" if len(runs) == 1 else "described")
        assert not report.failed


def test_what_is_missing_is_said_once_and_not_beside_an_answer():
    """As of two sites of which one has positions, and neither a chain."""

    def finding(key, answer, *missing):
        return Finding(key, 5, answer, (), missing=missing)

    strata, chain = finding("strata", "missing"), finding("chain", "missing", ("iterative",))
    answered = finding("strata", "counts"), finding("strata", "yes")
    found = [strata, chain, *answered, finding("chain", "missing", ("lens",)), strata]
    assert _once(found) == [chain, *answered]


@pytest.mark.slow
def test_the_shipped_results_say_what_is_known_of_codi_tiny():
    names = ("position_recomputed", "layer_frozen", "layer_recomputed", "relay", "cumulative")
    report = build_report([read_results(SHIPPED / name) for name in names])
    assert report.finding("ceiling").answer == "yes"
    lead = report.finding("cells", "position, recomputed").lead
    assert (lead.comparisons[0].up, lead.lead.n) == (27, 57)  # those whose first step changed
    assert {c.course for c in report.finding("chain", "relay").courses} == {"fades"}
    assert {c.course for c in report.finding("chain", "cumulative").courses} == {"compounds"}
