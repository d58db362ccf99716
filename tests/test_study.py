"""What a study runs, in which order and with which options, and how it ends."""

import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

import codi_patching.reporting.runs as reporting
from codi_patching.commands import study
from codi_patching.commands.config_files import SHIPPED_CONFIGS
from codi_patching.commands.study_arms import read_arms
from codi_patching.errors import InputError

ARMS = """
arms:
  first: {class_path: LayerPatching, init_args: {latents: frozen, layers: [1, 2]}}
  reader: {class_path: codi_patching.LensExperiment}
  second: {class_path: my.Own}
"""


@pytest.fixture
def arms_file(tmp_path):
    (tmp_path / "mine.yaml").write_text(ARMS)
    return tmp_path / "mine.yaml"


@pytest.fixture
def run(arms_file, tmp_path, monkeypatch, capsys):
    """A study whose arms end with some statuses; gives its own, and what was run and compared."""

    def run(*options, statuses=(0, 0, 0), failed=False):
        left, told = list(statuses), SimpleNamespace(commands=[], compared=None)

        def alone(command):
            told.commands.append(command)
            return left.pop(0)

        def compare(folders, folder, options):
            told.compared = (folders, folder, options)
            return SimpleNamespace(text="compared", failed=failed)

        monkeypatch.setattr(study, "_run_alone", alone)
        monkeypatch.setattr(study, "_report_options", lambda arm, options: (arm.name, options))
        monkeypatch.setattr(reporting, "compare_folders", compare)
        told.folder = tmp_path / "out"
        given = ["--config", str(arms_file), "--dir", str(told.folder), *options]
        try:
            told.status = study.run(given)
        finally:
            told.out, told.err = capsys.readouterr()
            run.told = told
        return told

    return run


def test_each_arm_is_a_predict_in_its_own_folder_then_all_are_compared(run):
    told = run("--data.max_pairs=2", "--model.site=kv")
    assert told.status == 0
    folders = [told.folder / name for name in ("first", "second", "reader")]
    shared = ["--data.max_pairs=2", "--model.site=kv"]
    direction = "--model.direction=denoising"
    own = ["--model.latents=frozen", "--model.layers=[1, 2]"]
    assert told.commands == [
        [
            *("predict", "--model=LayerPatching", direction, *own, *shared),
            f"--results.dir={folders[0]}",
        ],
        ["predict", "--model=my.Own", direction, *shared, f"--results.dir={folders[1]}"],
        [
            *("predict", "--model=codi_patching.LensExperiment", "--data.max_pairs=2"),
            f"--results.dir={folders[2]}",
        ],
    ]  # fmt: skip
    assert told.compared == (folders, told.folder / "comparison", ("first", shared))
    assert told.out == "compared\n"
    assert told.err.splitlines() == [
        f"study: arm {number} of 3, {name}"
        for number, name in enumerate(("first", "second", "reader"), 1)
    ]


@pytest.mark.parametrize("docs", [(), ("--docs", "pages")])
def test_documents_are_written_where_they_are_asked_for(run, docs):
    wanted = [f"--report.docs={name}" for name in docs[1:]]
    for command in run(*docs).commands:
        assert [part for part in command if part.startswith("--report.docs")] == wanted


@pytest.mark.parametrize(
    ("statuses", "failed", "status"),
    [((0, 0, 0), True, 3), ((0, 3, 0), False, 3), ((3, 0, 0), True, 3), ((0, 0, 0), False, 0)],
)
def test_a_study_is_invalid_if_one_of_its_arms_or_the_comparison_is(run, statuses, failed, status):
    told = run(statuses=statuses, failed=failed)
    assert (told.status, len(told.commands), told.out) == (status, 3, "compared\n")


def test_a_study_ends_at_an_option_that_does_not_exist(run):
    told = run(statuses=[3, 2])
    assert (told.status, len(told.commands), told.compared) == (2, 2, None)


@pytest.mark.parametrize("status", [1, 130, -9])
def test_a_study_ends_at_an_arm_that_failed_and_says_how_to_go_on(run, status):
    message = f"arm second ended with status {status}: .* rerun to resume; another --dir begins"
    with pytest.raises(InputError, match=message):
        run(statuses=[0, status])
    assert run.told.compared is None


def test_a_dry_run_runs_no_arm(run, monkeypatch):
    from codi_patching.commands import estimate

    asked = []
    monkeypatch.setattr(estimate, "print_estimate", lambda *given: asked.append(given) or 0)
    told = run("--dry_run", "--data.max_pairs=2")
    assert (told.status, told.commands, told.compared) == (0, [], None)
    ((arms, options),) = asked
    assert [arm.name for arm in arms] == ["first", "second", "reader"]
    assert options == ["--data.max_pairs=2"]


def test_directions_in_a_study_come_one_after_the_other(arms_file, tmp_path):
    def of(*directions):
        return read_arms(arms_file, tmp_path, directions)

    both = of("noising", "denoising")
    names = ["first_noising", "second_noising", "first", "second", "reader"]
    assert [arm.name for arm in both] == names
    assert [arm.folder for arm in both] == [tmp_path / name for name in names]
    assert [arm.options[1:2] for arm in both] == [
        *[("--model.direction=noising",)] * 2, *[("--model.direction=denoising",)] * 2, (),
    ]  # fmt: skip
    arms_file.write_text(f"{ARMS}directions: [noising]\n")
    assert [arm.name for arm in of()] == ["first_noising", "second_noising", "reader"]
    assert [arm.name for arm in of("denoising")] == ["first", "second", "reader"]


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[1]", "to have `arms` by name, each with a class_path"),
        ("{arms: [1]}", "to have `arms` by name"),
        ("{arms: {a: {class_path: A}, b: {init_args: {}}}}", "to have `arms` by name"),
        ("{arms: {a: {class_path: A}, b: class_path}}", "to have `arms` by name"),
        (
            "{arms: {a: {class_path: A}}, dirs: 1, bad: 2}",
            "arms and directions in .*, got bad, dir",
        ),
        ("{arms: ", "cannot be read"),
        (None, "cannot be read"),
    ],
)
def test_a_file_that_names_no_arms_is_refused(tmp_path, content, message):
    path = tmp_path / "mine.yaml"
    if content is not None:
        path.write_text(content)
    with pytest.raises(InputError, match=message):
        read_arms(path, tmp_path, None)


@pytest.mark.parametrize(
    ("option", "left"),
    [
        (["--model.site", "kv", "--data.x=1"], ["--data.x=1"]),
        (["--model.layers", "1", "2", "--data.x=1"], ["--data.x=1"]),
        (["--model.site=kv", "extra"], ["extra"]),
        (["--model.num_latents", "3"], ["--model.num_latents", "3"]),
        (["extra", "--trainer.devices", "2"], ["extra", "--trainer.devices", "2"]),
    ],
)
def test_an_option_of_patching_is_left_out_with_its_value(arms_file, tmp_path, option, left):
    *patching, reader = read_arms(arms_file, tmp_path, None)
    assert reader.command(option) == [*reader.options, *left]
    assert patching[0].command(option) == [*patching[0].options, *option]


def test_the_options_of_a_study_are_told_from_those_of_its_arms(tmp_path):
    asked, others = study.parse(
        [
            *("--dir", str(tmp_path), "--directions", "noising", "denoising"),
            *("--seed_everything", "7", "--config=lens", "--data.max_pairs", "2"),
        ]
    )
    assert (asked.dir, asked.directions) == (tmp_path, ["noising", "denoising"])
    assert (asked.dry_run, asked.docs) == (False, None)
    assert asked.config == SHIPPED_CONFIGS / "lens.yaml"
    assert others == ["--seed_everything", "7", "--data.max_pairs", "2"]
    usual, others = study.parse([])
    assert (usual.config, str(usual.dir)) == (SHIPPED_CONFIGS / "study.yaml", "results/study")
    assert (usual.directions, others) == (None, [])


@pytest.mark.parametrize(
    "option",
    ["--report.docs=x", "--report.name=x", "--model=LayerPatching", "--model.strategy=relay"],
)
def test_what_would_make_an_arm_another_one_is_refused(option):
    with pytest.raises(InputError, match=f"^{option.partition('=')[0]} is each arm's own in a st"):
        study.parse([option])


def alone(monkeypatch, code):
    """Run `code` in the place of the program, as a study runs an arm."""
    started = subprocess.Popen
    monkeypatch.setattr(
        study.subprocess, "Popen", lambda args, **given: started([args[0], "-c", code], **given)
    )
    return study._run_alone(["predict"])


def test_an_arm_alone_gives_its_status_and_ignores_ctrl_c_but_not_sigterm(monkeypatch):
    code = (
        "import signal, sys\n"
        "ignored = signal.getsignal(signal.SIGINT) is signal.SIG_IGN\n"
        "blocked = signal.pthread_sigmask(signal.SIG_BLOCK, [])\n"
        "sys.exit(30 + ignored + 2 * bool(blocked & {signal.SIGINT, signal.SIGTERM}))"
    )
    before = signal.getsignal(signal.SIGINT)
    assert alone(monkeypatch, code) == 31
    assert signal.getsignal(signal.SIGINT) is before
    assert not signal.pthread_sigmask(signal.SIG_BLOCK, []) & {signal.SIGINT, signal.SIGTERM}


def test_an_arm_ends_with_its_study(monkeypatch):
    started, made = subprocess.Popen, []

    def popen(args, **given):
        made.append(started([sys.executable, "-c", "input()"], stdin=subprocess.PIPE, **given))
        made[0].wait = interrupted
        return made[0]

    def interrupted():
        del made[0].wait
        raise SystemExit(143)

    monkeypatch.setattr(study.subprocess, "Popen", popen)
    with pytest.raises(SystemExit):
        study._run_alone(["predict"])
    assert made[0].returncode == -signal.SIGKILL
    made[0].stdin.close()
