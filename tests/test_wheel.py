"""The wheel, as it is made from the source distribution, in a fresh environment and folder."""

import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
FILES = ("pyproject.toml", "README.md", "LICENSE")

pytestmark = pytest.mark.slow


def call(*command, cwd):
    done = subprocess.run(
        [str(part) for part in command], cwd=cwd, capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A source distribution of the checkout, and the wheel that is made of it."""
    source, out = tmp_path_factory.mktemp("source"), tmp_path_factory.mktemp("built")
    ignored = shutil.ignore_patterns("__pycache__")
    shutil.copytree(ROOT / "codi_patching", source / "codi_patching", ignore=ignored)
    (source / "configs").symlink_to("codi_patching/configs")
    for name in FILES:
        shutil.copy(ROOT / name, source)
    make = "import sys; from setuptools.build_meta import build_sdist; build_sdist(sys.argv[1])"
    call(sys.executable, "-c", make, out, cwd=source)
    (sdist,) = out.glob("*.tar.gz")
    wheel = ("wheel", "--no-index", "--no-deps", "--no-build-isolation", f"--wheel-dir={out}")
    call(sys.executable, "-m", "pip", *wheel, sdist, cwd=out)
    return sdist, next(out.glob("*.whl")), source


@pytest.fixture(scope="module")
def program(built, tmp_path_factory):
    """`codi-patching` of an environment that has the wheel, and the packages of this one."""
    environment = tmp_path_factory.mktemp("environment")
    call(sys.executable, "-m", "venv", "--without-pip", environment, cwd=environment)
    python = environment / "bin" / "python"
    (site,) = environment.glob("lib/*/site-packages")
    # Of the folder that a .pth names, the .pth files are not read: no editable install is seen.
    (site / "packages.pth").write_text(sysconfig.get_path("purelib"))
    install = ("--python", python, "install", "--no-index", "--no-deps", built[1])
    call(sys.executable, "-m", "pip", *install, cwd=environment)
    where = call(python, "-c", "import codi_patching as c; print(c.__file__)", cwd=environment)
    assert Path(where).is_relative_to(environment)
    return environment / "bin" / "codi-patching"


def test_every_file_of_the_package_is_in_the_source_distribution_and_in_the_wheel(built):
    sdist, wheel, source = built
    files = {path.relative_to(source).as_posix() for path in source.rglob("codi_patching/**/*.*")}
    files = {name for name in files if (source / name).is_file()}
    assert {
        "codi_patching/configs/position.yaml",
        "codi_patching/configs/models/gpt2.yaml",
        "codi_patching/assets/codi_tiny/model.safetensors",
        "codi_patching/assets/templates/report.md.j2",
    } <= files
    with zipfile.ZipFile(wheel) as archive:
        assert set(archive.namelist()) >= files
        assert not [name for name in archive.namelist() if name.startswith("configs")]
    with tarfile.open(sdist) as archive:
        assert {name.partition("/")[2] for name in archive.getnames()} >= files


@pytest.mark.slow
@pytest.mark.thorough
def test_the_demo_runs_from_an_empty_folder_and_is_reported_on(program, tmp_path):
    options = ("--data.max_pairs=2", "--trainer.logger=false", "--report.pair_sheets=false")
    call(program, "predict", "--config", "position", *options, cwd=tmp_path)
    assert {path.name for path in tmp_path.iterdir()} == {"results"}
    page = tmp_path / "results" / "position" / "report.html"
    made = page.read_bytes()
    page.unlink()
    assert "Position patching" in call(program, "report", "results/position", cwd=tmp_path)
    assert page.read_bytes() == made


@pytest.mark.parametrize(
    ("command", "said"),
    [
        ("study --help", "--dry_run"),
        pytest.param(
            "fit --config train_codi_tiny --print_config",
            "output: runs/train_codi_tiny/codi-tiny",
            marks=pytest.mark.thorough,
        ),
        pytest.param(
            "predict --config configs/layer.yaml --config models/gpt2 --config test_mode "
            "--print_config",
            "base_model: openai-community/gpt2",
            marks=pytest.mark.thorough,
        ),
    ],
)
def test_commands_need_no_checkout(program, tmp_path, command, said):
    assert said in call(program, *command.split(), cwd=tmp_path)
    assert not list(tmp_path.iterdir())
