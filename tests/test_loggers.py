"""Loggers around a run: they start late, get everything, and cannot end it."""

import sys
from pathlib import Path

import pytest
import wandb
from lightning.pytorch.loggers import CSVLogger, Logger, WandbLogger
from lightning.pytorch.loggers.logger import DummyExperiment

from codi_patching import cli
from codi_patching.callbacks.loggers import SafeLogger, build_loggers
from codi_patching.callbacks.report_at_end import Report
from codi_patching.commands.logger_options import apply_to_defaults
from codi_patching.commands.predict import _LOGGERS
from codi_patching.errors import InputError
from codi_patching.results.read import read_results

ROOT = Path(__file__).parent.parent


class Failing(Logger):
    """Takes so many calls, then fails."""

    def __init__(self, calls=0):
        super().__init__()
        self.calls, self.got = calls, []

    name = "failing"
    version = 0

    @property
    def experiment(self):
        return self._take("experiment")

    def log_metrics(self, metrics, step=None):
        self._take(metrics)

    def log_hyperparams(self, params, *args, **kwargs):
        self._take("hyperparameters")

    def finalize(self, status):
        self._take(status)

    def _take(self, what):
        if len(self.got) >= self.calls:
            raise ConnectionError("no route to host")
        self.got.append(what)


def test_a_logger_that_fails_costs_one_warning_and_is_asked_nothing_more():
    logger = SafeLogger(Failing(calls=2))
    logger.log_metrics({"a": 1})
    with pytest.warns(UserWarning, match=r"Failing failed .* not affected: no route to host"):
        logger.log_metrics({"a": 2})
    assert logger.inner.got == ["experiment", {"a": 1}]
    logger.log_metrics({"a": 3})
    logger.finalize("success")
    assert isinstance(logger.experiment, DummyExperiment)


def test_a_logger_starts_with_the_first_metric():
    logger = SafeLogger(Failing(calls=9))
    assert isinstance(logger.experiment, DummyExperiment)
    logger.log_hyperparams({"seed": 1})
    logger.save()
    logger.finalize("failed")
    assert logger.inner.got == []
    logger.log_metrics({"a": 1})
    logger.finalize("success")
    assert logger.inner.got == ["experiment", {"a": 1}, "success"]


def test_one_that_cannot_be_made_costs_a_warning(tmp_path):
    configured = [
        {"class_path": "no.such.Logger", "init_args": {}},
        {
            "class_path": "lightning.pytorch.loggers.CSVLogger",
            "init_args": {"save_dir": str(tmp_path)},
        },
    ]
    configured = [
        type("Configured", (dict,), {"class_path": c["class_path"]})(c) for c in configured
    ]
    with pytest.warns(UserWarning, match="Logger failed and gets nothing more"):
        made = build_loggers(configured, {"CSVLogger": {"name": "tables"}})
    assert [type(logger.inner) for logger in made] == [CSVLogger]
    assert made[0].name == "tables"


class Configured(dict):
    """A logger of a configuration: its arguments by group, and its class."""

    def __init__(self, name="CSVLogger", **groups):
        super().__init__(groups)
        self.class_path = f"lightning.pytorch.loggers.{name}"


def test_what_a_logger_was_told_comes_before_what_it_gets_by_default(tmp_path):
    told = {"save_dir": str(tmp_path), "name": "mine", "version": None}
    first, second = build_loggers(
        [Configured(init_args=told), Configured(init_args=told, dict_kwargs={"prefix": "p"})],
        {"CSVLogger": {"name": "run", "version": 7}, "WandbLogger": {"name": "other"}},
    )
    assert [(made.name, made.version) for made in (first, second)] == [("mine", 7)] * 2
    assert [made.inner._prefix for made in (first, second)] == ["", "p"]
    assert first.save_dir == str(tmp_path)


def test_a_class_alone_is_a_logger_and_a_truth_value_the_usual_one_or_none(tmp_path):
    alone = Configured(init_args={"save_dir": str(tmp_path), "name": "mine"})
    assert [made.name for made in build_loggers(alone, {})] == ["mine"]
    (usual,) = build_loggers(True, {})
    assert (type(usual.inner), usual.save_dir, usual.name) == (CSVLogger, "runs", "csv")
    assert [build_loggers(none, {}) for none in (False, None, [])] == [[], [], []]


@pytest.mark.parametrize(("anonymous", "kept"), [(None, False), (True, True)])
def test_wandb_is_asked_for_nobody_unless_it_was_told_so(anonymous, kept):
    told = {"offline": True, "anonymous": anonymous}
    (made,) = build_loggers(Configured("WandbLogger", init_args=told), {})
    assert ("anonymous" in made.inner._wandb_init) is kept


class Keeping(Logger):
    """Keeps what it gets, with how it was given."""

    name, version, save_dir = "keeping", 3, "there"

    def __init__(self):
        super().__init__()
        self.got = []

    @property
    def experiment(self):
        self.got.append("experiment")
        return "the run"

    def log_metrics(self, metrics, step=None):
        self.got.append((metrics, step))

    def log_hyperparams(self, params, *args, **kwargs):
        self.got.append((params, args, kwargs))

    def save(self):
        self.got.append("saved")

    def finalize(self, status):
        self.got.append(status)


def test_a_logger_that_has_started_gets_everything_as_it_was_given():
    logger = SafeLogger(Keeping())
    assert (logger.name, logger.version, logger.save_dir) == ("keeping", 3, "there")
    logger.log_metrics({"a": 1}, 4)
    logger.log_metrics({"a": 2})
    logger.log_hyperparams({"seed": 1}, 2, more=3)
    logger.save()
    logger.finalize("failed")
    assert logger.inner.got == [
        "experiment", ({"a": 1}, 4), ({"a": 2}, None), ({"seed": 1}, (2,), {"more": 3}), "saved",
        "failed",
    ]  # fmt: skip
    assert logger.experiment == "the run"


def test_an_error_without_words_is_named_by_its_kind():
    logger = SafeLogger(Keeping())
    logger.inner.save = lambda: (_ for _ in ()).throw(KeyboardInterrupt)
    logger.start()
    with pytest.raises(KeyboardInterrupt):
        logger.save()
    assert not logger.failed

    def fail(status):
        raise TimeoutError

    logger.inner.finalize = fail
    with pytest.warns(UserWarning, match="Keeping failed .*: TimeoutError$"):
        logger.finalize("success")
    assert (logger.failed, logger.name, logger.ask(lambda inner: 1, 2)) == (True, None, 2)


@pytest.mark.parametrize(("status", "code"), [("success", 0), ("failed", 1)])
def test_a_run_of_wandb_ends_with_the_status_of_ours(monkeypatch, status, code):
    told = []
    run = type("Run", (), {"finish": lambda self, exit_code: told.append(exit_code)})()
    monkeypatch.setattr(WandbLogger, "experiment", run)
    monkeypatch.setattr(WandbLogger, "finalize", lambda self, status: told.append(status))
    logger = SafeLogger(WandbLogger(offline=True))
    logger.finalize(status)
    assert told == []
    logger.start()
    logger.finalize(status)
    assert told == [status, code]


def test_wandb_is_given_up_where_it_failed(monkeypatch):
    given_up = []
    monkeypatch.setattr(wandb, "teardown", lambda: given_up.append("wandb"))
    for inner, calls in ((WandbLogger(offline=True), ["wandb"]), (Keeping(), ["wandb"])):
        with pytest.warns(UserWarning, match="failed and gets nothing more"):
            SafeLogger(inner).ask(lambda _: 1 / 0)
        assert given_up == calls


def defaults(*options):
    return apply_to_defaults(list(options), _LOGGERS)


def test_options_of_an_unnamed_logger_go_to_the_defaults_that_have_them():
    rest, (wandb_logger, csv) = defaults(
        *("--config", "configs/layer.yaml", "--trainer.logger.offline", "false"),
        *("--trainer.logger.save_dir=out", "--data.max_pairs=2"),
    )
    assert rest == ["--config", "configs/layer.yaml", "--data.max_pairs=2"]
    assert wandb_logger["init_args"]["offline"] is False
    assert wandb_logger["init_args"]["save_dir"] == csv["init_args"]["save_dir"] == "out"
    assert "offline" not in csv["init_args"]
    assert _LOGGERS[1]["init_args"]["save_dir"] == "runs"  # not written into
    with pytest.raises(InputError, match=r"did you mean --trainer\.logger\.offline\?"):
        defaults("--trainer.logger.ofline=true")


@pytest.mark.parametrize(
    "named", ["--trainer.logger=CSVLogger", f"--config={ROOT}/configs/loggers/csv.yaml"]
)
def test_options_of_a_named_logger_are_left_to_it(named):
    options = [named, "--trainer.logger.save_dir=out"]
    assert defaults(*options) == (options, [])


@pytest.mark.parametrize(
    "given",
    [["--trainer.logger.offline=false"], ["--trainer.logger.init_args.offline", "false"]],
)
def test_an_option_of_the_default_loggers_is_read_as_yaml(given):
    rest, (wandb_logger, _) = defaults("--data.max_pairs", "2", *given, "--x")
    assert rest == ["--data.max_pairs", "2", "--x"]
    assert wandb_logger["init_args"] == {**_LOGGERS[0]["init_args"], "offline": False}


def test_an_option_without_a_value_is_none_and_help_is_left_to_the_parser():
    rest, (wandb_logger, csv) = defaults(
        "--trainer.logger.help", "CSVLogger", "--trainer.logger.prefix"
    )
    assert rest == ["--trainer.logger.help", "CSVLogger"]
    assert wandb_logger["init_args"]["prefix"] is None
    assert csv["init_args"]["prefix"] is None


@pytest.mark.parametrize("option", ["save_dri=x", "kwargs=x"])
def test_an_option_that_no_default_logger_has_is_refused(option):
    with pytest.raises(InputError, match=f"unknown option --trainer.logger.{option[:-2]}"):
        defaults(f"--trainer.logger.{option}")


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ("trainer: {logger: false}", True),
        ("trainer: {devices: 1}", False),
        ("trainer: logger", False),
        ("model: {logger: x}", False),
        ("[logger]", False),
        ("", False),
        ("{", False),
    ],
)
@pytest.mark.parametrize("option", ["--config", "-c"])
def test_a_file_names_loggers_if_it_has_them_under_the_trainer(tmp_path, content, named, option):
    (path := tmp_path / "mine.yaml").write_text(content)
    for given in ([option, str(path)], [f"{option}={path}"]):
        first = ["--data.max_pairs=2", f"--config={tmp_path}/none.yaml"]
        rest, loggers = defaults(*first, *given)
        assert rest == [*first, *given]
        assert loggers == ([] if named else _LOGGERS)


@pytest.mark.slow
@pytest.mark.parametrize(
    "calls", [0, *(pytest.param(calls, marks=pytest.mark.thorough) for calls in (1, 3))]
)
@pytest.mark.filterwarnings("ignore")
def test_a_run_is_the_same_with_a_logger_that_fails(tmp_path, monkeypatch, capsys, caplog, calls):
    monkeypatch.setattr(
        "codi_patching.commands.predict.build_loggers",
        lambda configured, defaults: [SafeLogger(Failing(calls))],
    )
    options = ["--data.max_pairs=2", "--report.page=false", "--report.figures=false"]
    command = ["predict", f"--config={ROOT}/configs/layer.yaml", f"--results.dir={tmp_path}/out"]
    monkeypatch.setattr(sys, "argv", ["codi-patching", *command, *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    assert read_results(tmp_path / "out").sizes["pair"] == 2
    told = capsys.readouterr().err + caplog.text
    assert "logged to" not in told


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")
def test_the_default_loggers_get_the_run_under_its_name(tmp_path, monkeypatch, capfd, caplog):
    monkeypatch.chdir(tmp_path)
    options = ["--data.max_pairs=2", "--report.page=false", "--report.figures=false"]
    command = ["predict", f"--config={ROOT}/configs/layer.yaml", "--results.dir=out"]
    monkeypatch.setattr(sys, "argv", ["codi-patching", *command, *options])
    with pytest.raises(SystemExit) as ended:
        cli.main()
    assert ended.value.code == 0
    metrics = next((tmp_path / "runs" / "csv").rglob("metrics.csv")).read_text().splitlines()
    assert len(metrics) == 1 + 2 * 16
    assert "control_kl_divergence" in metrics[0]
    wandb.teardown()  # its service writes the last of the file
    (offline,) = (tmp_path / "runs" / "wandb").glob("offline-run-*/run-*.wandb")
    content = offline.read_bytes()
    assert b"codi-tiny_word-problems_layer" in content
    for placed in (b"codi-tiny_word-problems", b"control-sibling", b"resid_post"):
        assert placed in content
    assert b"pairs_done" in content
    told = capfd.readouterr().err + caplog.text
    assert "wandb: WARNING" not in told
    files = offline.parent.relative_to(tmp_path) / "files"
    assert f"logged to WandbLogger ({files}, codi_patching), CSVLogger (runs, csv)" in told


def test_a_report_that_was_not_made_has_not_failed():
    assert not Report().failed
