"""Configuration files by path or by name: `mine.yaml`, `position`, `configs/models/gpt2.yaml`."""

from __future__ import annotations

import difflib
from collections.abc import Sequence
from pathlib import Path

from codi_patching.commands.one_line import refuse

SHIPPED_CONFIGS = Path(__file__).parents[1] / "configs"
OPTIONS = ("--config", "-c")


def config_names() -> list[str]:
    """Names of the package's own configurations: `layer`, `models/gpt2`, and so on."""
    found = SHIPPED_CONFIGS.rglob("*.yaml")
    return sorted(p.relative_to(SHIPPED_CONFIGS).with_suffix("").as_posix() for p in found)


def find_config(asked: str) -> Path:
    """The file that a path or a name means: one that exists, else the package's own.

    One that does not exist ends the program in a line with the nearest name.

    Args:
        asked: A path, or a name with or without `configs/` before it and `.yaml` behind it, so that
            `configs/position.yaml` is one file in a checkout and anywhere else.
    """
    given = Path(asked).expanduser()
    if given.exists() and not given.is_dir():
        return given
    name = asked.removeprefix("./").removeprefix("configs/").removesuffix(".yaml")
    names = config_names()
    if name not in names:
        close = difflib.get_close_matches(name, names, n=1)
        meant = f"did you mean --config {close[0]}?" if close else ""
        usual = f"set --config to a file, or to one of {', '.join(names)}"
        what = "is a folder" if given.is_dir() else "does not exist"
        refuse(f"{asked or repr(asked)} {what}: {meant or usual}")
    return SHIPPED_CONFIGS / f"{name}.yaml"


def with_files(args: Sequence[str]) -> list[str]:
    """A command line whose `--config` options all name files.

    YAML in the place of a file, such as `--config '{data: {max_pairs: 2}}'`, is left alone.
    """
    found: list[str] = []
    for number, arg in enumerate(args):
        option, equals, value = arg.partition("=")
        if option in OPTIONS and equals:
            arg = f"{option}={_file_or_content(value)}"
        elif number and args[number - 1] in OPTIONS:
            arg = _file_or_content(arg)
        found.append(arg)
    return found


def _file_or_content(value: str) -> str:
    return value if ":" in value else str(find_config(value))
