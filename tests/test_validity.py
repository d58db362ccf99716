"""Each check holds on good records, fails on the fault that it is there for, and says when it
cannot tell."""

from dataclasses import replace

import numpy as np
import pytest
from results_maker import make, run_of, written

from codi_patching.analysis.agreement import check_agreement
from codi_patching.analysis.checks import Check, count_checks
from codi_patching.analysis.from_results import as_arm
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
    describe_first_cell,
    describe_unknown_words,
)


def changed_pairs(results, **fields):
    return replace(results, pairs=tuple(replace(pair, **fields) for pair in results.pairs))


def changed_values(results, metric, change, control=False):
    values = dict(results.control if control else results.values)
    values[metric] = values[metric].copy()
    change(values[metric])
    return replace(results, **{"control" if control else "values": values})


@pytest.fixture
def results():
    return make(run_of(), planted={(2, 1): 0.4})


def test_a_good_run_fails_nothing(tmp_path):
    results = written(tmp_path / "out", run_of(), planted={(2, 1): 0.4})
    checks = check_run(results)
    assert [check.name for check in checks if check.status == "fail"] == []
    assert (
        count_checks(checks) == "7 of 7 checks that apply hold; 1 does not apply; 2 are described"
    )


def test_checks_that_do_not_apply_are_not_counted():
    checks = [Check("", "", "", s) for s in ("pass", "pass", "fail", "not applicable", "described")]
    assert count_checks(checks) == (
        "2 of 3 checks that apply hold; 1 does not apply; 1 is described"
    )


def test_self_patch(results):
    assert check_self_patch(results).status == "pass"
    assert check_self_patch(changed_pairs(results, self_patch=1e-4)).status == "fail"
    half = replace(results, run=replace(results.run, precision="bf16-true"))
    assert check_self_patch(changed_pairs(half, self_patch=1e-4)).status == "pass"
    for nothing in (None, float("nan")):
        check = check_self_patch(changed_pairs(results, self_patch=nothing))
        assert check.status == "not applicable"
    some = replace(results.pairs[0], self_patch=float("nan"))
    check = check_self_patch(replace(results, pairs=(some, *results.pairs[1:])))
    assert (check.status, check.seen[-14:]) == ("fail", "undefined in 1")


@pytest.mark.parametrize("control", [False, True])
def test_structural_zeros(results, control):
    assert check_structural_zeros(results).status == "pass"

    def disturb(kl):
        kl[3, -1, -1] = 1e-3

    check = check_structural_zeros(changed_values(results, "kl_divergence", disturb, control))
    assert check.status == "fail"
    assert f"{'control' if control else 'own'} at most 0.001 nats" in check.seen


def test_structural_zeros_of_nothing(results):
    cumulative = make(run_of("iterative", strategy="cumulative"))
    assert check_structural_zeros(cumulative).status == "not applicable"

    def forget(kl):
        kl[...] = np.nan

    unknown = changed_values(results, "kl_divergence", forget)
    unknown = changed_values(unknown, "kl_divergence", forget, control=True)
    assert check_structural_zeros(unknown).status == "not applicable"


def test_the_source_run_restores_itself(results):
    assert check_source_run(results).status == "pass"
    wrong = changed_pairs(results, source=results.pairs[0].source | {"kl_to_source": 1e-3})
    assert check_source_run(wrong).status == "fail"


def test_chain_links(results):
    assert check_chain(results).status == "not applicable"
    relay = make(run_of("iterative"), pairs=3)
    check = check_chain(relay)
    assert (check.status, check.seen) == ("pass", "24 of 24 patched cells did")
    broken = replace(relay.pairs[0], chain_broken=2)
    check = check_chain(replace(relay, pairs=(broken, *relay.pairs[1:])))
    assert (check.status, check.seen) == ("fail", "22 of 24 patched cells did")


def test_recovery_follows_from_the_logit_differences(results):
    def disturb(recovery):
        recovery[2, 0, 0] += 0.01

    assert check_recovery(results).status == "pass"
    check = check_recovery(changed_values(results, "recovery", disturb))
    assert (check.status, check.seen) == ("fail", "differs in 1 of 24 pairs")


def test_own_against_control(results):
    check = check_control(results)
    assert check.status == "pass"
    assert "layer 2, position 1, 24 pairs, 95 % interval +0." in check.seen

    def swap(p):
        p[:, 2, 1] += 0.9

    worse = changed_values(results, "clean_probability", swap, control=True)
    assert check_control(worse).status == "fail"


def test_a_stranger_that_disrupts_is_no_success_of_the_own_patch():
    disrupting = make(run_of(), disrupting={(1, 1): 3.0})
    noise = np.random.default_rng(1).normal(0, 0.01, 24)

    def disrupt(p):
        p[:, 1, 1] += noise - noise.mean() - 0.1

    check = check_control(changed_values(disrupting, "clean_probability", disrupt, control=True))
    assert check.status == "not applicable"
    assert "not told apart from none" in check.seen


def test_own_against_control_cannot_always_be_told(results):
    few = check_control(make(run_of(), pairs=8, planted={(2, 1): 0.4}))
    assert few.status == "not applicable"
    assert few.seen.endswith("8 pairs: too few to tell")
    disrupting = make(run_of(), disrupting={(1, 1): 3.0})
    noise = np.random.default_rng(1).normal(0, 0.1, 24)

    def blur(p):
        p[:, 1, 1] += noise - noise.mean()

    same = check_control(changed_values(disrupting, "clean_probability", blur))
    assert same.status == "not applicable"
    assert same.seen.endswith("cannot be told apart")
    for run, reason in (
        (run_of(source="zero"), "source is zero"),
        (run_of(control="none"), "no control was run"),
    ):
        check = check_control(make(run, planted={(2, 1): 0.4}))
        assert check.status == "not applicable"
        assert reason in check.seen


def test_changed_files(tmp_path, results):
    assert check_unchanged(results).status == "not applicable"
    own = written(tmp_path / "out", run_of(), pairs=2)
    assert check_unchanged(own).status == "pass"
    assert check_unchanged(replace(own, changed=("a.json",))).status == "fail"
    (tmp_path / "out" / "SHA256SUMS").unlink()
    assert check_unchanged(own).status == "not applicable"


def test_what_is_described(results):
    ceiling = describe_ceiling(results)
    assert ceiling.status == "described"
    assert "predicted in 0% of pairs" in ceiling.seen  # 0.4 + 0.02 is less than half
    assert describe_first_cell(results).status == "described"
    for other in (run_of("layer"), run_of("iterative")):
        assert describe_first_cell(make(other)).status == "not applicable"
    assert describe_unknown_words(results).status == "pass"
    check = describe_unknown_words(make(run_of(), one_pair={"unknown_words": ("foxes",)}))
    assert check.status == "described"
    assert check.seen == "1 pair with words it does not know: foxes"


def test_runs_that_must_agree():
    parallel = make(run_of("layer", latents="recomputed"), planted={(1, 0): 0.3}, seed=3)
    chain = make(run_of("iterative", strategy="cumulative"), planted={(1, 2): 0.3}, seed=4)
    values = {m: v.copy() for m, v in chain.values.items()}
    values["kl_divergence"][..., -1] = parallel.values["kl_divergence"][..., 0]
    same = replace(chain, values=values, pairs=parallel.pairs)
    checks = check_agreement({"parallel": parallel, "cumulative": same})
    assert [(c.name, c.status) for c in checks] == [
        ("parallel and cumulative, unpatched runs", "pass"),
        ("parallel and cumulative, whole layers", "pass"),
    ]
    checks = check_agreement({"parallel": parallel, "cumulative": chain})
    assert [c.status for c in checks] == ["fail", "fail"]
    noising = make(run_of("layer", direction="noising"))
    assert check_agreement({"a": parallel, "b": noising}) == []


def test_a_first_pair_without_control_leaves_the_others_theirs(results):
    """The ceiling's control, too, is that of all pairs that have one."""
    assert results.pairs[0].ceiling_control
    first = replace(results.pairs[0], ceiling_control={}, control=None)
    arm = as_arm(replace(results, pairs=(first, *results.pairs[1:])))
    known = arm.ceiling_control["clean_probability"]
    assert np.isnan(known[0])
    assert np.isfinite(known[1:]).all()


@pytest.mark.parametrize("value", [0.003, float("nan")])
def test_each_metric_must_agree_on_its_own_scale(results, value):
    large = changed_pairs(results, base=results.pairs[0].base | {"l2_difference": 250.0})
    (check,) = check_agreement({"a": large, "b": large})
    assert check.status == "pass"
    moved = results.pairs[0].base | {"l2_difference": 250.0}
    moved["clean_probability"] += value
    (check,) = check_agreement({"a": large, "b": changed_pairs(results, base=moved)})
    assert check.status == "fail"
