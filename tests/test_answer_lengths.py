"""Answers of one, two and three tokens: every metric of every experiment against the twin."""

import json
import re

import numpy as np
import pytest
from test_experiments import CELLS, LAYERS, assert_cells, assert_metrics
from test_iterative import agrees, brute_force
from twin import TwinPair, whole_run

from codi_patching.analysis.validity import check_run
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.knockout import KnockoutExperiment
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.models import vocabulary
from codi_patching.models.loading.checkpoint import load_checkpoint

LONG = [  # 25, 27 and 28 are two tokens, 110 is three
    ("Tom has 16 pears. He buys 9 more.", 25, "Tom has 2 pears. He buys 1 more.", 3),
    ("Tom has 2 pears. He eats 1.", 1, "Tom has 12 pears. He buys 16 more.", 28),
    ("Tom has 5 pears. He buys 20 more.", 110, "Tom has 9 pears. He buys 18 more.", 27),
]


@pytest.fixture
def long_pairs(tmp_path, monkeypatch):
    """A file of pairs, read as a tokenizer with merges would: numbers may be spelled."""
    monkeypatch.setattr(vocabulary, "_is_word_level", lambda tokenizer: False)
    records = [
        {
            "pair_id": f"p{index}",
            "clean": {"question": clean, "answer": a},
            "corrupted": {"question": corrupted, "answer": b},
        }
        for index, (clean, a, corrupted, b) in enumerate(LONG)
    ]
    (tmp_path / "long.json").write_text(json.dumps(records))
    return str(tmp_path / "long.json")


@pytest.fixture
def twins(checkpoint):
    model = load_checkpoint(checkpoint)[0].double()

    def twins(direction):
        return [TwinPair(model, (q, a), (r, b), direction) for q, a, r, b in LONG]

    return twins


def test_the_answers_have_several_tokens(twins):
    lengths = [tuple(map(len, twin.readout.answers)) for twin in twins("denoising")]
    assert lengths == [(1, 2), (2, 1), (2, 3)]  # base, source


def assert_described(described, pair, tokens, direction):
    """Which question and answer are the base's: the corrupted ones in denoising."""
    clean, corrupted = pair[:2], pair[2:]
    base, source = (corrupted, clean) if direction == "denoising" else (clean, corrupted)
    assert (described.base_question, described.base_answer) == (base[0], str(base[1]))
    assert (described.source_question, described.source_answer) == (source[0], str(source[1]))
    assert (described.base_answer_tokens, described.source_answer_tokens) == tuple(tokens)
    lengths = [len(re.findall(r"\w+|[.]", question)) for question, _ in (base, source)]
    read = described.base_tokens, described.source_tokens
    assert [own - length for own, length in zip(read, lengths)] == [read[0] - lengths[0]] * 2


@pytest.mark.parametrize(
    ("experiment", "cells", "latents", "engine", "direction"),
    [
        (PositionPatching, CELLS, "recomputed", "sweep", "denoising"),
        pytest.param(
            *(PositionPatching, CELLS, "frozen", "reference", "noising"), marks=pytest.mark.thorough
        ),
        pytest.param(
            *(LayerPatching, LAYERS, "recomputed", "reference", "denoising"),
            marks=pytest.mark.thorough,
        ),
        (LayerPatching, LAYERS, "frozen", "sweep", "noising"),
    ],
)
def test_grids(
    checkpoint, predict, long_pairs, twins, experiment, cells, latents, engine, direction
):
    made = experiment(checkpoint=checkpoint, latents=latents, direction=direction, engine=engine)
    results = predict(made, precision="64-true", pairs=long_pairs)
    for index, twin in enumerate(twins(direction)):
        assert_cells(results.values, index, twin, cells, twin.source, latents)
        described = results.pairs[index]
        assert_described(described, LONG[index], twin.readout.answers, direction)
        assert_metrics(described.base, twin.metrics(twin.base[2]))
        assert_metrics(described.source, twin.metrics(twin.source[2]))
        assert_metrics(described.ceiling, twin.metrics(twin.patched(whole_run(twin.source))[2]))
    control = twin.unpatched(described.control.question)
    assert_cells(results.control, index, twin, cells, control, latents)
    changed = results.values["prediction_change_rate"]
    assert np.mean((changed > 0) & (changed < 1)) > 0  # a share of an answer's tokens


@pytest.mark.parametrize(
    ("strategy", "direction"), [("relay", "denoising"), ("cumulative", "noising")]
)
def test_chains(checkpoint, predict, long_pairs, twins, strategy, direction):
    made = IterativePatching(checkpoint=checkpoint, strategy=strategy, direction=direction)
    results = predict(made, precision="64-true", pairs=long_pairs)
    for index, twin in enumerate(twins(direction)):
        assert agrees(results.values, index, brute_force(twin, strategy, twin.source)[0])
    control = twin.unpatched(results.pairs[index].control.question)
    assert agrees(results.control, index, brute_force(twin, strategy, control)[0])


def test_cuts(checkpoint, predict, long_pairs):
    """Each pair's are made again by whole sequences, and the run's own answer comes first."""
    results = predict(
        KnockoutExperiment(checkpoint=checkpoint), precision="64-true", pairs=long_pairs
    )
    made_again = {c.name: c.status for c in check_run(results.data) if "made again" in c.name}
    assert {"cells made again", "whole runs made again"} <= made_again.keys()
    assert set(made_again.values()) == {"pass"}
