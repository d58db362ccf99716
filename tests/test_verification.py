"""Runs made again: which cells are drawn, and metrics from their definitions."""

import math

import numpy as np
import pytest
import torch

from codi_patching.measuring.metrics_by_hand import metrics_by_hand
from codi_patching.measuring.verification import draw_cells, in_waves
from codi_patching.patching.interventions import Generated, Patch, Site


@pytest.mark.parametrize("shape", [(16, 5), (17, 6), (16, 1), (1, 5), (3, 3), (2, 2), (1, 1)])
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


def test_what_a_tie_decides_is_left_out():
    tied = by_hand(margin=1e-3)
    assert "prediction_change_rate" not in tied
    assert "predicts_corrupted" not in tied  # 0.5 and 0.5 at the base answer
    assert tied["predicts_clean"] == 1.0  # 0.4 and 0.6 at the source answer


def test_a_chain_brings_the_runs_that_it_is_generated_from():
    """Iteration by iteration, two layers of one together: runs 1, 3 and 5 are layer 1's chain."""

    def patch(layer, iteration):
        values = Generated(2 * (iteration - 1) + layer) if iteration else torch.zeros(1)
        return [Patch(Site("resid_post", layer=layer, position=iteration), values)]

    sets = [patch(layer, iteration) for iteration in range(3) for layer in range(2)]
    assert in_waves([5, 0], sets) == [[0, 1], [3], [5]]
    assert in_waves([2], sets) == [[0], [2]]
    assert in_waves([], sets) == []
