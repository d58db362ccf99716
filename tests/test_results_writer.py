"""The writer of a results folder: which folder, what is left out, what is kept and given up."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from results_maker import records_of, run_of

from codi_patching.callbacks import results
from codi_patching.callbacks.results import ResultsWriter, pairs_data, run_on_rank_zero
from codi_patching.data.datamodule import PairBatch, PairsDataModule
from codi_patching.data.pairs import Pair, Question
from codi_patching.errors import InputError
from codi_patching.experiments.position import PositionPatching
from codi_patching.results.description import ResultsError
from codi_patching.results.folder import FolderLock
from codi_patching.results.identity import folder_name
from codi_patching.results.records import ExcludedPair


class Experiment(PositionPatching):
    """Of the results maker's pairs; says what it is asked, in order."""

    def __init__(self):
        super().__init__()
        self.asked, self.counted, self.run = [], [], run_of(layers=2, columns=2, num_pairs=3)

    def load(self):
        self.asked.append("loaded")

    def describe(self):
        return self.run

    def forget(self):
        self.asked.append("forgot")
        self.counted = []

    def count(self, records):
        self.counted = [record.pair_id for record in records]


class Data(PairsDataModule):
    """Pairs of the results maker, one a batch."""

    def __init__(self, pair_ids, batch_size=1):
        super().__init__(batch_size=batch_size)
        question = Question("Tom has 3 pears.", 3.0)
        self.kept = [Pair(name, question, question) for name in pair_ids]


@pytest.fixture
def records():
    return records_of(run_of(layers=2, columns=2), pairs=3, verified=0)


@pytest.fixture
def trainer(records):
    """A trainer of one process."""
    strategy = SimpleNamespace(
        broadcast=lambda given: given,
        reduce_boolean_decision=bool,
        barrier=lambda: None,
        launcher=None,
    )
    return SimpleNamespace(
        is_global_zero=True,
        strategy=strategy,
        datamodule=Data([record.pair_id for record in records]),
        global_rank=0,
        world_size=1,
    )


@pytest.fixture
def begun(trainer, tmp_path):
    """A writer that is set up in `out`; `begun.experiment` is what it serves."""

    def begun(overwrite=False):
        begun.experiment = Experiment()
        writer = ResultsWriter(str(tmp_path / "out"), overwrite)
        writer.setup(trainer, begun.experiment, "predict")
        return writer

    return begun


def keep(writer, trainer, records, first):
    batch = PairBatch(first, trainer.datamodule.kept[first : first + len(records)])
    writer.on_predict_batch_end(trainer, None, records, batch, 0)


def test_a_folder_by_default_is_of_the_experiment(trainer, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    writer = ResultsWriter()
    assert (writer.overwrite, writer.folder_by_run, writer.released_later) == (False,) * 3
    writer.setup(trainer, Experiment(), "predict")
    assert writer.folder == Path("results/position")
    with pytest.raises(ResultsError, match="another run is writing to results/position"):
        ResultsWriter().setup(trainer, Experiment(), "predict")
    writer.release()


def test_a_folder_by_run_is_named_by_what_is_run(trainer, tmp_path):
    writer, experiment = ResultsWriter(str(tmp_path), folder_by_run=True), Experiment()
    writer.setup(trainer, experiment, "predict")
    assert writer.folder == tmp_path / folder_name(experiment.run)
    writer.release()


def test_the_folder_is_taken_before_the_model_is_loaded(trainer, tmp_path):
    (tmp_path / "file").touch()
    experiment = Experiment()
    with pytest.raises(ResultsError, match=r"cannot be written .*: set dir"):
        ResultsWriter(str(tmp_path / "file")).setup(trainer, experiment, "predict")
    assert experiment.asked == []
    with pytest.raises(InputError, match="expected dir to be a path, got ''"):
        ResultsWriter("")


def test_what_was_kept_is_left_out_and_counted_by_a_second_start(begun, trainer, records):
    writer = begun()
    assert begun.experiment.asked == ["loaded", "forgot"]
    assert not writer.finished
    assert (len(trainer.datamodule.missing), begun.experiment.counted) == (3, [])
    keep(writer, trainer, records[1:2], 1)
    writer.on_exception(trainer, None, KeyError())
    again = begun()
    assert [batch.first for batch in trainer.datamodule.missing] == [0, 2]
    assert begun.experiment.counted == [records[1].pair_id]
    again.release()


def test_a_batch_is_done_if_all_its_pairs_are_kept_in_their_places(begun, trainer, records):
    writer = begun()
    keep(writer, trainer, records[:1], 0)
    keep(writer, trainer, records[2:], 2)
    writer.release()
    trainer.datamodule.batch_size = 2
    writer = begun()
    assert [batch.first for batch in trainer.datamodule.missing] == [0]
    assert begun.experiment.counted == [records[2].pair_id]  # the other is measured again
    writer.release()
    other = Data(["other", "pair", "here"])
    assert not results._is_kept(other.batches[2], {2: records[2].pair_id})
    assert results._is_kept(other.batches[2], {2: "here"})


def test_results_are_written_at_the_end_and_found_by_the_next_start(begun, trainer, records):
    writer = begun()
    for first, record in enumerate(records):
        keep(writer, trainer, [record], first)
    writer.teardown(trainer, None, "predict")
    assert writer.finished
    names = {path.name for path in writer.folder.iterdir()}
    assert names == {".lock", "SHA256SUMS", "position_patching_results.json"}
    lock = FolderLock(writer.folder)
    lock.acquire()
    lock.release()
    again = begun()
    assert again.finished
    assert trainer.datamodule.missing == []
    assert begun.experiment.counted == []  # they are on disk; nothing is measured
    again.release()
    anew = begun(overwrite=True)
    assert not anew.finished
    assert len(trainer.datamodule.missing) == 3
    anew.release()


def test_a_folder_that_is_used_afterwards_is_given_up_by_who_uses_it(begun, trainer, records):
    writer = begun()
    keep(writer, trainer, records, 0)
    writer.released_later = True
    writer.teardown(trainer, None, "predict")
    lock = FolderLock(writer.folder)
    with pytest.raises(ResultsError, match="another run is writing"):
        lock.acquire()
    writer.release()
    lock.acquire()
    lock.release()


def test_pairs_left_out_are_named_as_they_are_met(begun, trainer, records):
    writer = begun()
    with pytest.warns(UserWarning, match="pair p7 left out: too long") as told:
        keep(writer, trainer, [ExcludedPair("p7", "too long"), *records[1:2]], 0)
    assert len(told) == 1
    writer.release()


def test_a_run_of_which_nothing_is_kept_leaves_nothing_behind(begun, trainer, records):
    writer = begun()
    writer.on_exception(trainer, None, KeyError())
    assert not writer.folder.exists()
    writer = begun()
    keep(writer, trainer, records[:1], 0)
    writer.on_exception(trainer, None, KeyError())
    assert (writer.folder / "partial" / "000000.safetensors").exists()
    other = ResultsWriter(str(writer.folder))
    other.on_exception(trainer, None, KeyError())  # before it had the folder
    assert (writer.folder / "partial" / "000000.safetensors").exists()


def test_processes_that_do_not_share_their_folder_are_told_so(trainer, tmp_path):
    trainer.strategy.reduce_boolean_decision = lambda here: asked.append(here)
    asked, writer = [], ResultsWriter(str(tmp_path / "out"))
    message = "to be the same folder for all processes: set dir to storage that all nodes share"
    with pytest.raises(ResultsError, match=message):
        writer.setup(trainer, Experiment(), "predict")
    assert asked == [True]
    writer.release()
    elsewhere = ResultsWriter(str(tmp_path / "elsewhere"))
    elsewhere.folder, elsewhere._store = tmp_path, results.Store(tmp_path)
    run = Experiment().run
    with pytest.raises(ResultsError, match=message):
        elsewhere._check_shared(trainer, run)  # nothing was begun there
    elsewhere._store.begin(run_of(layers=3, columns=2))
    with pytest.raises(ResultsError, match=message):
        elsewhere._check_shared(trainer, run)  # another run was
    elsewhere.finished = True
    with pytest.raises(ResultsError, match=message):
        elsewhere._check_shared(trainer, run)
    assert asked == [True, False, False, True]


def test_an_action_is_the_first_process_s_and_its_error_comes_to_all(trainer):
    def fail(error):
        raise error

    assert run_on_rank_zero(trainer, lambda: 7) == 7
    with pytest.raises(ResultsError, match=r"^set dir$") as told:
        run_on_rank_zero(trainer, lambda: fail(InputError("set [[results.dir]]")))
    assert told.value.args == ("set [[results.dir]]",)
    with pytest.raises(ResultsError, match="full"):
        run_on_rank_zero(trainer, lambda: fail(OSError("full")))
    with pytest.raises(KeyError):
        run_on_rank_zero(trainer, lambda: fail(KeyError("a fault")))
    trainer.is_global_zero = False
    assert run_on_rank_zero(trainer, lambda: fail(KeyError("not here"))) is None
    trainer.strategy.broadcast = lambda given: (None, "the first one's")
    with pytest.raises(ResultsError, match="the first one's"):
        run_on_rank_zero(trainer, lambda: 7)


def test_only_the_first_process_takes_away_what_is_under_way(begun, trainer, records):
    writer = begun()
    keep(writer, trainer, records, 0)
    trainer.is_global_zero = False
    writer.teardown(trainer, None, "predict")
    assert (writer.folder / "partial").exists()
    assert not (writer.folder / "position_patching_results.json").exists()


def test_data_of_another_kind_are_refused():
    with pytest.raises(TypeError, match="expected a PairsDataModule, got NoneType"):
        pairs_data(SimpleNamespace(datamodule=None))
