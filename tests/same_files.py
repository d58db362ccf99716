"""Whether files that the program makes are those in docs."""

import os
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from codi_patching.results.layout import AGGREGATE, CELLS_CSV

DOCS = Path(__file__).parents[1] / "docs"
GOLDEN = Path(__file__).parent / "golden"
NOT_SHIPPED = {Path(AGGREGATE), Path(CELLS_CSV)}
NUMBER = re.compile(r"(\d+(?:\.\d+)?(?:e[-+]?\d+)?)")


def assert_golden(text, name):
    """A text and what it was when it was read by eye; `WRITE_GOLDEN=1` keeps it anew."""
    golden = GOLDEN / name
    if os.environ.get("WRITE_GOLDEN"):
        golden.write_text(text + "\n", encoding="utf-8")
    assert_same_lines(text + "\n", golden)


def assert_same_text(made, shipped):
    """Two files, see `assert_same_lines`."""
    assert_same_lines(made.read_text(encoding="utf-8"), shipped)


def assert_same_lines(made, shipped):
    """A text and a file: word for word; numbers as far as processors agree on them."""
    mine, theirs = (NUMBER.split(text) for text in (made, shipped.read_text(encoding="utf-8")))
    assert mine[::2] == theirs[::2], shipped
    np.testing.assert_allclose(
        [float(number) for number in mine[1::2]],
        [float(number) for number in theirs[1::2]],
        rtol=1e-6,
        atol=1e-12,
        err_msg=str(shipped),
    )


def assert_same_picture(made, shipped):
    """The same colours, to a few pixels."""
    mine, theirs = (np.asarray(Image.open(path).convert("RGB"), int) for path in (made, shipped))
    assert mine.shape == theirs.shape, shipped
    assert (np.abs(mine - theirs).max(axis=-1) > 8).sum() <= 20, shipped


def assert_same_files(made, shipped):
    """The same files, and in each the same; figures only by the matplotlib that drew those."""
    names = _files_of(shipped)
    assert _files_of(made) == names
    for name in names:
        if name.suffix not in (".png", ".safetensors"):
            assert_same_text(made / name, shipped / name)
    pinned = (DOCS.parent / "constraints.txt").read_text().splitlines()
    if f"matplotlib=={version('matplotlib')}" not in pinned:
        pytest.skip("text is the same; figures are compared with the pinned matplotlib alone")
    for name in names:
        if name.suffix == ".png":
            assert_same_picture(made / name, shipped / name)


def _files_of(folder):
    """What is shipped of a folder: no locks, nothing that is too large."""
    files = {path.relative_to(folder) for path in folder.rglob("[!.]*") if path.is_file()}
    return files - NOT_SHIPPED
