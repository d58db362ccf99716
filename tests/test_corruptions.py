"""Random damage to any file of a results folder: seen, or without any consequence to a number.

Without a model: the records of a run are simulated, and so is the run that goes on. Each seed is
one damage of one file, of a finished run that is read or of one that is resumed.
"""

import random
import shutil
import warnings
from dataclasses import replace

import numpy as np
import pytest
import torch
from lens_maker import lens_records, lens_run
from results_maker import records_of, run_of

from codi_patching.analysis.validity import check_unchanged
from codi_patching.results.description import Grid, ResultsError
from codi_patching.results.folder import prepare_folder
from codi_patching.results.layout import CHECKSUMS
from codi_patching.results.pair_descriptions import AttentionPair, VerifiedLook
from codi_patching.results.read import read_results
from codi_patching.results.records import PairRecord
from codi_patching.results.store import Store
from codi_patching.results.write import write_run

READERS, ATTENDED = ("bot", "0", "readout 0"), ("first token", "the number", "bot", "0", "readout")


def attention():
    run = replace(
        run_of("attention"), grid=Grid(("0", "1"), "position", ("0",)), metrics=(), num_latents=1,
        readers=READERS, attended=ATTENDED,
    )  # fmt: skip
    rng, records = np.random.default_rng(0), []
    for number in range(4):
        heads = rng.dirichlet(np.ones(5), (3, 2, 4))
        mean, strongest = heads[1, 1].mean(0), heads[1, 1].max(0)
        look = VerifiedLook("0", "1", 2, *map(tuple, (heads[1, 1, 2], mean, strongest)))
        records.append(
            PairRecord(
                f"p{number}",
                AttentionPair("?", (1, 1, 1, 1, 2), "", 2, (look,)),
                {"attention": heads.mean(2), "strongest": heads.max(2)},
                activations=torch.tensor(heads, dtype=torch.float32),
            )
        )
    return run, records


def iterative():
    run = run_of("iterative")
    records = records_of(run, pairs=4)
    records[0].trace = [{"layer": "0", "norm": 1.5}]
    for record in records:
        record.activations = torch.ones(4, 2, 8)
    return run, records


KINDS = {
    "position": lambda: (run_of(), records_of(run_of(), pairs=4)),
    "iterative": iterative,
    "lens": lambda: (lens_run(), lens_records(pairs=4)),
    "attention": attention,
}


def go_on(folder, run, records, until=4):
    """Run a run, or what is left of it, a pair a batch; to its end if all pairs are run."""
    store = Store(folder)
    folder.mkdir(exist_ok=True)
    _, finished, _ = prepare_folder(store, run, overwrite=False)
    if finished:
        return
    kept = store.check()
    for place, record in enumerate(records[:until]):
        if kept.get(place) != record.pair_id:
            store.keep(place, [record])
    if until == len(records):
        write_run(folder, store)
        store.remove()


def flip(rng, content):
    place = rng.randrange(len(content))
    return content[:place] + bytes([content[place] ^ 1 << rng.randrange(8)]) + content[place + 1 :]


def change_a_digit(rng, content):
    places = [place for place, byte in enumerate(content) if chr(byte).isdecimal()]
    if not places:
        return flip(rng, content)
    place = rng.choice(places)
    digit = (content[place] - 48 + rng.randint(1, 9)) % 10 + 48
    return content[:place] + bytes([digit]) + content[place + 1 :]


DAMAGES = {
    "flip": flip,
    "digit": change_a_digit,
    "cut": lambda rng, content: content[: rng.randrange(len(content))],
    "junk": lambda rng, content: rng.randbytes(rng.randint(1, 300)),
    "empty": lambda rng, content: b"",
    "line twice": lambda rng, content: content + content[content.rfind(b"\n", 0, -1) + 1 :],
}


def damage(rng, path, others):
    """Do something to a file; says what."""
    what = rng.choice([*DAMAGES, "delete", "another's", "a folder"])
    if what in DAMAGES:
        path.write_bytes(DAMAGES[what](rng, path.read_bytes()))
    elif what == "another's":
        path.write_bytes(rng.choice(others).read_bytes())
    else:
        path.unlink()
        if what == "a folder":
            path.mkdir()
    return f"{what} {path.name}"


def files(folder):
    return sorted(path for path in folder.rglob("*") if path.is_file())


def measured(folder):
    return {p.name: p.read_bytes() for p in files(folder) if p.name != CHECKSUMS}


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """Of each kind a finished run and one of which half is kept."""
    root = tmp_path_factory.mktemp("corruptions")
    for name, kind in KINDS.items():
        run, records = kind()
        run = replace(run, num_pairs=len(records))
        go_on(root / f"whole_{name}", run, records)
        go_on(root / f"half_{name}", run, records, until=2)
    return root


@pytest.mark.parametrize("seed", range(40))
def test_random_damage_changes_no_number_unnoticed(folders, tmp_path, seed):
    rng = random.Random(seed)
    kind, begun = list(KINDS)[seed % 4], rng.random() < 0.5
    whole, folder = folders / f"whole_{kind}", tmp_path / "out"
    shutil.copytree(folders / f"half_{kind}" if begun else whole, folder)
    what = damage(rng, rng.choice(files(folder)), files(folders))
    run, records = KINDS[kind]()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # which name what is run again
        if not refused(lambda: go_on(folder, replace(run, num_pairs=len(records)), records)):
            assert measured(folder) == measured(whole), what
        if not begun:
            assert_read_the_same(folder, whole, what)


def refused(action):
    """Whether an action is refused, which is one line."""
    lines = 0
    try:
        action()
    except ResultsError as error:
        lines = len(str(error).splitlines())
    assert lines <= 1
    return bool(lines)


def assert_read_the_same(folder, whole, what):
    """Unless it is refused or said to be changed."""
    if refused(lambda: read_results(folder)):
        return
    data, expected = read_results(folder), read_results(whole)
    if check_unchanged(data).status == "pass":
        assert data.attrs["run"] == expected.attrs["run"], what
        for name in expected.variables:
            np.testing.assert_equal(
                data[name].values.tolist(), expected[name].values.tolist(), what
            )
