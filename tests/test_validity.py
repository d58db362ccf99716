"""Each check passes where it should, and fails on what it is there for."""

import json

import numpy as np
import pytest

from codi_patching.analysis.validity import (
    check_arms,
    check_baselines,
    check_ceiling,
    check_chain,
    check_control,
    check_first_cell,
    check_recovery,
    check_self_patch,
    check_structural_zeros,
)
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.callbacks.validity import ValidityReport
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.experiments.iterative import IterativePatching
from codi_patching.experiments.position import PositionPatching
from codi_patching.patching.interventions import Patch

RIGHT, WRONG = np.ones(5), np.zeros(5)
ZERO = np.array([[False, True]])


@pytest.mark.parametrize(
    ("check", "status"),
    [
        (check_self_patch(np.full((2, 3), 1e-8), 1e-6), "pass"),
        (check_self_patch(np.full((2, 3), 1e-5), 1e-6), "fail"),
        (check_structural_zeros(np.array([[[2.0, 0.0]]]), ZERO), "pass"),
        (check_structural_zeros(np.array([[[2.0, 1e-6]]]), ZERO), "fail"),
        (check_structural_zeros(np.array([[[2.0, 1.0]]]), ~ZERO & False), "not applicable"),
        (check_first_cell(np.array([[0.1, 2.0]]), ["0"], ["0", "1"], RIGHT), "pass"),
        (check_first_cell(np.array([[1.0, 2.0]]), ["0"], ["0", "1"], RIGHT), "fail"),
        (check_first_cell(np.array([[1.0, 2.0]]), ["0"], ["0", "1"], WRONG), "not applicable"),
        (check_first_cell(np.array([1.0]), ["0"], [], RIGHT), "not applicable"),
        (check_ceiling(np.zeros(5), RIGHT), "pass"),
        (check_ceiling(np.full(5, 1e-3), RIGHT), "fail"),
        (check_ceiling(np.zeros(5), WRONG), "not applicable"),
        (check_control(np.ones(5), np.full(5, 2.0), RIGHT), "pass"),
        (check_control(np.ones(5), np.linspace(0.8, 0.9, 5), RIGHT), "fail"),
        (check_control(np.ones(5), np.array([0, 2, 0, 2, 0.9]), RIGHT), "not applicable"),
        (check_control(np.ones(3), np.full(3, 0.9), RIGHT[:3]), "not applicable"),
        (check_chain(["a", "b"], ["a", "b"]), "pass"),
        (check_chain(["a", "b"], ["b", "b"]), "fail"),
        (check_chain([], []), "not applicable"),
        (check_baselines({"one": {"p": 1}, "two": {"p": 1}}), "pass"),
        (check_baselines({"one": {"p": 1}, "two": {"p": 2}}), "fail"),
        (check_recovery("a", *map(np.array, ([0.5], [1.0], [-2.0], [4.0]))), "pass"),
        (check_recovery("a", *map(np.array, ([0.5], [1.1], [-2.0], [4.0]))), "fail"),
        (check_recovery("a", *map(np.array, ([np.nan], [1.1], [2.0], [2.0]))), "pass"),
        (check_arms("a", "b", True, True, "KL"), "pass"),
        (check_arms("a", "b", True, False, "KL"), "fail"),
        (check_arms("a", "b", False, True, "KL"), "fail"),
    ],
)
def test_checks(check, status):
    assert check.status == status, check


@pytest.fixture
def report(pairs_file, tmp_path):
    """Run an experiment; its checks by name."""
    import lightning.pytorch as pl

    def report(experiment):
        validity = ValidityReport()
        trainer = pl.Trainer(
            accelerator="cpu",
            logger=False,
            enable_progress_bar=False,
            enable_model_summary=False,
            callbacks=[ResultsWriter(str(tmp_path / "out")), validity],
        )
        trainer.predict(experiment, PairsDataModule(pairs_file), return_predictions=False)
        written = json.loads((tmp_path / "out" / "validity.json").read_text())["checks"]
        assert [check["status"] for check in written] == [c.status for c in validity.checks]
        return {check.name: check.status for check in validity.checks}

    return report


@pytest.mark.parametrize("engine", ["sweep", "reference"])
def test_a_run_of_a_random_model(checkpoint, report, engine):
    assert report(PositionPatching(checkpoint, engine=engine)) == {
        "structural zeros": "pass",
        "position 0 at layer 0": "not applicable",
        "ceiling": "not applicable",
        "self-patch identity": "pass",
        "random-pair control": "not applicable",
    }


def test_a_relay_hands_on_what_it_generated(checkpoint, report):
    assert report(IterativePatching(checkpoint=checkpoint))["chain hashes"] == "pass"


class WrongChain(IterativePatching):
    """Hands on zeros."""

    def _row(self, given, iteration, index):
        (patch,) = super()._row(given, iteration, index)
        values = patch.values if iteration == 0 else given.thoughts[0] * 0
        return [Patch(patch.layer, patch.position, values)]


class Leaky(PositionPatching):
    """Patches noise on top of what it was told to."""

    def patched_runs(self, start):
        object.__setattr__(start.given, "resid", start.given.resid + 1)
        return super().patched_runs(start)


def test_planted_bugs_fail_their_checks(checkpoint, report):
    with pytest.warns(UserWarning, match="VALIDITY: chain hashes fails: expected every patched"):
        assert report(WrongChain(checkpoint=checkpoint))["chain hashes"] == "fail"


def test_a_patch_that_is_not_the_runs_own_fails_the_identity(checkpoint, report):
    with pytest.warns(UserWarning, match="VALIDITY: self-patch identity fails"):
        assert report(Leaky(checkpoint))["self-patch identity"] == "fail"
