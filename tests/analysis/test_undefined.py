"""What is not there is no agreement: undefined zeros, runs without metrics, files without pairs."""

from dataclasses import replace

import numpy as np
import pytest
from results_maker import make, records_of, run_of, write

from codi_patching.analysis.made_again import check_made_again
from codi_patching.analysis.validity import check_structural_zeros
from codi_patching.results.dataset import pairs_of
from codi_patching.results.description import ResultsError
from codi_patching.results.layout import results_file
from codi_patching.results.read import read_results


def test_structural_zeros_that_are_undefined_in_most_pairs_fail():
    data = make(run_of(), pairs=10)
    data["kl_divergence"].values[1:, 3, 2, 0] = np.nan
    own, control = check_structural_zeros(data)
    assert (own.status, control.status) == ("fail", "pass")
    assert own.seen.endswith("undefined in 9 pairs")


def test_structural_zeros_with_the_control_are_those_of_pairs_that_have_one():
    data = make(run_of(), pairs=10)
    data["kl_divergence"].values[1:, 3, 2, 1] = np.nan
    assert check_structural_zeros(data)[1].status == "fail"
    kinds = [kind if row == 0 else "" for row, kind in enumerate(data["control_kind"].values)]
    data = data.assign_coords(control_kind=("pair", kinds))
    assert check_structural_zeros(data)[1].status == "pass"


def test_a_run_made_again_without_a_common_metric_does_not_agree():
    data = make(run_of())
    first = pairs_of(data)[0]
    runs = [replace(r, metrics={"x": 0.0}) if r.arm == "base" else r for r in first.verified]
    data["description"].values[0] = replace(first, verified=tuple(runs))
    failed = [check for check in check_made_again(data) if check.status == "fail"]
    assert [check.name for check in failed] == ["whole runs made again"]


@pytest.mark.parametrize(
    ("old", "new", "said"),
    [
        ('"num_pairs": 3', '"num_pairs": 4', "4 pairs as in its metadata, got 3"),
        ('"baseline": {\n', '"baseline": {\n"pair_99": {}, ', "none for 'pair_99'"),
    ],
)
def test_a_file_that_has_other_pairs_than_it_says_is_refused(tmp_path, old, new, said):
    run = run_of()
    path = results_file(write(tmp_path / "out", run, records_of(run, pairs=3)))
    text = path.read_text(encoding="utf-8")
    if "pair_99" in new:
        line = next(x for x in text.splitlines() if x.startswith('"pair_00"'))
        new = '"baseline": {\n' + line.replace('"pair_00": ', '"pair_99": ', 1).rstrip(",") + ",\n"
    assert old in text
    path.write_text(text.replace(old, new, 1), encoding="utf-8")
    with pytest.raises(ResultsError, match=said):
        read_results(path.parent)
