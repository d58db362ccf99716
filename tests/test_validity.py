"""Each check holds on good records, fails on the fault that it is there for, and says when it
cannot tell."""

from dataclasses import replace

import numpy as np
import pytest
from lens_maker import make_lens
from results_maker import make, run_of, written

from codi_patching.analysis.agreement import check_agreement
from codi_patching.analysis.checks import Check, count_checks
from codi_patching.analysis.made_again import check_made_again
from codi_patching.analysis.report import build_report
from codi_patching.analysis.validity import (
    check_chain,
    check_control,
    check_recovery,
    check_run,
    check_self_patch,
    check_source_run,
    check_structural_zeros,
    check_unchanged,
    describe_ceiling,
    describe_unknown_words,
)
from codi_patching.results.dataset import pairs_of, patching_dataset
from codi_patching.results.dataset import run_of as run_in
from codi_patching.results.description import Code
from codi_patching.results.read import read_results


def rebuilt(data, run=None, pairs=None):
    """A dataset with another description of the run or of the pairs."""
    run, pairs = run or run_in(data), pairs or pairs_of(data)
    own, control = (
        {m: data[m].sel(arm=arm).values for m in run.metrics} for arm in ("own", "control")
    )
    return patching_dataset(run, list(data["pair"].values), pairs, own, control)


def with_fields(data, **fields):
    """With fields of every pair's description changed."""
    return rebuilt(data, pairs=[replace(pair, **fields) for pair in pairs_of(data)])


def with_first(data, **fields):
    """With fields of the first pair's description changed."""
    first, *others = pairs_of(data)
    return rebuilt(data, pairs=[replace(first, **fields), *others])


def with_values(data, metric, change, arm="own"):
    """With the values of a metric, `(pairs, layers, columns)`, changed in place in a copy."""
    data = data.copy(deep=True)
    change(data[metric].sel(arm=arm).values)
    return data


@pytest.fixture
def data():
    return make(run_of(), planted={(2, 1): 0.4})


def statuses(checks):
    return {check.name: check.status for check in checks}


def test_a_good_run_fails_nothing(tmp_path):
    checks = check_run(written(tmp_path / "out", run_of(), planted={(2, 1): 0.4}))
    assert [check.name for check in checks if check.status == "fail"] == []
    assert count_checks(checks) == (
        "7 of 7 checks that apply hold; 3 of 3 file checks hold; 1 does not apply; 2 are described"
    )
    files = [check.name for check in checks if check.kind == "file"]
    assert files == [
        "unchanged files",
        "recovery in the files",
        "source run against itself in the files",
    ]


def test_checks_that_do_not_apply_are_not_counted():
    given = ("pass", "pass", "fail", "not applicable", "not made", "described")
    checks = [Check("", "", "", status) for status in given]
    assert count_checks(checks) == (
        "2 of 3 checks that apply hold; 1 does not apply; 1 was not made; 1 is described"
    )


# -- made again -------------------------------------------------------------------------------


def verified_as(data, arm, change):
    """The first pair's verified runs of an arm, their metrics changed by a function."""
    runs = pairs_of(data)[0].verified
    changed = [replace(r, metrics=change(r.metrics)) if r.arm == arm else r for r in runs]
    return with_first(data, verified=tuple(changed))


@pytest.mark.parametrize(
    ("arm", "name"),
    [
        ("own", "cells made again"),
        ("control", "cells with the control made again"),
        ("base", "whole runs made again"),
        ("source", "whole runs made again"),
        ("ceiling", "whole runs made again"),
        ("ceiling_control", "whole runs made again"),
    ],
)
@pytest.mark.parametrize("metric", run_of().metrics)
def test_every_metric_of_every_run_is_compared(data, arm, name, metric):
    off = verified_as(data, arm, lambda m: m | {metric: m[metric] + 0.1})
    failed = [check.name for check in check_made_again(off) if check.status == "fail"]
    assert failed == [name]


def test_what_differs_is_said(data):
    off = verified_as(data, "base", lambda m: m | {"kl_divergence": 0.25})
    *_, check = check_made_again(off)
    assert check.seen == (
        "1 of 8 differ: kl_divergence is 0, and 0.25 again, at the base run of pair_00"
    )


def test_rounding_is_allowed_by_precision(data):
    largest = np.abs(data["kl_divergence"]).max().item()
    largest = max(largest, np.abs(data["run_kl_divergence"]).max().item())

    def moved(share, precision):
        run = replace(run_in(data), precision=precision)
        change = {"kl_divergence": share * largest}
        off = verified_as(data, "base", lambda m: m | change)  # the dataset has 0
        return check_made_again(rebuilt(off, run=run))[-1].status

    for precision, least in (("64-true", 1e-6), ("32-true", 1e-4), ("16-true", 0.02)):
        assert moved(0.9 * least, precision) == "pass"
        assert moved(1.1 * least, precision) == "fail"
    assert moved(0.09, "bf16-true") == "pass"
    assert moved(0.11, "bf16-true") == "fail"


def test_undefined_must_be_undefined_in_both(data):
    unknown = verified_as(data, "own", lambda m: m | {"recovery": None})
    assert statuses(check_made_again(unknown))["cells made again"] == "fail"
    cell = verified_as(data, "own", lambda m: m | {"kl_divergence": None})

    def forget(kl):
        kl[0] = np.nan

    both = with_values(cell, "kl_divergence", forget)
    assert statuses(check_made_again(both))["cells made again"] == "pass"


def test_recovery_may_differ_by_what_the_logit_differences_may(data):
    """Where these are 0.01 apart, their rounding is a hundred times larger in recovery."""
    base = pairs_of(data)[0].base["answer_logit_difference"]
    source = pairs_of(data)[0].source | {"answer_logit_difference": base + 0.01}
    near = with_first(data, source=source)
    near = verified_as(near, "source", lambda m: m | {"answer_logit_difference": base + 0.01})
    assert statuses(check_made_again(near))["cells made again"] == "pass"
    for off, status in ((0.05, "pass"), (1.0, "fail")):
        moved = verified_as(near, "own", lambda m, off=off: m | {"recovery": m["recovery"] + off})
        assert statuses(check_made_again(moved))["cells made again"] == status


def test_metrics_that_a_tie_leaves_open_are_not_compared(data):
    def without(metrics):
        return {name: v for name, v in metrics.items() if not name.startswith("predicts")}

    tied = verified_as(data, "own", without)
    assert statuses(check_made_again(tied))["cells made again"] == "pass"


def test_a_run_in_which_nothing_was_made_again_is_not_judged(data):
    old = with_fields(data, verified=())
    assert set(statuses(check_made_again(old)).values()) == {"not made"}


# -- self-patch, zeros, chain -----------------------------------------------------------------


def test_self_patch(data):
    assert check_self_patch(data).status == "pass"
    assert check_self_patch(with_fields(data, self_patch=1e-4)).status == "fail"
    half = rebuilt(data, run=replace(run_in(data), precision="bf16-true"))
    assert check_self_patch(with_fields(half, self_patch=1e-4)).status == "pass"
    assert check_self_patch(with_fields(data, self_patch=None)).status == "not made"
    assert check_self_patch(with_fields(data, self_patch=float("nan"))).status == "fail"
    check = check_self_patch(with_first(data, self_patch=float("nan")))
    assert (check.status, check.seen[-14:]) == ("fail", "undefined in 1")


def test_a_self_patch_that_fails_by_rounding_perhaps(data):
    """A chain of 64 thoughts amplifies float32's last digits to 1e-3 nats, and float64's to 0."""
    long = rebuilt(data, run=replace(run_in(data), num_latents=64))
    check = check_self_patch(with_fields(long, self_patch=1e-3))
    assert check.status == "fail"
    assert "rounding in 32-true, which a chain of 64 thoughts amplifies" in check.seen
    assert "in float64 (precision 64-true) only a fault is left" in check.seen
    double = rebuilt(data, run=replace(run_in(data), precision="64-true"))
    check = check_self_patch(with_fields(double, self_patch=1e-3))
    assert (check.status, "rounding" in check.seen) == ("fail", False)


@pytest.mark.parametrize("arm", ["own", "control"])
def test_structural_zeros(data, arm):
    def disturb(kl):
        kl[3, -1, -1] = 1e-3

    found = statuses(check_structural_zeros(with_values(data, "kl_divergence", disturb, arm)))
    other = "control" if arm == "own" else "own"
    assert found == {f"structural zeros, {arm}": "fail", f"structural zeros, {other}": "pass"}


def test_structural_zeros_of_nothing(data):
    cumulative = make(run_of("iterative", strategy="cumulative"))
    assert {c.status for c in check_structural_zeros(cumulative)} == {"not applicable"}


def test_chain_links(data):
    assert check_chain(data).status == "not applicable"
    relay = make(run_of("iterative"), pairs=3)
    check = check_chain(relay)
    assert (check.status, check.seen) == ("pass", "24 of 24 patched cells did")
    check = check_chain(with_first(relay, chain_broken=2))
    assert (check.status, check.seen) == ("fail", "22 of 24 patched cells did")


# -- own against control ----------------------------------------------------------------------


def test_own_against_control(data):
    check = check_control(data)
    assert check.status == "pass"
    assert "layer 2, position 1, 24 pairs, 95 % interval +0." in check.seen

    def swap(p):
        p[:, 2, 1] += 0.9

    assert check_control(with_values(data, "clean_probability", swap, "control")).status == "fail"


def test_a_stranger_that_disrupts_is_no_success_of_the_own_patch():
    disrupting = make(run_of(), disrupting={(1, 1): 3.0})
    noise = np.random.default_rng(1).normal(0, 0.01, 24)

    def disrupt(p):
        p[:, 1, 1] += noise - noise.mean() - 0.1

    check = check_control(with_values(disrupting, "clean_probability", disrupt, "control"))
    assert check.status == "not applicable"
    assert "not told apart from none" in check.seen


def test_own_against_control_cannot_always_be_told():
    few = check_control(make(run_of(), pairs=8, planted={(2, 1): 0.4}))
    assert few.status == "not applicable"
    assert few.seen.endswith("8 pairs: too few to tell")
    disrupting = make(run_of(), disrupting={(1, 1): 3.0})
    noise = np.random.default_rng(1).normal(0, 0.1, 24)

    def blur(p):
        p[:, 1, 1] += noise - noise.mean()

    same = check_control(with_values(disrupting, "clean_probability", blur))
    assert same.status == "not applicable"
    assert same.seen.endswith("cannot be told apart")
    for run, reason in (
        (run_of(source="zero"), "source is zero"),
        (run_of(control="none"), "no control was run"),
    ):
        check = check_control(make(run, planted={(2, 1): 0.4}))
        assert check.status == "not applicable"
        assert reason in check.seen


# -- files ------------------------------------------------------------------------------------


def test_changed_files(tmp_path, data):
    assert check_unchanged(data).status == "not applicable"
    own = written(tmp_path / "out", run_of(), pairs=2)
    assert check_unchanged(own).status == "pass"
    changed = check_unchanged(own.assign_attrs(changed=("a.json",)))
    assert (changed.status, changed.seen) == ("fail", "missing, changed or not listed: a.json")


@pytest.mark.parametrize("sums", [None, b"", b"\xff"], ids=["missing", "empty", "no text"])
def test_files_without_sums_fail(tmp_path, sums):
    written(tmp_path / "out", run_of(), pairs=2)
    path = tmp_path / "out" / "SHA256SUMS"
    path.unlink()
    if sums is not None:
        path.write_bytes(sums)
    check = check_unchanged(read_results(tmp_path / "out"))
    assert (check.status, check.seen) == ("fail", "missing, changed or not listed: SHA256SUMS")


def test_the_source_run_restores_itself(data):
    assert check_source_run(data).status == "pass"
    wrong = with_fields(data, source=pairs_of(data)[0].source | {"kl_to_source": 1e-3})
    assert check_source_run(wrong).status == "fail"


@pytest.mark.parametrize("arm", ["own", "control"])
def test_recovery_follows_from_the_logit_differences(data, arm):
    def disturb(recovery):
        recovery[2, 0, 0] += 0.01

    assert check_recovery(data).status == "pass"
    check = check_recovery(with_values(data, "recovery", disturb, arm))
    assert (check.status, check.seen) == ("fail", "differs in 1 of 24 pairs")


def test_what_is_described(data):
    ceiling = describe_ceiling(data)
    assert ceiling.status == "described"
    assert "predicted in 0% of pairs" in ceiling.seen  # 0.4 + 0.02 is less than half
    check = describe_unknown_words(make(run_of(), one_pair={"unknown_words": ("foxes",)}))
    assert check.status == "described"
    assert check.seen == "1 pair with words it does not know: foxes"


# -- several runs -----------------------------------------------------------------------------


def test_runs_that_must_agree():
    parallel = make(run_of("layer", latents="recomputed"), planted={(1, 0): 0.3}, seed=3)
    chain = make(run_of("iterative", strategy="cumulative"), planted={(1, 2): 0.3}, seed=4)
    same = rebuilt(chain, pairs=pairs_of(parallel))
    same["kl_divergence"].values[..., -1, :] = parallel["kl_divergence"].values[..., 0, :]
    checks = check_agreement({"parallel": parallel, "cumulative": same})
    assert [(c.name, c.status) for c in checks] == [
        ("parallel and cumulative, unpatched runs", "pass"),
        ("parallel and cumulative, whole layers", "pass"),
    ]
    checks = check_agreement({"parallel": parallel, "cumulative": chain})
    assert [c.status for c in checks] == ["fail", "fail"]
    noising = make(run_of("layer", direction="noising"))
    assert check_agreement({"a": parallel, "b": noising}) == []


def test_runs_are_compared_in_the_metrics_that_both_have():
    position = make(run_of("position"), seed=3)
    relay = rebuilt(make(run_of("iterative"), seed=4), pairs=pairs_of(position))
    for runs in ({"a": position, "b": relay}, {"a": relay, "b": position}):
        assert [(c.name, c.status) for c in check_agreement(runs)] == [
            ("a and b, unpatched runs", "pass"),
            ("a and b, the first position", "fail"),
        ]


@pytest.mark.parametrize("value", [0.003, float("nan")])
def test_each_metric_must_agree_on_its_own_scale(data, value):
    base = pairs_of(data)[0].base | {"l2_difference": 250.0}
    large = with_fields(data, base=base)
    (check,) = check_agreement({"a": large, "b": large})
    assert check.status == "pass"
    moved = base | {"clean_probability": base["clean_probability"] + value}
    (check,) = check_agreement({"a": large, "b": with_fields(data, base=moved)})
    assert check.status == "fail"


@pytest.mark.parametrize(("gap", "status"), [(4e-8, "pass"), (2e-6, "fail")])
def test_cells_in_which_nothing_happens_may_differ_by_rounding(gap, status):
    frozen, recomputed = (
        make(run_of("position", latents=n), seed=5) for n in ("frozen", "recomputed")
    )
    for data, value in ((frozen, 0.0), (recomputed, gap)):
        data["kl_divergence"].values[..., -1, :] = value
    checks = check_agreement({"frozen": frozen, "recomputed": recomputed})
    assert checks[-1].name == "frozen and recomputed, the last position"
    assert checks[-1].status == status


# -- under what the runs were measured --------------------------------------------------------

OTHERS = {
    "code": {"code": Code("5ec0" * 16, "0.3.0")},
    "precision": {"precision": "bf16-true"},
    "torch": {"versions": {"torch": "2.12.1", "transformers": "5.23.0"}},
}
SAID = {
    "code": "code version 0.2.0, sources c0dec0dec0de (position, recomputed) and version 0.3.0, "
    "sources 5ec05ec05ec0 (layer, frozen)",
    "precision": "precision 32-true (position, recomputed) and bf16-true (layer, frozen)",
    "torch": "torch 2.13.0 (position, recomputed) and 2.12.1 (layer, frozen)",
}


@pytest.mark.parametrize("what", OTHERS)
def test_what_runs_were_measured_by_is_compared(what):
    """Said, and not refused: whether it matters, their own checks say."""
    runs = [make(run_of("position")), make(run_of("layer", **OTHERS[what]))]
    check = build_report(runs).checks["all runs"][-1]
    assert (check.name, check.status) == ("measured alike", "described")
    assert check.seen == f"they differ: {SAID[what]}"


def test_runs_that_were_measured_alike():
    alike = build_report([make(run_of("position")), make_lens()]).checks["all runs"]
    assert [check.seen for check in alike] == ["they are"]
    other = make(run_of("position", checkpoint_sha256="f" * 64, model="b", precision="64-true"))
    (check,) = build_report([make(run_of("position")), other]).checks["all runs"]
    assert check.seen.startswith("they differ: precision 32-true (")
    assert "all runs" not in build_report([other]).checks
