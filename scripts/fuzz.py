"""Feed the readers of pairs and of results with mutated files: a clear error, or what was read.

    python scripts/fuzz.py pairs -max_total_time=60
    python scripts/fuzz.py results -max_total_time=60

Coverage-guided, by atheris; options after the name are libFuzzer's.
"""

from __future__ import annotations

import json
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path

import atheris

with atheris.instrument_imports(include=["codi_patching"]):
    from codi_patching.analysis.summary import summarise
    from codi_patching.data.json_lines import DataFileError
    from codi_patching.data.pair_files import read_pairs
    from codi_patching.results.dataset import run_of
    from codi_patching.results.description import Code, Grid, ResultsError, RunDescription
    from codi_patching.results.pair_descriptions import PairDescription
    from codi_patching.results.read import read_results

_PAIR = {
    "pair_id": "a",
    "clean": {"question": "3 pens?", "answer": "#### 18"},
    "corrupted": {"question": "4 pens?", "answer": 17.5},
}
_RAW = [{"pair_id": 1, "variant": v, "question": "q", "answer": "$1,430"} for v in ("clean", "x")]
_METRICS = ("kl_divergence", "recovery", "clean_probability", "corrupted_probability")
_CELL: dict[str, float | None] = {**dict.fromkeys(_METRICS, 0.5), "recovery": None}
_RUN = RunDescription(
    experiment="position",
    strategy=None,
    latents="recomputed",
    direction="denoising",
    source="clean",
    control="sibling",
    site="resid_post",
    model="codi-tiny",
    model_type="llama",
    num_latents=2,
    checkpoint_sha256="a" * 64,
    checkpoint={},
    data="",
    data_sha256="b" * 64,
    seed=1,
    precision="32-true",
    device={},
    versions={},
    code=Code("c" * 64, "0"),
    grid=Grid(("0",), "position", ("0", "1"), ((0, 1),)),
    metrics=_METRICS,
    num_pairs=1,
)
_ONE: dict[str, float | None] = dict.fromkeys(_METRICS, 0.5)
_DESCRIBED = PairDescription("q", "r", "1", "2", (1,), (2,), "a", _ONE, _ONE, _ONE, _ONE)
_CELLS = {"0": {"0": {**_CELL, "control": _CELL}, "1": {**_CELL, "control": _CELL}}}
_RESULTS = {
    "metadata": _RUN.to_json(),
    "baseline": {"a": _DESCRIBED.to_json()},
    "results": {"a": _CELLS},
}


def fuzz_pairs(path: Path) -> None:
    """Read a file of pairs; questions and answers are usable if it could be read."""
    try:
        pairs = read_pairs(path)
    except DataFileError:
        return
    for pair in pairs:
        for question in (pair.clean, pair.corrupted):
            question.text.encode()
            assert abs(question.answer) <= 2**53


def fuzz_results(path: Path) -> None:
    """Read a results file; it can be summarised if it could be read."""
    try:
        data = read_results(path.parent)
    except ResultsError:
        return
    if set(_METRICS) <= set(run_of(data).metrics):
        summarise(data, "a run", seed=1)


TARGETS: dict[str, tuple[Callable[[Path], None], str, list[str]]] = {
    "pairs": (
        fuzz_pairs,
        "pairs.json",
        [json.dumps([_PAIR]), json.dumps(_PAIR) + "\n" + json.dumps(_PAIR), json.dumps(_RAW)],
    ),
    "results": (fuzz_results, "position_patching_results.json", [json.dumps(_RESULTS)]),
}


def main() -> None:
    """Fuzz one of the two."""
    target, name, seeds = TARGETS[sys.argv[1]]
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(folder, "corpus")
        corpus.mkdir()
        for index, seed in enumerate(seeds):
            (corpus / str(index)).write_text(seed)
        path = Path(folder, name)

        def one_input(content: bytes) -> None:
            path.write_bytes(content)
            target(path)

        atheris.Setup([sys.argv[0], *sys.argv[2:], str(corpus)], one_input)
        atheris.Fuzz()


if __name__ == "__main__":
    main()
