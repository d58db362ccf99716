"""Readers of foreign files: whatever they are fed, a clear error or what was read."""

import copy
import json
import subprocess
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from results_maker import records_of, run_of, write

from codi_patching.data.json_lines import DataFileError
from codi_patching.data.pair_files import read_pairs
from codi_patching.results.dataset import structural_of
from codi_patching.results.description import ResultsError
from codi_patching.results.read import read_results
from codi_patching.saved_results import compare

ROOT = Path(__file__).parent.parent

odd = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(),
    st.floats(),
    st.text(max_size=5),
    st.just([]),
    st.just({}),
    st.lists(st.integers(), max_size=2),
    st.just(10**400),
)

PAIRS = [
    {
        "pair_id": "a",
        "clean": {"question": "3 pens?", "answer": 18},
        "corrupted": {"question": "4 pens?", "answer": "17"},
    },
    {"pair_id": 2, "variant": "clean", "question": "q", "answer": "#### 1,430"},
    {"pair_id": 2, "variant": "corrupted", "question": "r", "answer": 2},
]


def paths_of(value, path=()):
    """Every place in a JSON value."""
    yield path
    if isinstance(value, dict | list):
        for key, item in value.items() if isinstance(value, dict) else enumerate(value):
            yield from paths_of(item, (*path, key))


@st.composite
def damaged(draw, value):
    """A value with a few places lost, doubled or replaced."""
    value = copy.deepcopy(value)
    for _ in range(draw(st.integers(0, 3))):
        path = draw(st.sampled_from(list(paths_of(value))[1:] or [()]))
        if not path:
            return draw(odd)
        holder = value
        for key in path[:-1]:
            holder = holder[key]
        if draw(st.booleans()):
            del holder[path[-1]]
        else:
            holder[path[-1]] = draw(odd)
    return value


@contextmanager
def clear_error(kind, start):
    """Catch an error of this kind, of one line; gives a list with it, or an empty one."""
    found = []
    try:
        yield found
    except kind as error:
        found.append(str(error))
    for message in found:
        assert message.startswith(start)
        assert "\n" not in message


few = settings(
    max_examples=300,
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)


@few
@given(value=st.one_of(damaged(PAIRS[:1]), damaged(PAIRS[1:]), damaged(PAIRS)), lines=st.booleans())
def test_pairs(tmp_path, value, lines):
    path = tmp_path / "pairs.json"
    many = isinstance(value, list) and lines
    path.write_text("\n".join(map(json.dumps, value)) if many else json.dumps(value))
    with clear_error(DataFileError, f"{path}: ") as error:
        pairs = read_pairs(path)
    if not error:
        assert all(p.clean.text.strip() and abs(p.corrupted.answer) <= 2**53 for p in pairs)


@few
@given(text=st.text())
def test_any_text(tmp_path, text):
    (tmp_path / "pairs.json").write_text(text, encoding="utf-8", errors="surrogatepass")
    with pytest.raises(DataFileError):
        read_pairs(tmp_path / "pairs.json")


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """A results file of two pairs as it is written."""
    folder = tmp_path_factory.mktemp("whole")
    run = run_of("position", layers=2, columns=2)
    write(folder, run, records_of(run, pairs=2))
    return json.loads((folder / "position_patching_results.json").read_text())


@few
@given(data=st.data(), cut=st.integers(0, 40))
def test_results(whole, tmp_path, data, cut):
    path = tmp_path / "position_patching_results.json"
    text = json.dumps(data.draw(damaged(whole)))
    path.write_text(text[: len(text) - cut])
    with clear_error(ResultsError, f"{path} is not a complete results file: ") as error:
        data = read_results(tmp_path)
    if error:
        with pytest.raises(ResultsError):
            compare([tmp_path])
    else:
        run = data.attrs["run"]
        assert all(data[metric].shape[1:3] == run.grid.shape for metric in run.metrics)
        assert structural_of(data).shape == run.grid.shape


@pytest.mark.slow
@pytest.mark.thorough
@pytest.mark.parametrize("reader", ["pairs", "results"])
def test_mutated_bytes(reader, tmp_path):
    pytest.importorskip("atheris")
    fuzz = [sys.executable, "scripts/fuzz.py", reader, "-max_total_time=2"]
    done = subprocess.run(
        [*fuzz, f"-artifact_prefix={tmp_path}/"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    assert "DONE" in done.stderr
