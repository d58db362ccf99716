"""Entries of one file, by several at once."""

from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

from codi_patching.reporting.entries import replace_entry


def put(path: Path, number: int) -> None:
    replace_entry(path, f"run {number}", f"text {number}\n", "# Heading\n")


def test_none_is_lost(tmp_path):
    path = tmp_path / "journal.md"
    with ProcessPoolExecutor(4) as processes:
        list(processes.map(partial(put, path), range(12)))
    assert [f"text {number}" in path.read_text() for number in range(12)] == [True] * 12
    assert list(tmp_path.iterdir()) == [path]


def test_a_new_entry_goes_to_the_end_and_an_old_one_stays_in_its_place(tmp_path):
    path = tmp_path / "journal.md"
    for number in (1, 2, 1):
        put(path, number)
    text = path.read_text()
    assert text.startswith("# Heading\n")
    assert text.count("text 1") == text.count("text 2") == 1
    assert text.index("text 1") < text.index("text 2")
