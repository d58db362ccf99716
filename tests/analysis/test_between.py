"""Two models on the same pairs, cell by cell."""

import numpy as np
import pytest
from by_hand import make_data

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
