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
    from codi_patching.data.records import ResultsError
    from codi_patching.data.results import aggregate, read_results

    from codi_patching.data.pairs import PairsFileError, read_pairs

_PAIR = {
    "pair_id": "a",
    "clean": {"question": "3 pens?", "answer": "#### 18"},
    "corrupted": {"question": "4 pens?", "answer": 17.5},
}
_RAW = [{"pair_id": 1, "variant": v, "question": "q", "answer": "$1,430"} for v in ("clean", "x")]
_GRID = {
    "shape": [1, 2],
    "layers": ["0"],
    "positions": ["0", "1"],
    "column": "position",
    "structural_zeros": [[0, 1]],
}
_CELL = {"kl_divergence": 1.5, "recovery": None}
_RESULTS = {
    "metadata": {
        "experiment": "position",
        "seed": 1,
        "grid": _GRID,
        "metrics": ["kl_divergence", "recovery"],
    },
    "baseline": {"a": {}},
    "results": {"a": {"0": {"0": _CELL, "1": _CELL}}},
}


def fuzz_pairs(path: Path) -> None:
    """Read a file of pairs; questions and answers are usable if it could be read."""
    try:
        pairs = read_pairs(path)
    except PairsFileError:
        return
    for pair in pairs:
        for question in (pair.clean, pair.corrupted):
            question.text.encode()
            assert abs(question.answer) <= 2**53


def fuzz_results(path: Path) -> None:
    """Read a results file; it can be summarised if it could be read."""
    try:
        results = read_results(path.parent)
    except ResultsError:
        return
    assert all(len(values) == len(results.pair_ids) for values in results.values.values())
    if "kl_divergence" in results.values and results.metadata["seed"] == 1:
        aggregate(results, 1)


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
