"""Entries of one file, by several at once."""

import os
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from pathlib import Path

import pytest

from codi_patching.reporting.entries import replace_entry
from codi_patching.results.description import ResultsError


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


def test_names_and_texts_are_no_patterns(tmp_path):
    path = tmp_path / "journal.md"
    for name, text in (("aXb", "two"), ("a.b", r"one \| \1"), ("a.b", r"three \d \g<0>")):
        replace_entry(path, name, f"{text}\n", "")
    assert path.read_text() == (
        "\n<!-- entry aXb -->\ntwo\n<!-- end of aXb -->\n"
        "\n<!-- entry a.b -->\nthree \\d \\g<0>\n<!-- end of a.b -->\n"
    )


def test_what_is_no_text_is_refused_and_stays(tmp_path):
    path = tmp_path / "journal.md"
    path.write_bytes(b"\xff\xfe")
    with pytest.raises(ResultsError, match=r"journal\.md cannot be read \(.*\): remove it, or set"):
        replace_entry(path, "run", "text\n", "# Heading\n")
    assert path.read_bytes() == b"\xff\xfe"
    path.unlink()
    os.mkfifo(path)
    with pytest.raises(ResultsError, match=r"journal\.md cannot be read \(it is no file\)"):
        replace_entry(path, "run", "text\n", "# Heading\n")
