"""Progress of an experiment: what there is to do, and where each pair's runs stand in it."""

from types import SimpleNamespace

import pytest

from codi_patching.callbacks import progress
from codi_patching.callbacks.progress import PatchingProgress
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.experiments.position import PositionPatching


@pytest.fixture
def begun(pairs_file, monkeypatch):
    """Progress of a process that is to run the pairs p0, p1 and p2, one a batch, of ten runs each.

    `begun.reached` is what the bar was told, after its total, and `closed` where it was closed.
    """

    class Told:
        def __init__(self, total, what, every):
            begun.reached += [(total, what, every)]

        def reach(self, done, now=""):
            begun.reached.append((done, now))

        def close(self):
            begun.reached.append("closed")

    def begun(bar, rank=0, processes=1, done=(), batch_size=1):
        begun.reached = []
        data = PairsDataModule(pairs_file, batch_size=batch_size)
        data.setup("predict")
        data.leave_out(done)
        begun.batches = data.missing
        begun.experiment = PositionPatching()
        trainer = SimpleNamespace(datamodule=data, global_rank=rank, world_size=processes)
        bar.on_predict_start(trainer, begun.experiment)
        return bar

    monkeypatch.setattr(PositionPatching, "runs_of_a_pair", 10)
    monkeypatch.setattr(progress, "Counting", Told)
    return begun


@pytest.mark.parametrize(
    ("given", "total"),
    [
        ({}, 30),
        ({"done": [0]}, 20),
        ({"rank": 0, "processes": 2}, 20),
        ({"rank": 1, "processes": 2}, 10),
        ({"rank": 1, "processes": 2, "batch_size": 2}, 10),  # the third pair alone
        ({"rank": 1, "processes": 2, "done": [0, 1]}, 0),
    ],
)
def test_what_is_to_be_done_is_what_this_process_will_run(begun, given, total):
    begun(PatchingProgress(every=3.0), **given)
    assert begun.reached == [(total, "runs", 3.0)]


def test_runs_of_a_pair_stand_after_those_of_the_pairs_before_it(begun):
    bar = begun(PatchingProgress(), batch_size=2)
    done = begun.experiment.on_runs_done
    for batch in begun.batches:
        bar.on_predict_batch_start(None, begun.experiment, batch, 0)
        for pair in batch.pairs:
            done(pair.pair_id, 4, 10, "own, cell")
        bar.on_predict_batch_end()
    bar.on_predict_end(None, begun.experiment)
    assert begun.reached[1:] == [
        (4, "pair p0, own, cell"),
        (14, "pair p1, own, cell"),
        (20, ""),
        (24, "pair p2, own, cell"),
        (30, ""),
        "closed",
    ]
    assert begun.experiment.on_runs_done is None


def test_a_second_run_counts_from_the_beginning(begun):
    bar = begun(PatchingProgress())
    bar.on_predict_batch_start(None, begun.experiment, begun.batches[0], 0)
    begun(bar)
    bar.on_predict_batch_start(None, begun.experiment, begun.batches[0], 0)
    bar.on_predict_batch_end()
    assert begun.reached[1:] == [(10, "")]


def test_the_bar_is_closed_before_an_error_is_shown(begun):
    bar = begun(PatchingProgress())
    bar.on_exception(None, begun.experiment, KeyError())
    assert begun.reached[1:] == ["closed"]
    assert begun.experiment.on_runs_done is None


def test_progress_is_shown_if_it_was_asked_for_and_by_the_first_process_alone(begun):
    asked, quiet = PatchingProgress(), PatchingProgress(refresh_rate=0)
    assert (asked.is_enabled, quiet.is_enabled) == (True, False)
    asked.disable()
    quiet.enable()
    assert (asked.is_enabled, quiet.is_enabled) == (False, False)
    for bar in (asked, quiet):
        begun(bar)
        bar.on_predict_batch_end()
        bar.on_exception(None, begun.experiment, KeyError())
        assert begun.reached == []
        assert begun.experiment.on_runs_done is None
    asked.enable()
    assert asked.is_enabled
