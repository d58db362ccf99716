"""Whether files that the program makes are those in docs."""

import os
import re
from importlib.metadata import version
from pathlib import Path

import numpy as np
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
    """To a few pixels, where the version of matplotlib is the one that drew what is shipped."""
    if (
        f"matplotlib=={version('matplotlib')}\n"
        not in (DOCS.parent / "constraints.txt").read_text()
    ):
        return
    mine, theirs = (np.asarray(Image.open(path).convert("L"), int) for path in (made, shipped))
    assert mine.shape == theirs.shape, shipped
    assert (np.abs(mine - theirs) > 8).sum() <= 20, shipped


def assert_same_files(made, shipped):
    """The same files, and in each the same."""
    mine, theirs = (
        {path.relative_to(folder) for path in folder.rglob("*") if path.is_file()}
        for folder in (made, shipped)
    )
    assert mine - NOT_SHIPPED == theirs - NOT_SHIPPED
    for name in mine & theirs:
        if name.suffix != ".safetensors":
            same = assert_same_picture if name.suffix == ".png" else assert_same_text
            same(made / name, shipped / name)
