"""Runs made again: which cells are drawn, and metrics from their definitions."""

import math
from types import SimpleNamespace

import numpy as np
import pytest
import torch

from codi_patching.experiments.iterative import IterativePatching
from codi_patching.measuring import knockout_again, verification
from codi_patching.measuring.engine_choice import build_engine
from codi_patching.measuring.knockout import EdgeGrid, Knockout
from codi_patching.measuring.metrics_by_hand import metrics_by_hand
from codi_patching.measuring.verification import VerifiedPair, draw_cells, in_waves, verify_pairs
from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import Generated, Patch, Site


@pytest.mark.parametrize(
    "shape", [(16, 5), (17, 6), (16, 1), (1, 5), (3, 3), (2, 2), (1, 1), (2, 40), (40, 2)]
)
@pytest.mark.parametrize("pairs", [1, 2, 3, 8])
def test_over_the_pairs_every_layer_and_column_is_drawn(shape, pairs):
    drawn = [draw_cells(shape, place, pairs, seed=7) for place in range(pairs)]
    every = [cell for cells in drawn for cell in cells]
    assert {row for row, _ in every} == set(range(shape[0]))
    assert {column for _, column in every} == set(range(shape[1]))
    for cells in drawn:
        assert len(set(cells)) == len(cells) >= min(2, math.prod(shape))


def test_eight_pairs_have_every_cell_of_the_usual_grid():
    every = {cell for place in range(8) for cell in draw_cells((16, 5), place, 8, seed=42)}
    assert len(every) == 80


def test_a_draw_depends_on_its_arguments_alone():
    assert draw_cells((16, 5), 3, 8, seed=1) == draw_cells((16, 5), 3, 8, seed=1)
    assert draw_cells((16, 5), 3, 8, seed=1) != draw_cells((16, 5), 3, 8, seed=2)


LN = math.log
BASE = np.log([[0.25, 0.75]]), np.log([[0.5, 0.5]])
SOURCE = np.log([[0.75, 0.25]]), np.log([[0.2, 0.8]])
RUN = np.log([[0.5, 0.5]]), np.log([[0.4, 0.6]])
"""Before the one token of the base answer, 0, and of the source answer, 1."""


def by_hand(run=RUN, source=SOURCE, clean_is_source=True, margin=0.0):
    return metrics_by_hand(
        run,
        base=BASE,
        source=source,
        ids=((0,), (1,)),
        clean_is_source=clean_is_source,
        margin=margin,
    )


def test_metrics_of_one_token_by_hand():
    metrics = by_hand()
    # The source answer is the clean one: its logit, forced on itself, minus the base answer's.
    patched, base, source = LN(0.6 / 0.5), LN(0.5 / 0.25), LN(0.8 / 0.75)
    assert metrics == pytest.approx(
        {
            "kl_divergence": 0.5 * LN(0.5 / 0.25) + 0.5 * LN(0.5 / 0.75),
            "l2_difference": math.hypot(LN(0.5 / 0.25), LN(0.5 / 0.75)),
            "prediction_change_rate": 1.0,
            "answer_logit_difference": patched,
            "kl_to_source": 0.2 * LN(0.2 / 0.4) + 0.8 * LN(0.8 / 0.6),
            "recovery": (patched - base) / (source - base),
            "predicts_clean": 1.0,
            "predicts_corrupted": 1.0,
            "clean_probability": 0.6,
            "corrupted_probability": 0.5,
        }
    )


def test_noising_names_the_answers_the_other_way_round():
    there, back = by_hand(), by_hand(clean_is_source=False)
    assert back["answer_logit_difference"] == pytest.approx(-there["answer_logit_difference"])
    assert back["recovery"] == pytest.approx(there["recovery"])
    assert back["clean_probability"] == pytest.approx(0.5)


def test_tokens_are_averaged_and_their_probabilities_multiplied():
    two = (np.repeat(RUN[0], 2, axis=0), np.log([[0.4, 0.6], [0.9, 0.1]]))
    base, source = (tuple(np.repeat(part, 2, axis=0) for part in run) for run in (BASE, SOURCE))
    metrics = metrics_by_hand(
        two, base=base, source=source, ids=((0, 0), (1, 1)), clean_is_source=True
    )
    assert metrics["clean_probability"] == pytest.approx(0.6 * 0.1)
    assert metrics["predicts_clean"] == 0.0
    assert metrics["answer_logit_difference"] == pytest.approx((LN(0.6) + LN(0.1)) / 2 - LN(0.5))


def test_recovery_is_undefined_where_nothing_separates_the_runs():
    assert by_hand(source=(BASE[0] + 1.0, BASE[1] + 1.0))["recovery"] is None
    for span in (0.0009, 0.0011):
        source = (BASE[0], BASE[1] + [[0.0, span]])
        assert (by_hand(source=source)["recovery"] is None) == (span < 1e-3)


def test_what_a_tie_decides_is_left_out():
    tied = by_hand(margin=1e-3)
    assert "prediction_change_rate" not in tied
    assert "predicts_corrupted" not in tied  # 0.5 and 0.5 at the base answer
    assert tied["predicts_clean"] == 1.0  # 0.4 and 0.6 at the source answer


@pytest.mark.parametrize(("scale", "left_out"), [(1.0, False), (1000.0, True)])
def test_a_tie_is_told_beside_the_largest_logit(scale, left_out):
    logits = np.array([[scale, scale - 0.5]])
    found = by_hand(run=(logits, logits), margin=1e-3)
    assert ("predicts_corrupted" not in found) == left_out


@pytest.mark.parametrize(("run", "base"), [(0.0, 1.0), (1.0, 0.0), (0.0, 0.0)])
def test_a_tie_of_either_run_leaves_out_whether_the_prediction_changed(run, base):
    """The two largest logits of the second token are `run` apart, and `base` in the base run."""
    of = [np.array([[3.0, 0.0], [1.0, 1.0 + apart]]) for apart in (run, base)]
    found = metrics_by_hand(
        (of[0], of[0]),
        base=(of[1], of[1]),
        source=(of[1], of[1] + [[0.0, 1.0], [0.0, 0.0]]),
        ids=((0, 1), (0, 1)),
        clean_is_source=True,
        margin=1e-3,
    )
    assert "prediction_change_rate" not in found
    assert ("predicts_clean" in found) == (run > 0)


@pytest.mark.parametrize(
    ("dtype", "share"),
    [(torch.float64, 2**-26), (torch.float32, 2**-11.5), (torch.bfloat16, 2**-3.5)],
)
def test_what_is_a_tie_is_told_by_how_a_run_was_rounded(monkeypatch, dtype, share):
    group = SimpleNamespace(
        unpatched=[("base", "source")],
        pairs=[to_verify(5, 7)],
        latent=SimpleNamespace(thoughts=torch.zeros(1, dtype=dtype)),
    )
    given = verification._Group._metrics_of(group, 0).keywords
    assert (given["base"], given["source"]) == ("base", "source")
    assert given["margin"] == pytest.approx(share)
    told = []
    monkeypatch.setattr(knockout_again, "metrics_by_hand", lambda *_, **all: told.append(all) or {})
    knockout_again._metrics("run", "uncut", asked(5), torch.nn.Linear(1, 1).to(dtype))
    assert (told[0]["base"], told[0]["clean_is_source"]) == ("uncut", False)
    assert told[0]["margin"] == pytest.approx(share)


def asked(tokens, prefix=2, answers=(1, 1)):
    return [0] * tokens, Readout((0,) * prefix, tuple((0,) * count for count in answers))


def to_verify(base, source, control=None, **readout):
    given = {"own": asked(source, **readout)}
    if control is not None:
        given["control"] = asked(control, prefix=0, answers=())
    both = asked(base, **readout), asked(source, **readout)
    return VerifiedPair(*both, given, True, [(0, 0)])


def test_a_run_is_as_long_as_the_longest_prompt_and_the_longest_readout():
    pairs = [to_verify(5, 7, 9, answers=(1, 3)), to_verify(4, 6, prefix=3)]
    assert [len(pair.asked) for pair in pairs] == [3, 2]
    assert verification._length(pairs[:1], 3) == 9 + 3 + 2 + 2
    assert verification._length(pairs[1:], 3) == 6 + 3 + 3
    assert verification._length(pairs, 3) == 9 + 3 + 2 + 2
    assert verification._length([to_verify(5, 7, prefix=1), pairs[1]], 3) == 7 + 3 + 3


def test_pairs_go_together_in_their_order_as_long_as_they_fit():
    short, wide, long = to_verify(4, 4), to_verify(5, 5, answers=(1, 4)), to_verify(8, 8)
    alone = [verification._length([pair], 3) for pair in (short, wide, long)]
    assert alone == [9, 13, 13]
    pairs = [short, short, wide, long, short]
    assert list(verification._groups(pairs, 3, 13)) == [[short, short, wide], [long, short]]
    assert list(verification._groups(pairs, 3, 16)) == [pairs]
    assert list(verification._groups([], 3, 16)) == []
    engine = SimpleNamespace(model=SimpleNamespace(num_latents=3))
    for longest in (12, 8):
        found = verify_pairs(engine, [wide, long], SimpleNamespace(longest=longest))
        assert found == [(), ()]  # neither fits alone: nothing is run


def test_runs_are_made_again_a_few_at_a_time_as_all_together(attached, checkpoint, monkeypatch):
    """Each with its own pair's patches: of two pairs, own and control."""
    options = {"checkpoint": checkpoint, "self_patch_pairs": 0}
    experiment = attached(IterativePatching(**options), max_pairs=2)
    (batch,) = experiment.datamodule.batches
    found = []
    for rows in (128, 3):
        monkeypatch.setattr(verification, "_ROWS", rows)
        found.append([record.description.verified for record in experiment.predict_step(batch, 0)])
    for whole, pieces in zip(*found, strict=True):
        assert len(whole) > 8
        for one, other in zip(whole, pieces, strict=True):
            assert (one.arm, one.layer, one.column) == (other.arm, other.layer, other.column)
            assert one.metrics == pytest.approx(other.metrics, rel=1e-3, abs=1e-4)


def test_every_cut_is_made_again_a_few_at_a_time(model, pair, monkeypatch):
    """Each cell with its own layers, readers and tokens, own and control."""
    grid = EdgeGrid(3, 3, 2)
    engine = build_engine(model, "sweep", 9)
    cells = [(row, column) for row in range(3) for column in range(len(grid.edges))]
    knockout = Knockout(model=model, engine=engine, cells=grid, seed=1)
    monkeypatch.setattr(knockout_again, "_ROWS", 7)
    (record,) = knockout.pairs([pair], {pair.pair_id: cells})
    whole, *runs = record.description.verified
    assert (whole.arm, whole.layer) == ("base", None)
    assert whole.metrics == pytest.approx(record.description.uncut, abs=1e-9)
    names = {(run.arm, run.layer, run.column) for run in runs}
    assert len(names) == len(runs) == len(cells) + len(grid.controlled)
    for run in runs:
        at = grid.grid.layers.index(run.layer), grid.grid.columns.index(run.column)
        values = record.values if run.arm == "own" else record.control
        ours = {name: values[name][at] for name in run.metrics}
        assert run.metrics == pytest.approx(ours, abs=1e-9), run


def test_a_chain_brings_the_runs_that_it_is_generated_from():
    """Iteration by iteration, two layers of one together: runs 1, 3 and 5 are layer 1's chain."""

    def patch(layer, iteration):
        values = Generated(2 * (iteration - 1) + layer) if iteration else torch.zeros(1)
        return [Patch(Site("resid_post", layer=layer, position=iteration), values)]

    sets = [patch(layer, iteration) for iteration in range(3) for layer in range(2)]
    assert in_waves([5, 0], sets) == [[0, 1], [3], [5]]
    assert in_waves([2], sets) == [[0], [2]]
    assert in_waves([], sets) == []
