"""Two models on the same pairs, cell by cell."""

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest
from by_hand import make_data
from lens_maker import make_lens

from codi_patching.analysis import between as between_models
from codi_patching.analysis.between import by_model, compare_models
from codi_patching.results.description import ResultsError

OTHER = "f" * 64


def model(effect, base=0.2, seed=0, **changed):
    """57 pairs whose content effect has this mean, `(layers, columns)`."""
    rng = np.random.default_rng(seed)
    grid = np.asarray(effect, dtype=float)
    bases = np.full(57, base)
    own = base + grid + 0.03 * rng.normal(size=(57, *grid.shape)) * (grid != 0)
    ceiling = np.stack([bases + 0.5 + 0.01 * rng.normal(size=57), bases], axis=1)
    return make_data(own, bases, np.full_like(own, base), ceiling=ceiling, **changed)


def between(*datasets):
    return compare_models(by_model(datasets), 0)


def test_a_difference_is_pair_by_pair_whatever_the_unpatched_runs_are():
    one = model([[0.5, 0.0]])
    other = model([[0.1, 0.0]], base=0.05, seed=1, checkpoint_sha256=OTHER)
    ceilings, cells = between(one, other)
    assert cells.runs == (
        "codi-tiny: position, recomputed", f"codi-tiny, {OTHER[:8]}: position, recomputed",
    )  # fmt: skip
    claim, nothing = cells.claims
    assert claim.verdict == "rises"
    assert claim.lead.mean == pytest.approx(0.4, abs=0.02)
    assert not nothing.claimed
    (ceiling,) = ceilings.claims
    assert ceiling.lead.mean == pytest.approx(0.0, abs=0.01)
    assert not ceiling.claimed


def test_the_opposite_falls():
    one, other = model([[0.1, 0.0]]), model([[0.5, 0.0]], seed=1, checkpoint_sha256=OTHER)
    assert between(one, other)[1].claims[0].verdict == "falls"


def test_models_of_other_numbers_of_thoughts_have_the_positions_in_common():
    one = model([[0.5, 0.0, 0.2]])
    other = model([[0.1, 0.0]], seed=1, checkpoint_sha256=OTHER, model="sim-codi")
    cells = between(one, other)[1]
    assert [claim.column for claim in cells.claims] == ["0", "1"]
    assert cells.runs[1] == "sim-codi: position, recomputed"


def test_only_runs_that_both_have_are_compared():
    one, layer = model([[0.5, 0.0]]), model([[0.5]], experiment="layer")
    other = model([[0.1, 0.0]], seed=1, checkpoint_sha256=OTHER)
    assert len(between(one, layer, other)) == 2


def test_the_level_is_divided_over_all_that_is_asked(monkeypatch):
    """Of two runs in common, three questions; every one at a third of 5 %."""
    shares = []
    monkeypatch.setattr(
        between_models, "judge", lambda effect, share, seed: shares.append(share) or ()
    )
    one, other = (
        [
            model([[0.5, 0.0]], checkpoint_sha256=sha),
            model([[0.5]], experiment="layer", checkpoint_sha256=sha),
        ]
        for sha in ("a" * 64, OTHER)
    )
    between(*one, *other)
    assert shares == pytest.approx([0.05 / 3] * 3)


def test_the_ceiling_is_that_of_the_clean_answer():
    one, other = (
        [
            model([[0.1, 0.0]], checkpoint_sha256=sha, direction="noising"),
            model([[0.5, 0.0]], checkpoint_sha256=sha),
        ]
        for sha in ("a" * 64, OTHER)
    )
    ceilings, *_ = between(*one, *other)
    assert ceilings.key == "between_ceilings"
    assert ceilings.runs[0] == "codi-tiny: position, recomputed"


def flat(rise, whole, base=0.1, **changed):
    """60 pairs, in which cells rise by this and the ceiling by that, by 0.01 more or less."""
    grid = np.asarray(rise, dtype=float)
    less = np.resize([0.01, -0.01], 60)[:, None, None]
    own = base + grid + less * (grid != 0)
    ceiling = np.stack([base + whole + less[:, 0, 0], np.full(60, base)], axis=1)
    control = np.full_like(own, base)
    return make_data(own, np.full(60, base), control, ceiling=ceiling, **changed)


def test_a_difference_is_the_first_models_effect_minus_the_others():
    other = flat([[0.2, 0.2], [0.0, 0.4]], 0.7, base=0.2, checkpoint_sha256=OTHER)
    ceilings, cells = between(flat([[0.5, 0.1], [0.0, 0.4]], 0.5), other)
    assert (ceilings.key, ceilings.number, cells.key) == (
        "between_ceilings",
        None,
        "between_models",
    )
    (ceiling,) = ceilings.claims
    assert (ceiling.name, ceiling.kind, ceiling.either) == (
        "all thoughts at all layers", "first minus second", True,
    )  # fmt: skip
    assert (ceiling.verdict, ceiling.lead.mean) == ("falls", pytest.approx(-0.2))
    told = [(c.name, c.layer, c.column, c.verdict) for c in cells.claims]
    assert told == [
        ("layer 0, position 0", "0", "0", "rises"),
        ("layer 0, position 1", "0", "1", "less often"),  # sizes are up to 2: no mean is claimed
        ("layer 1, position 0 (makes thought 1)", "1", "0", "at most"),
        ("layer 1, position 1", "1", "1", "at most"),
    ]
    means = [[c.mean for c in claim.comparisons] for claim in cells.claims]
    np.testing.assert_allclose(means, [[0.3] * 2, [-0.1] * 2, [0] * 2, [0] * 2], atol=1e-12)
    assert cells.lead == cells.claims[0]
    assert all(c.either and c.kind == "first minus second" for c in cells.claims)


def test_sizes_of_a_difference_are_up_to_2_since_unpatched_runs_differ():
    """Of 60 pairs that do not differ, twice what they leave unseen, of half of 5 %: two are asked.

    Three quarters of that are of the comparison with the unpatched run.
    """
    findings = between(flat([[0.0]], 0.5), flat([[0.0]], 0.5, checkpoint_sha256=OTHER))
    for finding in findings:
        (claim,) = finding.claims
        assert (claim.verdict, claim.lead.mean) == ("at most", 0.0)
        assert claim.bound == pytest.approx(2 * (1 - (0.75 * 0.05 / 2) ** (1 / 60)))
    assert len(findings) == 2


def test_cells_are_matched_by_the_names_of_layer_and_position():
    """The other model has a row of the thoughts themselves, and no second layer or position."""
    other = flat([[0.9], [0.2]], 0.5, checkpoint_sha256=OTHER)
    run = other.attrs["run"]
    other.attrs["run"] = replace(run, grid=replace(run.grid, layers=("thought", "0")))
    for models, sign in (((flat([[0.5, 0.1], [0.0, 0.4]], 0.5), other), 1), (None, -1)):
        one = flat([[0.5, 0.1], [0.0, 0.4]], 0.5)
        _, cells = between(*(models or (other, one)))
        (claim,) = cells.claims
        assert (claim.layer, claim.column) == ("0", "0")
        assert claim.lead.mean == pytest.approx(sign * 0.3)


@pytest.mark.parametrize(
    ("zeros", "others", "compared"),
    [([(1, 1)], [], 4), ([], [(1, 1)], 4), ([(1, 1)], [(1, 1)], 3)],
)
def test_a_cell_that_can_have_an_effect_in_one_of_two_models_is_compared(zeros, others, compared):
    one = flat([[0.5, 0.1], [0.0, 0.4]], 0.5, zeros=zeros)
    other = flat([[0.5, 0.1], [0.0, 0.3]], 0.5, zeros=others, checkpoint_sha256=OTHER)
    _, cells = between(one, other)
    assert len(cells.claims) == compared
    if compared == 4:
        last = cells.claims[-1].lead
        assert last.mean == pytest.approx(-0.3 if zeros else 0.4)


def test_models_without_a_pair_or_a_cell_in_common_have_no_difference():
    one = flat([[0.5, 0.1]], 0.5)
    other = flat([[0.5, 0.1]], 0.5, checkpoint_sha256=OTHER)
    assert between(one, other.assign_coords(pair=[f"q{row}" for row in range(60)])) == ()
    nothing = [(0, 0), (0, 1)]
    still = flat([[0.0, 0.0]], 0.5, zeros=nothing)
    other = flat([[0.0, 0.0]], 0.5, zeros=nothing, checkpoint_sha256=OTHER)
    assert [finding.key for finding in between(still, other)] == ["between_ceilings"]


def test_models_without_a_ceiling_are_compared_in_their_cells_alone():
    one, other = (
        make_data(np.full((60, 1, 1), 0.5), np.full(60, 0.1), checkpoint_sha256=sha)
        for sha in ("a" * 64, OTHER)
    )
    assert [finding.key for finding in between(one, other)] == ["between_models"]


def test_without_a_run_of_the_clean_answer_the_ceiling_is_that_of_the_first_run():
    """Noising, and what is patched with zeros, restore no clean answer."""
    runs = [
        [
            flat([[0.1, 0.0]], 0.5, checkpoint_sha256=sha, source="zero"),
            flat([[0.1, 0.0]], 0.5, checkpoint_sha256=sha, direction="noising"),
        ]
        for sha in ("a" * 64, OTHER)
    ]
    ceilings, *cells = between(*runs[0], *runs[1])
    assert ceilings.runs[0] == "codi-tiny: position, recomputed, zero"
    assert len(cells) == 2


def test_every_two_of_three_models_are_compared_and_named():
    """Two checkpoints of one name are told apart by their sums."""
    models = by_model(
        [
            flat([[0.5, 0.0]], 0.5, checkpoint_sha256="a" * 64),
            flat([[0.3, 0.0]], 0.5, checkpoint_sha256="b" * 64),
            flat([[0.1, 0.0]], 0.5, checkpoint_sha256="c" * 64, model="sim-codi"),
        ]
    )
    names = ["codi-tiny", f"codi-tiny, {'b' * 8}", "sim-codi"]
    assert list(models) == names
    found = [f for f in compare_models(models, 0) if f.key == "between_models"]
    assert [f.runs for f in found] == [
        tuple(f"{name}: position, recomputed" for name in pair) for pair in combinations(names, 2)
    ]
    assert [f.claims[0].lead.mean for f in found] == pytest.approx([0.2, 0.4, 0.2])


def test_a_model_that_has_a_run_in_common_with_one_other_is_compared_with_that():
    one, two, three = (
        [flat([[0.5, 0.0]], 0.5, checkpoint_sha256="a" * 64, model="one")],
        [
            flat([[0.4, 0.0]], 0.5, checkpoint_sha256="b" * 64, model="two"),
            flat([[0.4]], 0.5, experiment="layer", checkpoint_sha256="b" * 64, model="two"),
        ],
        [flat([[0.3]], 0.5, experiment="layer", checkpoint_sha256="c" * 64, model="three")],
    )
    found = between(*one, *two, *three)
    assert [f.runs[0].partition(":")[0] + f.runs[1].partition(":")[0] for f in found] == [
        "onetwo", "onetwo", "twothree", "twothree",
    ]  # fmt: skip
    lens = make_lens(checkpoint_sha256="d" * 64, model="four")
    with pytest.raises(ResultsError, match="four is another checkpoint, and has no run in common"):
        by_model([*one, *two, lens])
    with pytest.raises(ResultsError, match="codi-tiny is another checkpoint"):  # none of patching
        by_model([make_lens(), lens])


def test_other_pairs_and_a_run_twice_are_refused():
    one = model([[0.5, 0.0]])
    with pytest.raises(ResultsError, match="each experiment of a model once"):
        by_model([one, one])
    other = model([[0.1, 0.0]], checkpoint_sha256=OTHER, data_sha256="0" * 64)
    with pytest.raises(ResultsError, match="one file of pairs"):
        by_model([one, other])


def test_a_model_without_a_run_in_common_is_refused():
    one, other = model([[0.5, 0.0]]), model([[0.5]], experiment="layer", checkpoint_sha256=OTHER)
    with pytest.raises(ResultsError, match="no run in common with codi-tiny"):
        by_model([one, other])
