"""Examples in docstrings run in an empty folder, where a user's `results/` are the shipped ones."""

from collections.abc import Iterator
from pathlib import Path

import pytest

_SHIPPED = Path(__file__).parent / "docs" / "results" / "codi-tiny"


@pytest.fixture(autouse=True)
def _where_examples_run(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[None]:
    """Of examples alone: tests say where they run."""
    if not isinstance(request.node, pytest.DoctestItem):
        yield
        return
    folder = tmp_path_factory.mktemp("example")
    (folder / "results").mkdir()
    shipped = {"position": "position_recomputed", "layer": "layer_frozen", "lens": "lens"}
    for name, arm in shipped.items():
        (folder / "results" / name).symlink_to(_SHIPPED / arm)
    with pytest.MonkeyPatch.context() as patched:
        patched.chdir(folder)
        yield
