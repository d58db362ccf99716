"""Checkpoints put together: twice the runs of a pair are not twice the evidence."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from results_maker import make, run_of, written

from codi_patching.analysis.pooled import pool
from codi_patching.analysis.report import build_report
from codi_patching.reporting.runs import ReportOptions, compare_folders
from codi_patching.results import dataset
from codi_patching.results.description import ResultsError
from codi_patching.results.read import read_results

SHIPPED = Path(__file__).parents[2] / "docs" / "results" / "codi-tiny"
OTHER = "f" * 64
"""Checksum of another checkpoint."""


def seeds(planted, other_planted=None, **changed):
    """The same run of two checkpoints."""
    second = planted if other_planted is None else other_planted
    return [
        make(run_of("position", **changed), pairs=24, planted=planted),
        make(
            run_of("position", checkpoint_sha256=OTHER, model="seed-2", **changed),
            pairs=24,
            planted=second,
        ),
    ]


def test_every_pair_is_there_once_for_each_checkpoint_as_one_group():
    one, other = seeds({(1, 2): 0.5}, {(1, 2): 0.1})
    (data,) = pool([one, other])
    assert data.sizes["pair"] == 48
    assert len(set(data["group"].values)) == 24
    name = one["pair"].values[0]
    for data_of, model in ((one, "codi-tiny"), (other, "seed-2")):
        np.testing.assert_array_equal(
            data["kl_divergence"].sel(pair=f"{name} @ {model}"),
            data_of["kl_divergence"].sel(pair=name),
        )


def test_a_checkpoint_pooled_with_its_own_copy_gives_the_same_claims():
    """Means, intervals and p are those of one; the copy adds nothing."""
    one, copy = seeds({(1, 2): 0.5, (2, 0): 0.3})
    alone = build_report([one]).finding("cells")
    both = build_report([one, copy], pooled=True).finding("cells")
    for ours, theirs in zip(both.claims, alone.claims, strict=True):
        assert (ours.name, ours.verdict) == (theirs.name, theirs.verdict)
        for of_both, of_one in zip(ours.comparisons, theirs.comparisons, strict=True):
            seen = (of_both.mean, of_both.low, of_both.high)
            assert seen == pytest.approx((of_one.mean, of_one.low, of_one.high), abs=1e-9)


def test_the_estimate_is_the_mean_of_both():
    one, other = seeds({(1, 2): 0.5}, {(1, 2): 0.1})
    parts = [build_report([data]).finding("cells") for data in (one, other)]
    both = build_report([one, other], pooled=True).finding("cells")
    for place, claim in enumerate(both.claims):
        for which, comparison in enumerate(claim.comparisons):
            means = [part.claims[place].comparisons[which].mean for part in parts]
            assert comparison.mean == pytest.approx(np.mean(means), abs=1e-9)


def test_pairs_that_one_checkpoint_left_out_are_left_out():
    one, other = seeds({(1, 2): 0.5})
    gone = str(one["pair"].values[3])
    (data,) = pool([one, other.sel(pair=[p for p in other["pair"].values if p != gone])])
    assert data.sizes["pair"] == 46
    assert gone not in {pair.split(" @ ")[0] for pair in data["pair"].values}


@pytest.mark.parametrize(
    ("datasets", "said"),
    [
        (lambda: seeds({})[:1], "two or more checkpoints"),
        (lambda: [*seeds({}), make(run_of("layer"), pairs=24)], "only one of codi-tiny and seed-2"),
        (
            lambda: [
                seeds({})[0],
                make(
                    run_of("position", columns=4, checkpoint_sha256=OTHER, model="seed-2"), pairs=24
                ),
            ],
            "differ in num_latents",
        ),
    ],
)
def test_what_is_no_seed_of_the_same_configuration_is_refused(datasets, said):
    with pytest.raises(ResultsError, match=said):
        pool(datasets())


def test_a_pooled_run_is_described_by_its_checkpoints():
    one, other = seeds({(1, 2): 0.5})
    one.attrs["run"] = replace(one.attrs["run"], excluded={"x": "too long"})
    other.attrs["run"] = replace(other.attrs["run"], excluded={"x": "too long", "y": "no answer"})
    one, other = one.assign_attrs(changed=("a.json",)), other.assign_attrs(folder=Path("there"))
    (data,), (turned,) = pool([one, other]), pool([other, one])
    run = dataset.run_of(data)
    assert (run.model, run.num_pairs) == ("codi-tiny and seed-2", 48)
    assert run.pooled == ("codi-tiny", "seed-2")
    assert run.excluded == {
        "x @ codi-tiny": "too long", "x @ seed-2": "too long", "y @ seed-2": "no answer",
    }  # fmt: skip
    assert dataset.run_of(turned).checkpoint_sha256 == run.checkpoint_sha256
    assert run.checkpoint_sha256 not in (OTHER, dataset.run_of(one).checkpoint_sha256)
    assert data.attrs["changed"] == ("codi-tiny: a.json",)
    assert data.attrs["folder"] is None
    (both,) = pool([one.assign_attrs(folder=Path("here")), other])
    assert both.attrs["folder"] == Path("here")


def test_checkpoints_without_a_pair_in_common_are_refused():
    one, other = seeds({})
    other = other.assign_coords(pair=[f"other_{row}" for row in range(24)])
    with pytest.raises(ResultsError, match="position, recomputed: expected pairs that all"):
        pool([one, other])


def test_pooled_reports_say_so(tmp_path):
    folders = [tmp_path / name for name in ("one", "two")]
    written(folders[0], run_of("position"), pairs=24, planted={(1, 2): 0.5})
    written(
        folders[1],
        run_of("position", checkpoint_sha256=OTHER, model="seed-2"),
        pairs=24,
        planted={(1, 2): 0.5},
    )
    options = ReportOptions(figures=False, pair_sheets=False, pool=True)
    made = compare_folders(folders, tmp_path / "out", options)
    assert "codi-tiny and seed-2" in made.text
    assert "48 pairs of 2 checkpoints together, 24 groups" in made.text
    document = next((tmp_path / "out").glob("*.md")).read_text()
    assert "each once for each of 2 checkpoints" in document


@pytest.mark.parametrize("name", ["attention", "knockout", "lens"])
def test_runs_that_patch_nothing_are_pooled_pair_by_pair(name):
    one = read_results(SHIPPED / name)
    changed = replace(dataset.run_of(one), checkpoint_sha256=OTHER, model="seed-2")
    (both,) = pool([one, one.assign_attrs(run=changed)])
    assert both.sizes["pair"] == 2 * one.sizes["pair"]
    for variable in one.data_vars:
        first, second = np.split(both[variable].values, 2)
        np.testing.assert_array_equal(first, one[variable].values)
        np.testing.assert_array_equal(second, one[variable].values)
