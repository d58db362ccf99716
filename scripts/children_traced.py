"""A plugin of pytest for `make mutants`: programs that a test starts are traced under its name."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

_SETTINGS = """[run]
parallel = true
source_pkgs = codi_patching
context = ${PYTEST_CURRENT_TEST-}
"""


@pytest.hookimpl(wrapper=True)
def pytest_runtest_protocol() -> Iterator[None]:
    """Within, coverage starts in every Python that is started."""
    settings = Path(os.environ["COVERAGE_FILE"]).with_name("children.ini")
    settings.write_text(_SETTINGS)
    os.environ["COVERAGE_PROCESS_START"] = str(settings)
    return (yield)
