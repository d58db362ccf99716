"""What a study would cost: pairs, runs and seconds from a few pairs of each arm, by hand."""

import json
import logging
from pathlib import Path
from types import SimpleNamespace

import pytest

from codi_patching.commands import estimate
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.experiments.knockout import KnockoutExperiment
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.position import PositionPatching


@pytest.fixture
def six_pairs(pairs_file):
    """Six pairs, and one of equal answers."""
    *records, equal = json.loads(Path(pairs_file).read_text())
    again = [{**record, "pair_id": f"{record['pair_id']}_again"} for record in records]
    Path(pairs_file).write_text(json.dumps([*records, *again, equal]))
    return pairs_file


class Predicting:
    """A trainer that runs nothing, but tells its callbacks of each batch."""

    made = None

    def __init__(self, **options):
        self.options, Predicting.made = options, self

    def predict(self, experiment, data, return_predictions):
        data.setup("predict")
        for batch in data.batches:
            for callback in self.options["callbacks"]:
                callback.on_predict_batch_start(self, experiment, batch, 0)
                callback.on_predict_batch_end(self, experiment, None, batch, 0)


@pytest.fixture
def measured(six_pairs, monkeypatch):
    """Measures an arm, of which each batch takes so many seconds, one second apart."""

    def measured(experiment, seconds, max_pairs=None):
        now, moments = 0.0, []
        for took in seconds:
            moments += [now, now + took]
            now += took + 1.0
        clock = SimpleNamespace(perf_counter=lambda: moments.pop(0))
        monkeypatch.setattr(estimate, "time", clock)
        given = SimpleNamespace(accelerator="cpu", precision="64-true")
        config, data = SimpleNamespace(trainer=given), PairsDataModule(six_pairs, max_pairs)
        found = estimate._measure(SimpleNamespace(model=experiment, datamodule=data, config=config))
        assert moments == []
        return found

    return measured


@pytest.mark.parametrize(
    ("max_pairs", "seconds", "found"),
    [
        (None, [100.0, 6.0], (6, 120, 18.0)),  # two and two; 6 s of two pairs are 18 s of six
        (5, [100.0, 6.0], (5, 100, 15.0)),
        (3, [100.0, 6.0], (3, 60, 18.0)),  # two and one
        (1, [6.0], (1, 20, 6.0)),
    ],
)
def test_an_arm_takes_as_long_as_its_last_batch_for_all_its_pairs(
    measured, monkeypatch, max_pairs, seconds, found
):
    monkeypatch.setattr(estimate.pl, "Trainer", Predicting)
    monkeypatch.setattr(PositionPatching, "runs_of_a_pair", 20)
    assert measured(PositionPatching(), seconds, max_pairs) == pytest.approx(found)
    options = Predicting.made.options
    given = {name: options[name] for name in ("accelerator", "devices", "precision", "logger")}
    assert given == {"accelerator": "cpu", "devices": 1, "precision": "64-true", "logger": False}


@pytest.mark.parametrize("kind", [LayerPatching, KnockoutExperiment])
def test_checks_of_the_first_pairs_are_not_measured_for_all(measured, monkeypatch, kind):
    monkeypatch.setattr(estimate.pl, "Trainer", Predicting)
    monkeypatch.setattr(kind, "runs_of_a_pair", 1)
    experiment = kind()
    assert experiment.verify_pairs > 0
    measured(experiment, [1.0], 1)
    assert experiment.verify_pairs == 0
    assert getattr(experiment, "self_patch_pairs", 0) == 0


@pytest.mark.filterwarnings("ignore")
def test_runs_are_those_of_the_model(measured, checkpoint):
    """Of 3 layers × 3 positions and a ceiling, own and control: 20 runs a pair."""
    assert measured(PositionPatching(checkpoint=checkpoint), [6.0], 1) == (1, 20, 6.0)


def test_the_estimate_has_a_line_for_each_arm_and_their_sum(monkeypatch, capsys):
    measures = {"layer": (6, 1200, 20.4), "lens": (50, 50, 1.2)}
    monkeypatch.setattr(estimate, "configured", lambda arm, options: (arm.name, options))
    monkeypatch.setattr(estimate, "_measure", lambda given: measures[given[0]])
    monkeypatch.setattr(estimate, "_peak_memory", lambda: "3.1 GB")
    arms = [SimpleNamespace(name=name) for name in measures]
    assert estimate.print_estimate(arms, ["--data.max_pairs=6"]) == 0
    out, err = capsys.readouterr()
    assert [line.split() for line in out.splitlines()[:3]] == [
        ["arm", "pairs", "runs", "about"],
        ["layer", "6", "1,200", "20", "s"],
        ["lens", "50", "50", "1", "s"],
    ]
    assert "in all about 22 s beside" in out
    assert "at most 3.1 GB of memory with 2 pairs side by side" in out
    assert err.splitlines() == [
        "study: trying arm 1 of 2, layer",
        "study: trying arm 2 of 2, lens",
    ]


@pytest.mark.parametrize(("platform", "unit"), [("linux", 1024), ("darwin", 1)])
def test_memory_is_the_largest_that_was_held(monkeypatch, platform, unit):
    """Kilobytes on Linux, bytes on a Mac."""
    usage = SimpleNamespace(ru_maxrss=2.5e9 / unit)
    monkeypatch.setattr(estimate.resource, "getrusage", lambda who: usage)
    monkeypatch.setattr(estimate, "sys", SimpleNamespace(platform=platform))
    monkeypatch.setattr(estimate.torch.cuda, "is_available", lambda: False)
    assert estimate._peak_memory() == "2.5 GB"
    monkeypatch.setattr(estimate.torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(estimate.torch.cuda, "max_memory_allocated", lambda: 7.25e9)
    assert estimate._peak_memory() == "2.5 GB, and on the GPU 7.2 GB,"


def test_lightning_says_only_warnings_for_as_long_as_it_is_quiet():
    both = [logging.getLogger(f"lightning.{name}") for name in ("pytorch", "fabric")]
    before, during = [logger.level for logger in both], []
    for logger, level in zip(both, (logging.DEBUG, logging.ERROR), strict=True):
        logger.setLevel(level)

    def fail():
        with estimate.quiet_lightning():
            during.extend(logger.level for logger in both)
            raise KeyError

    try:
        with pytest.raises(KeyError):
            fail()
        assert during == [logging.WARNING, logging.WARNING]
        assert [logger.level for logger in both] == [logging.DEBUG, logging.ERROR]
    finally:
        for logger, level in zip(both, before, strict=True):
            logger.setLevel(level)
