import json
from types import SimpleNamespace

import pytest

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.json_lines import DataFileError
from codi_patching.data.pair_files import read_pairs
from codi_patching.data.pairs import split_equal
from codi_patching.shipped import SHIPPED_PAIRS

CLEAN = {"question": "Tom has 16.", "answer": 16}
CORRUPTED = {"question": "Tom has 18.", "answer": 18}
PREPARED = {"pair_id": "a", "clean": CLEAN, "corrupted": CORRUPTED}
RAW = [
    {"pair_id": 1, "variant": "clean", **CLEAN, "extra": [1]},
    {"pair_id": 2, "variant": "corrupted", "question": "b", "answer": "1,430.0"},
    {"pair_id": 1, "variant": "corrupted", **CORRUPTED},
    {"pair_id": 2, "variant": "clean", "question": "a", "answer": "$1430"},
]


@pytest.fixture
def write(tmp_path):
    def write(content, name="pairs.json"):
        path = tmp_path / name
        path.write_text(content if isinstance(content, str) else json.dumps(content))
        return path

    return write


def test_prepared_form(write):
    (pair,) = read_pairs(write([PREPARED]))
    assert (pair.pair_id, pair.clean.text, pair.clean.answer) == ("a", "Tom has 16.", 16.0)
    assert pair.corrupted.answer == 18.0


def test_raw_form_in_any_order_with_extra_fields(write):
    pairs = read_pairs(write(RAW))
    assert [(p.pair_id, p.clean.answer, p.corrupted.answer) for p in pairs] == [
        ("1", 16, 18),
        ("2", 1430, 1430),
    ]


@pytest.mark.parametrize("end", ["", "\n", "\n\n"])
def test_json_lines_and_a_byte_order_mark(tmp_path, end):
    path = tmp_path / "pairs.jsonl"
    text = "\n".join(json.dumps(r, ensure_ascii=False) for r in RAW) + end
    path.write_text("\ufeff" + text, encoding="utf-8")
    assert len(read_pairs(path)) == 2


@pytest.mark.parametrize(
    ("answer", "value"),
    [(18, 18), (18.0, 18), ("18.0", 18), ("-3", -3), ("1,430", 1430), ("so 2 #### 18", 18)],
)
def test_answers_are_numbers_or_their_text(write, answer, value):
    (pair,) = read_pairs(write([{**PREPARED, "clean": {**CLEAN, "answer": answer}}]))
    assert pair.clean.answer == value


def test_pairs_with_equal_answers_are_split_off_by_name(write):
    kept, dropped = split_equal(read_pairs(write(RAW)))
    assert [pair.pair_id for pair in kept] == ["1"]
    assert dropped == ["2"]


def without(key, record=PREPARED):
    return {k: v for k, v in record.items() if k != key}


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("[{", "expected a JSON list or one JSON object a line"),
        ("", "expected at least one pair"),
        ("[]", "expected at least one pair"),
        ([3], "pair 0: expected an object, got int"),
        ([without("pair_id")], "pair 0: expected pair_id to be text or a number, got None"),
        ([{**PREPARED, "pair_id": True}], "got True"),
        ([without("clean")], r"pair 0 \('a'\), clean: expected an object with question and answer"),
        ([{**PREPARED, "clean": without("question", CLEAN)}], "expected question to be text"),
        ([{**PREPARED, "clean": {**CLEAN, "question": " "}}], "expected question to be text"),
        ([{**PREPARED, "clean": {**CLEAN, "answer": "many"}}], "finite number, got 'many'"),
        ([{**PREPARED, "clean": {**CLEAN, "answer": None}}], "finite number, got None"),
        ([{**PREPARED, "clean": {**CLEAN, "answer": False}}], "finite number, got False"),
        ([{**PREPARED, "clean": {**CLEAN, "answer": 10**400}}], "finite number"),
        ('[{"pair_id": 1, "clean": {"question": "a", "answer": NaN}}]', "got nan"),
        ([PREPARED, PREPARED], r"each pair_id once, got \['a'\] again"),
        (RAW[:1], "pair '1' has no corrupted variant"),
        ([*RAW, RAW[0]], "the clean variant is there twice"),
        (
            [{**RAW[0], "variant": "other"}],
            "expected variant clean, corrupted or sibling, got 'other'",
        ),
    ],
)
def test_a_bad_file_is_one_clear_error(write, content, message):
    with pytest.raises(DataFileError, match=message):
        read_pairs(write(content))


def test_a_missing_file_names_the_argument(tmp_path):
    with pytest.raises(DataFileError, match=r"cannot be read .*set pairs"):
        read_pairs(tmp_path / "none.json")


def test_text_in_another_encoding(tmp_path):
    (tmp_path / "pairs.json").write_bytes(b'[{"pair_id": "\xff"}]')
    with pytest.raises(DataFileError, match="expected UTF-8"):
        read_pairs(tmp_path / "pairs.json")


def test_the_data_module_filters_and_says_so(write, caplog):
    data = PairsDataModule(str(write(RAW)))
    data.setup("predict")
    assert [pair.pair_id for pair in data.kept] == ["1"]
    assert data.filtered == ["2"]
    assert [p.pair_id for p in next(iter(data.predict_dataloader())).pairs] == ["1"]


def test_max_pairs_counts_after_filtering(write):
    records = [{**PREPARED, "pair_id": i} for i in "bcd"]
    equal = {**PREPARED, "clean": CORRUPTED}
    data = PairsDataModule(str(write([equal, *records])), max_pairs=2)
    data.setup("predict")
    assert [pair.pair_id for pair in data.kept] == ["b", "c"]
    with pytest.raises(ValueError, match="max_pairs of at least 1, got 0: set max_pairs"):
        PairsDataModule(max_pairs=0)


@pytest.mark.parametrize("done", [[], [0], [0, 2], [0, 1, 2]])
def test_processes_share_the_missing_batches_and_run_none_twice(write, done):
    data = PairsDataModule(
        str(write([{**PREPARED, "pair_id": str(i)} for i in range(3)])), batch_size=1
    )
    data.setup("predict")
    data.leave_out(done)
    shares = []
    for rank in range(2):
        data.trainer = SimpleNamespace(world_size=2, global_rank=rank)
        shares.append([batch.first for batch in data.predict_dataloader()])
    missing = [first for first in range(3) if first not in done]
    assert shares == [missing[0::2], missing[1::2]]


def test_only_equal_answers_is_an_error(write):
    data = PairsDataModule(str(write([{**PREPARED, "clean": CORRUPTED}])))
    with pytest.raises(DataFileError, match="all 1 have equal answers"):
        data.setup("predict")


def test_the_shipped_pairs_know_where_their_changed_number_goes():
    """Their chains do not branch: from the step that it enters it is in all that follow."""
    pairs, _ = split_equal(read_pairs(SHIPPED_PAIRS["codi-tiny"], pytest.fail))
    for pair in pairs:
        assert pair.changed_path == tuple(range(pair.changed_step, pair.num_steps + 1))
        assert pair.fields["changed_step"] == str(pair.changed_step)
