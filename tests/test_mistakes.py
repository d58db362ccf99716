"""What is said of a mistake on the command line: its option, what was meant, what was expected."""

import argparse
from pathlib import Path

import pytest
from jsonargparse import Namespace

from codi_patching.commands import parser
from codi_patching.commands.one_line import OneLineArgumentParser, nearest, path, refuse
from codi_patching.commands.parser import OneLineCLI, _expand_home, explain
from codi_patching.errors import InputError

KNOWN = ["--config", "--data.pairs", "--data.max_pairs", "--trainer.devices"]


@pytest.mark.parametrize(
    ("word", "known", "said"),
    [
        ("--seed", ["--seek", "--seed_everything"], ": did you mean --seed_everything?"),
        ("--sed", ["--need", "--seed"], ": did you mean --seed?"),
        ("--x", ["--seed"], "; codi-patching fit --help lists them"),
        ("abcde", ["abcxy"], ": did you mean abcxy?"),  # three letters of five are alike
        ("abcdef", ["abcxyz"], "; codi-patching fit --help lists them"),
    ],
)
def test_what_was_probably_meant(word, known, said):
    assert nearest(word, known, "fit") == said


def test_without_a_command_the_program_s_own_help_is_named():
    assert nearest("x", []) == "; codi-patching --help lists them"


@pytest.mark.parametrize(
    ("args", "said"),
    [
        (["--sed", "3"], "codi-patching x: unknown option --sed: did you mean --seed?"),
        (["--see=3"], "codi-patching x: unknown option --see: did you mean --seed?"),
        (["--seed", "3"], "codi-patching x: the following arguments are required: --dir"),
        (["--sed", "--dri"], "codi-patching x: unknown option --sed: did you mean --seed?"),
        (["--dir=a", "b", "c"], "codi-patching x: unknown option b; codi-patching x --help lists"),
        (["--dir=a", "--seed=x"], "codi-patching x: argument --seed: invalid int value: 'x'"),
    ],
)
def test_plain_options_are_written_in_full(capsys, args, said):
    own = OneLineArgumentParser("codi-patching x")
    own.add_argument("--seed", type=int)
    own.add_argument("--dir", required=True)
    with pytest.raises(SystemExit) as ended:
        own.parse_args(args)
    assert ended.value.code == 2
    out, err = capsys.readouterr()
    assert (out, err.startswith(said), err.count("\n")) == ("", True, 1)


def test_a_negative_number_is_no_option():
    own = OneLineArgumentParser("codi-patching x")
    own.add_argument("--seed", type=int)
    assert own.parse_args(["--seed", "-3"]).seed == -3


def test_a_refusal_is_a_line_of_plain_text(capsys):
    with pytest.raises(SystemExit) as ended:
        refuse("a\x1b[31m\nb")
    assert (ended.value.code, capsys.readouterr().err) == (2, "codi-patching: a [31m b\n")


def test_a_path_is_expanded_and_not_empty(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    assert path("~/out") == Path("/home/me/out")
    with pytest.raises(argparse.ArgumentTypeError, match="expected a path, got an empty text"):
        path("")


@pytest.mark.parametrize(
    ("message", "args", "said"),
    [
        (
            "Unrecognized arguments: 3 --data.max_pears=3",
            ["fit"],
            "unknown option --data.max_pears: did you mean --data.max_pairs?",
        ),
        (
            "unrecognized arguments: --data.pairs=1 --trainer.devises=3",
            ["predict"],
            "unknown option --trainer.devises: did you mean --trainer.devices?",
        ),
        ("unrecognized arguments: --data.pairs", [], "unknown option --data.pairs: did you mean"),
        (
            "unrecognized arguments: extra more",
            ["fit"],
            "unexpected argument extra; codi-patching fit --help lists what may follow",
        ),
        (
            "unrecognized arguments: extra",
            [],
            "unexpected argument extra; codi-patching predict --help",
        ),
        (
            "the following arguments are required: model",
            ["predict"],
            "expected an experiment: add --config position or --model CLASS",
        ),
        (
            "the following arguments are required: model",
            ["fit"],
            "expected a training: add --config train_codi_tiny or --model CLASS",
        ),
        ("required: model", ["study"], "expected an experiment: add --config position or"),
        (
            "the following arguments are required: save_dir",
            ["predict", "--data.pairs=x", "--trainer.logger=CSVLogger"],
            "expected --trainer.logger.save_dir too",
        ),
        (
            "the following arguments are required: monitor",
            ["predict", "--trainer.callbacks", "EarlyStopping"],
            "expected --trainer.callbacks.monitor too",
        ),
        (
            "the following arguments are required: save_dir",
            ["predict", "--trainer.loggers=x"],
            "the following arguments are required: save_dir",
        ),
        ("Key 'data.max_pear' is no", [], "unknown key data.max_pear: did you mean data.max_pa"),
        ("does not accept option 'zzz'", ["fit"], "unknown key zzz; codi-patching fit --help"),
        (
            "x\n Call to compute_fn of link a failed: expected a seed\n of 1",
            [],
            "expected a seed of 1",
        ),
        ('Parser key "data.pairs": no\n  good', [], "no good"),
        (
            "Parser key \"seed\": Expected a <class 'int'>. Got value: x",
            ["--model.seed=x"],
            "expected --model.seed to be a whole number, got x",
        ),
        (
            "Parser key \"layers\": Expected a <class 'list'>\nExpected a <class 'NoneType'>\n"
            "Expected a <class 'int'>\nExpected a <class 'list'>\nGiven value: x\nGot value: y",
            ["--model.layers=x", "--data.layers=y"],
            "expected --data.layers to be a list or a whole number, got y",
        ),
        (
            "Parser key \"latents\": Expected a typing.Literal['a', 'b'] and "
            "Expected a typing.Literal['b', 3]",
            [],
            "expected --model.latents to be one of a, b, 3",
        ),
        (
            'Parser key "trainer.logger": no import path string: CSVLoger\n',
            [],
            "unknown logger CSVLoger: did you mean CSVLogger?",
        ),
        (
            "Parser key \"model\": given class_path 'LayerPaching'",
            [],
            "unknown experiment LayerPaching: did you mean LayerPatching?",
        ),
        ("import path string: Nothing", [], "unknown experiment Nothing: expected one of Layer"),
        ("Expected a <class 'pathlib.Path'>", [], "expected it to be pathlib.Path"),
    ],
)
def test_a_message_of_the_parser_becomes_a_sentence(message, args, said):
    assert explain(message, KNOWN, args).startswith(said)


@pytest.mark.parametrize(
    ("option", "args", "said"),
    [
        ("latent", ["--model.latent=x"], "unknown option --model.latent: did you mean --model.lat"),
        ("top", ["--model.top=3"], "--model.top is an option of LensExperiment only"),
        (
            "window",
            ["--model.window=3"],
            "--model.window is an option of KnockoutExperiment only",
        ),
        ("strategy", ["--model.strategy=x"], "--model.strategy is an option of IterativePatching"),
        (
            "save_dri",
            ["--trainer.logger=CSVLogger", "--trainer.logger.save_dri=x"],
            "unknown option --trainer.logger.save_dri: did you mean --trainer.logger.save_dir?",
        ),
        (
            "monitr",
            ["--trainer.callbacks.monitr=x"],
            "unknown option --trainer.callbacks.monitr: did you mean --trainer.callbacks.monitor?",
        ),
        ("save_dri", [], "unknown key save_dri: did you mean save_dir?"),
        ("latens", [], "unknown key latens: did you mean latents?"),
    ],
)
def test_an_option_that_a_class_does_not_have(option, args, said):
    assert explain(f"Option '{option}' is not accepted", KNOWN, args).startswith(said)


def test_a_name_is_that_of_the_last_option_which_ends_so():
    args = ["--model.seed=1", "--data.seed=2", "seed", "--data.seedy=3", "x.seed"]
    assert parser._as_typed("seed", args) == "--data.seed"
    assert parser._as_typed("seed", ["--seed"]) == "--seed"
    assert parser._as_typed("site", []) == "--model.site"
    assert parser._as_typed("devices", []) == "--devices"


@pytest.mark.parametrize(
    ("name", "key", "said"),
    [
        ("x.LayerPachting", "model", "unknown experiment x.LayerPachting: did you mean LayerPatch"),
        ("", "", "unknown experiment : expected one of LayerPatching, PositionPatching, "),
        ("Loger", "trainer.logger", "unknown logger Loger: did you mean"),
        ("x.Y", "trainer.logger", "unknown logger x.Y: expected the name or the path of a class"),
        ("Pruning", "trainer.callbacks", "unknown callback Pruning: did you mean"),
        ("x.Y", "trainer.callbacks", "unknown callback x.Y: expected the name or the path"),
        ("x.Y", "trainer.strategy", "unknown class x.Y: expected the name or the path of a class"),
    ],
)
def test_a_class_that_does_not_exist(name, key, said):
    assert parser._explain_class(name, key, "").startswith(said)


def test_why_a_class_was_not_found_is_told():
    told = parser._explain_class("my.Own", "model", "x\n  No module named 'my'\n y")
    assert told.startswith("unknown experiment my.Own (No module named 'my'): expected one of Lay")


def test_home_is_expanded_at_the_beginning_alone_and_at_any_depth(monkeypatch):
    monkeypatch.setenv("HOME", "/home/me")
    deep = Namespace(a="~/x", b=["~", "a~/b", Namespace(c="~/y")], d={"e": "~me", "f": "~/z"}, n=3)
    _expand_home(deep)
    assert deep.as_dict() == {
        "a": "/home/me/x",
        "b": ["/home/me", "a~/b", {"c": "/home/me/y"}],
        "d": {"e": "~me", "f": "/home/me/z"},
        "n": 3,
    }


def test_options_are_those_of_a_parser_and_its_subcommands():
    own = argparse.ArgumentParser()
    own.add_argument("-c", "--config")
    own.add_argument("--kind", choices=["a"])
    own.add_subparsers().add_parser("sub").add_argument("--deep")
    found = parser._options_of(own)
    assert {"-c", "--config", "--kind", "--deep"} <= set(found)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (InputError("set [[data.pairs]]"), "set pairs"),
        (ValueError("odd\n  value"), "odd value"),
        (TypeError(), "TypeError"),
    ],
)
def test_what_refuses_its_options_is_bad_input_whatever_it_raises(monkeypatch, error, said):
    cli = OneLineCLI.__new__(OneLineCLI)

    def refused(self):
        raise error

    monkeypatch.setattr(parser.LightningCLI, "instantiate_classes", refused)
    with pytest.raises(InputError) as told:
        cli.instantiate_classes()
    assert str(told.value) == said


def test_an_error_that_was_raised_while_another_was_handled_is_told_by_the_other(monkeypatch):
    cli = OneLineCLI.__new__(OneLineCLI)
    error = RuntimeError("second")
    error.__context__ = InputError("set [[data.pairs]]")
    monkeypatch.setattr(parser.LightningCLI, "instantiate_classes", lambda self: throw(error))
    with pytest.raises(InputError, match=r"^set pairs$"):
        cli.instantiate_classes()


def throw(error):
    raise error


@pytest.mark.parametrize("chained", [True, False])
def test_the_first_of_a_chain_of_errors_is_told(monkeypatch, chained):
    cli = OneLineCLI.__new__(OneLineCLI)

    def refused(self):
        try:
            raise InputError("set [[data.pairs]]") if chained else KeyError("first")
        except (InputError, KeyError) as first:
            try:
                raise TypeError("second") from first
            except TypeError as second:
                raise RuntimeError("third") from second

    monkeypatch.setattr(parser.LightningCLI, "instantiate_classes", refused)
    with pytest.raises(InputError) as told:
        cli.instantiate_classes()
    assert str(told.value) == ("set pairs" if chained else "'first'")
