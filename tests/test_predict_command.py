"""What `predict` refuses before the work, how it ends, and what its run is called in trackers."""

import warnings
from types import SimpleNamespace

import pytest
from jsonargparse import Namespace
from lightning.pytorch.utilities.exceptions import MisconfigurationException

from codi_patching.callbacks.report_at_end import Report
from codi_patching.commands import predict
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.errors import InputError
from codi_patching.experiments.iterative import IterativePatching


def config(trainer=None, **changed):
    """A configuration in which nothing is to be refused."""
    usual = dict.fromkeys(("data.pairs", "results.dir", "report.docs", "ckpt_path"))
    made = Namespace()
    for name, value in {**usual, "report.comparison_dir": "c", **changed}.items():
        made[name] = value
    made["trainer"] = Namespace(**(trainer or {}))
    return made


@pytest.mark.parametrize(
    "trainer",
    [
        {},
        {"limit_predict_batches": 1.0, "fast_dev_run": False, "overfit_batches": 0.0},
        {"limit_predict_batches": None, "overfit_batches": 0, "barebones": None},
        {"use_distributed_sampler": True},
    ],
)
def test_usual_options_are_not_refused(trainer):
    predict._refuse_options(config(trainer))


@pytest.mark.parametrize(
    ("trainer", "message"),
    [
        ({"limit_predict_batches": 1}, "limit_predict_batches 1 would leave .*: set --data.max"),
        ({"limit_predict_batches": 0.5}, "limit_predict_batches 0.5 would leave the results inc"),
        ({"fast_dev_run": True}, "fast_dev_run True would leave .*: add --config test_mode"),
        ({"fast_dev_run": 1}, "fast_dev_run 1 would leave"),
        ({"barebones": True}, "barebones True would leave .*: results are written by callbacks"),
        ({"overfit_batches": 0.1}, "overfit_batches 0.1 would leave .*: set --data.max_pairs"),
        ({"overfit_batches": 1}, "overfit_batches 1 would leave .*: set --data.max_pairs"),
        ({"use_distributed_sampler": False}, "would run every pair in every process"),
    ],
)
def test_options_under_which_a_run_is_not_whole_are_refused(trainer, message):
    with pytest.raises(InputError, match=message):
        predict._refuse_options(config(trainer))


@pytest.mark.parametrize(
    "name", ["data.pairs", "results.dir", "report.docs", "report.comparison_dir"]
)
def test_an_empty_path_is_refused(name):
    with pytest.raises(InputError, match=f"expected --{name} to be a path, got an empty text"):
        predict._refuse_options(config(**{name: ""}))


def test_a_checkpoint_of_lightning_is_refused():
    with pytest.raises(InputError, match="--ckpt_path is not of use here"):
        predict._refuse_options(config(ckpt_path="best"))


@pytest.mark.parametrize(
    ("args", "refused"),
    [
        (["--trainer.limit_predict_batches=1"], True),
        (["--trainer.limit_predict_batches", "1"], True),
        (["--trainer.limit_predict_batches=1.0"], False),
        (["--trainer.limit_predict_batches", "1.0", "1"], False),
        (["1", "--trainer.limit_predict_batches"], False),
    ],
)
def test_one_batch_is_told_from_all_of_them(args, refused):
    if refused:
        with pytest.raises(InputError, match=r"limit_predict_batches 1 would .*: set --data.max"):
            predict._refuse_one_batch(args)
    else:
        predict._refuse_one_batch(args)


@pytest.mark.parametrize("seed", [0, 2**32 - 1])
def test_a_seed(seed):
    assert predict._as_seed(seed) == seed


@pytest.mark.parametrize("seed", [-1, 2**32, True, False, 1.0, "1", None])
def test_no_seed(seed):
    with pytest.raises(InputError, match=f"whole number from 0 to 4294967295, got {seed!r}"):
        predict._as_seed(seed)


@pytest.fixture
def run(monkeypatch):
    """Runs `predict` without its work; gives its status, and what the work was given.

    `run.error` is what the work raises, `run.failed` whether each of its reports fails.
    """
    run_given = []

    def cli(*args, **options):
        run_given.append(options)
        if run.error is not None:
            raise run.error
        reports = [Report(figures=False) for _ in run.failed]
        for report, failed in zip(reports, run.failed):
            report.failed = failed
        return SimpleNamespace(trainer=SimpleNamespace(callbacks=[object(), *reports]))

    def run(*args):
        status = predict.run(list(args))
        return status, run_given[-1] if run_given else None

    run.error, run.failed = None, [False]
    monkeypatch.setattr(predict, "PredictCLI", cli)
    monkeypatch.setattr(warnings, "formatwarning", warnings.formatwarning)
    return run


@pytest.mark.parametrize(
    ("failed", "status"), [([], 0), ([False], 0), ([True], 3), ([False, True], 3)]
)
def test_a_run_whose_checks_fail_ends_with_a_status_of_its_own(run, failed, status):
    run.failed = failed
    assert run("--config=position")[0] == status


def test_a_run_is_the_same_anywhere_and_its_seed_is_42(run, monkeypatch):
    called = []
    monkeypatch.setattr(predict, "enable_mkl_reproducibility", lambda: called.append(True))
    _, given = run("--config=position")
    assert (called, given["seed_everything_default"]) == ([True], 42)


def test_the_default_loggers_are_those_of_a_command_that_names_none(run):
    _, given = run("--config=position", "--trainer.logger.project=mine")
    assert [part.rpartition("/")[2] for part in given["args"]] == ["predict", "position.yaml"]
    wandb, csv = given["trainer_defaults"]["logger"]
    assert wandb["init_args"] == {"project": "mine", "save_dir": "runs", "offline": True}
    assert csv["init_args"] == {"save_dir": "runs", "name": "csv"}
    _, given = run("--config=position", "--trainer.logger=false")
    assert given["trainer_defaults"] == {"logger": []}


@pytest.mark.parametrize("option", ["--model.seed=1", "--model.init_args.seed"])
def test_the_experiment_s_seed_is_the_run_s(run, option, capsys):
    with pytest.raises(SystemExit) as ended:
        run("--config=position", option, "1")
    assert ended.value.code == 2
    assert "set --seed_everything" in capsys.readouterr().err
    assert run("--model.seeds=1")[0] == 0


def test_one_batch_is_refused_before_anything_is_parsed(run):
    with pytest.raises(InputError, match=r"set --data\.max_pairs"):
        run("--trainer.limit_predict_batches=1")


def caused(outer, inner, explicit=True):
    if explicit:
        outer.__cause__ = inner
    else:
        outer.__context__ = inner
    return outer


@pytest.mark.parametrize(
    ("error", "told"),
    [
        (MisconfigurationException("no such accelerator"), "no such accelerator"),
        (ValueError("a fault of ours"), None),
        (caused(RuntimeError("x"), InputError("set [[data.pairs]]")), "set pairs"),
        (caused(RuntimeError("x"), InputError("set dir"), explicit=False), "set dir"),
        (caused(ValueError("x"), caused(KeyError("y"), InputError("deep"))), "deep"),
        (caused(ValueError("x"), KeyError("y")), None),
    ],
)
def test_bad_input_is_told_from_faults_of_the_program(run, error, told):
    run.error = error
    with pytest.raises(type(error) if told is None else InputError) as raised:
        run("--config=position")
    if told is None:
        assert raised.value is error
    else:
        assert str(raised.value) == told


def test_a_lost_process_is_told_of_by_what_to_do(run, monkeypatch):
    lost = InputError("another process ended")
    monkeypatch.setattr(predict, "lost_process", lambda error: lost)
    run.error = RuntimeError("connection closed by peer")
    with pytest.raises(InputError, match="another process ended"):
        run("--config=position")


def test_warnings_of_this_program_are_a_line_and_those_of_others_say_where_they_are_from(run):
    assert run("--config=position")[0] == 0
    shown = warnings.formatwarning
    assert shown("odd", UserWarning, "/x/codi_patching/data/pairs.py", 3) == "warning: odd\n"
    assert shown("odd", UserWarning, "/x/my_codi_patching.py", 3) == (
        "/x/my_codi_patching.py:3: UserWarning: odd\n"
    )


@pytest.mark.parametrize(
    ("asked", "name"), [(None, "CODI-gpt2_mine_iterative_relay_no-control"), ("a", "a")]
)
def test_what_a_run_is_called_in_trackers(tmp_path, asked, name):
    cli = predict.PredictCLI.__new__(predict.PredictCLI)
    cli.model = IterativePatching(checkpoint="zen-E/CODI-gpt2", strategy="relay", control="none")
    cli.datamodule = PairsDataModule(str(tmp_path / "mine.json"))
    wandb, mlflow = (cli._logger_defaults(asked)[f"{n}Logger"] for n in ("Wandb", "MLFlow"))
    assert wandb == {
        "name": name,
        "job_type": "iterative",
        "group": "CODI-gpt2_mine",
        "tags": ["relay", "resid_post", "recomputed", "denoising", "clean", "control-none"],
    }
    assert mlflow == {"run_name": name}


def before(trainer=None, **changed):
    """The configuration of `predict` before its classes are made, and after it was looked at."""
    made = config(trainer, **changed)
    made["data.max_pairs"] = None
    made["progress"] = Namespace(refresh_rate=1)
    made["return_predictions"] = True
    cli = predict.PredictCLI.__new__(predict.PredictCLI)
    cli.config = Namespace(predict=made)
    cli.before_instantiate_classes()
    return made


@pytest.mark.parametrize(
    ("asked", "bar", "rate"), [(False, None, 0), (True, True, 1), (None, None, 1)]
)
def test_no_bar_is_no_progress_and_predictions_are_not_kept(asked, bar, rate):
    made = before({"enable_progress_bar": asked})
    assert (made.trainer.enable_progress_bar, made.progress.refresh_rate) == (bar, rate)
    assert made.return_predictions is False


def test_home_is_expanded_before_paths_are_looked_at(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert before(**{"results.dir": "~/out"}).results.dir == "/home/me/out"
    with pytest.raises(InputError, match=r"expected --results\.dir to be a path"):
        before(**{"results.dir": ""})


@pytest.mark.parametrize("group", ["data", "results", "report", "progress"])
def test_a_group_of_options_is_no_single_value(group):
    made = config()
    made["progress"] = Namespace()
    made[group] = 3
    cli = predict.PredictCLI.__new__(predict.PredictCLI)
    cli.config = made  # as of a command that is not run
    with pytest.raises(InputError, match=f"a group of options under {group}, got 3"):
        cli.before_instantiate_classes()


@pytest.mark.parametrize("configured", [False, True])
def test_a_trainer_gets_the_loggers_that_could_be_made(monkeypatch, configured):
    cli, given = predict.PredictCLI.__new__(predict.PredictCLI), []
    cli.config = Namespace(predict=config({"logger": configured}, **{"report.name": "a"}))
    monkeypatch.setattr(cli, "_logger_defaults", lambda name: {"CSVLogger": {"name": name}})
    monkeypatch.setattr(
        predict, "build_loggers", lambda *asked: given.append(asked) or (["one"] * configured)
    )
    monkeypatch.setattr(predict.OneLineCLI, "instantiate_trainer", lambda self, **options: options)
    assert cli.instantiate_trainer(devices=2, logger="other") == {
        "devices": 2,
        "logger": ["one"] if configured else False,
    }
    assert given == [(configured, {"CSVLogger": {"name": "a"}})]
