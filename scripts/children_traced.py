"""A plugin of pytest for `make mutants`: programs that a test starts are traced under its name."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_FILE = Path(os.environ["COVERAGE_FILE"]).with_name("children.ini")
_SETTINGS = """[run]
parallel = true
source_pkgs = codi_patching
context = ${PYTEST_CURRENT_TEST-}
"""


def pytest_configure() -> None:
    """Write down how programs are traced."""
    fresh = _FILE.with_suffix(f".{os.getpid()}")
    fresh.write_text(_SETTINGS)
    fresh.replace(_FILE)  # whole, whoever reads it meanwhile


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Within, coverage starts in every Python that is started."""
    os.environ["COVERAGE_PROCESS_START"] = str(_FILE)
    return (yield)
