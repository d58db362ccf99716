import hashlib
import json
import math
import warnings
from types import SimpleNamespace

import pytest

from codi_patching.data import datamodule
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.json_lines import DataFileError, in_short
from codi_patching.data.pair_files import read_pairs, read_questions
from codi_patching.data.pairs import Pair, Question, as_answer, as_question, split_equal
from codi_patching.errors import InputError
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


def test_a_sign_that_ends_a_line_elsewhere_ends_no_record(tmp_path):
    path, text = tmp_path / "pairs.jsonl", "Tom has 3 pens.\u2028How many are left?"
    record = {**PREPARED, "clean": {**CLEAN, "question": text}}
    path.write_text(json.dumps(record, ensure_ascii=False))
    assert [pair.clean.text for pair in read_pairs(path)] == [text]


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


def test_texts_may_be_as_long_as_is_said(write):
    text = "x" * 99_999 + "."
    long = {"pair_id": "i" * 200, "note": "n" * 200, "more": "n" * 201}
    (pair,) = read_pairs(write([{**PREPARED, **long, "clean": {**CLEAN, "question": text}}]))
    assert (pair.pair_id, pair.clean.text) == (long["pair_id"], text)
    assert pair.fields == {"note": long["note"]}
    with pytest.raises(DataFileError, match="at most 100,000 characters, got 100,001"):
        read_pairs(write([{**PREPARED, "clean": {**CLEAN, "question": text + "x"}}]))


def test_fields_are_the_texts_and_numbers_of_a_record_and_of_the_clean_one_in_the_raw_form(write):
    more = {"level": 4, "share": 0.5, "checked": True, "source": "hand", "list": [1], "none": None}
    expected = {"level": "4", "share": "0.5", "checked": "true", "source": "hand"}
    assert read_pairs(write([{**PREPARED, **more}]))[0].fields == expected
    lines = [
        {"pair_id": "a", "variant": "corrupted", **CORRUPTED, "source": "other"},
        {"pair_id": "a", "variant": "clean", **CLEAN, **more, "group": "g"},
        {"pair_id": "a", "variant": "sibling", "question": "Tom has 17.", "answer": 17},
    ]
    (pair,) = read_pairs(write(lines))
    assert (pair.fields, pair.group) == (expected, "g")
    assert (pair.clean.answer, pair.corrupted.answer, pair.sibling.answer) == (16, 18, 17)


def test_a_sibling_may_be_none(write):
    (pair,) = read_pairs(write([{**PREPARED, "sibling": None}]))
    assert pair.sibling is None
    with pytest.raises(DataFileError, match="sibling: expected an object"):
        read_pairs(write([{**PREPARED, "sibling": "18"}]))


@pytest.mark.parametrize(("group", "read"), [("g", "g"), (7, "7"), ("", "a"), (0, "0")])
def test_groups_are_text_or_numbers_and_else_the_pairs_own(write, group, read):
    assert read_pairs(write([{**PREPARED, "group": group}]))[0].group == read


@pytest.mark.parametrize("group", [True, ["g"], None, 2.5])
def test_groups_that_are_none(write, group):
    with pytest.raises(DataFileError, match=r"pair 0 \('a'\): expected group to be text"):
        read_pairs(write([{**PREPARED, "group": group}]))


@pytest.mark.parametrize(
    ("given", "count", "unread"),
    [
        *((1, 1, 0), (100, 100, 0), (101, None, 1), (0, None, 1), (-1, None, 1), ("", None, 0)),
        *(([], None, 0), (0.5, None, 1), ("3", 3, 0)),
    ],
)
def test_numbers_of_steps(write, given, count, unread):
    said = []
    clean = {**CLEAN, "reasoning_steps": given}
    (pair,) = read_pairs(write([{**PREPARED, "clean": clean}]), said.append)
    assert (pair.num_steps, len(said)) == (count, unread)


@pytest.mark.parametrize("side", ["clean", "corrupted", "sibling"])
def test_a_chain_of_any_side_that_is_refused_leaves_the_pair_without_steps(write, side):
    record = {**PREPARED, "sibling": {"question": "Tom has 17.", "answer": 17}}
    record = {
        key: {**value, "reasoning_steps": [f"{value['answer']}={value['answer']}"]}
        if isinstance(value, dict)
        else value
        for key, value in record.items()
    }
    said = []
    (pair,) = read_pairs(write([record]), said.append)
    assert [q.num_steps for q in (pair.clean, pair.corrupted, pair.sibling)] == [1, 1, 1]
    assert not said
    record[side]["reasoning_steps"] = ["1=1"]
    (pair,) = read_pairs(write([record]), said.append)
    assert [q.num_steps for q in (pair.clean, pair.corrupted, pair.sibling)] == [None] * 3
    assert pair.clean.reasoning_steps == pair.sibling.reasoning_steps == ()
    assert said == [
        f"pairs.json: 1 pairs run without their steps: a ({side}: the last result is not the "
        "answer)"
    ]


def test_single_questions_are_read_in_order_and_steps_that_are_none_named(write, caplog):
    records = [CLEAN, {**CORRUPTED, "reasoning_steps": "add"}]
    found = read_questions(write(records), "data")
    assert [(q.text, q.answer) for q in found] == [("Tom has 16.", 16), ("Tom has 18.", 18)]
    assert "left alone in 1 records" in caplog.text
    assert "record 1: 'add'" in caplog.text
    with pytest.raises(DataFileError, match="record 1: expected question to be text"):
        read_questions(write([CLEAN, {"answer": 1}]), "data")


def test_ids_that_stand_twice_are_named_each_once(write):
    records = [{**PREPARED, "pair_id": name} for name in "abcabcdefgdefg"]
    with pytest.raises(DataFileError, match=r"got \['a', 'b', 'c', 'd', 'e'\] again"):
        read_pairs(write(records))


@pytest.mark.parametrize(
    ("count", "most", "between", "said"),
    [
        (5, {}, {}, "0; 1; 2; 3; 4"),
        (6, {}, {}, "0; 1; 2; 3; 4; and 1 more"),
        (3, {"most": 3}, {"between": ", "}, "0, 1, 2"),
        (1005, {"most": 2}, {"between": ", "}, "0, 1, and 1,003 more"),
        (0, {}, {}, ""),
    ],
)
def test_the_first_few_of_many(count, most, between, said):
    assert in_short([str(i) for i in range(count)], **most, **between) == said


def test_lists_may_begin_after_spaces_and_lines_are_counted_from_1(write):
    assert len(read_pairs(write("\n  " + json.dumps([PREPARED])))) == 1
    lines = [json.dumps({**PREPARED, "pair_id": name}) for name in "ab"]
    assert len(read_pairs(write("\n".join([lines[0], "   ", lines[1]])))) == 2
    with pytest.raises(DataFileError, match="line 3, column 1: Expecting value: set pairs"):
        read_pairs(write("\n".join([lines[0], "", "x"])))


@pytest.mark.parametrize(
    ("given", "answer"),
    [
        *((2**53, 2**53), (-(2**53), -(2**53)), ("-$5", None), ("$-5", -5), (2**53 + 2, None)),
        *((-(2**53) - 2, None), (0, 0), ("4 #### 5 #### 6", 6), (True, None), ([1], None)),
    ],
)
def test_answers_up_to_2_to_the_53(given, answer):
    if answer is None:
        with pytest.raises(InputError, match="expected answer to be"):
            as_answer(given)
    else:
        assert as_answer(given) == answer
        assert isinstance(as_answer(given), float)


def test_a_question_may_have_lines_and_tabs_and_counts_the_steps_it_has():
    question = Question("a\tb\r\nc", None, ["1+1=2", "2+1=3"], 7)
    assert math.isnan(question.answer)
    assert (question.reasoning_steps, question.num_steps) == (("1+1=2", "2+1=3"), 2)
    assert Question("a", 1, (), 7).num_steps == 7
    for odd in "\x07\x7f\x85\ud800":
        with pytest.raises(InputError, match="a control character"):
            Question(f"a\t{odd}")


def test_an_answer_that_is_typed_goes_before_a_questions_own():
    question = Question("a", 3, ("1+2=3",))
    assert as_question(question) is question
    assert as_question(question, 4).answer == 4
    assert as_question(question, 4).reasoning_steps == ("1+2=3",)
    assert question.answer == 3
    assert as_question("a", 4) == Question("a", 4)


def test_a_pair_is_its_own_group_and_its_questions_keep_their_sides():
    pair = Pair(7, "a", "b", "c")
    assert (pair.pair_id, pair.group, pair.num_steps) == ("7", "7", None)
    assert [q.text for q in (pair.clean, pair.corrupted, pair.sibling)] == ["a", "b", "c"]
    assert Pair("7", "a", "b", group="g").group == "g"
    typed = Pair.of("a", "b", 1, 2)
    assert (typed.pair_id, typed.clean.answer, typed.corrupted.answer) == ("typed", 1, 2)
    counted = Pair("7", Question("a", 1, (), 2), Question("b", 2, (), 3))
    assert (counted.num_steps, counted.changed_step, counted.changed_path) == (2, None, ())


def three_pairs(write, **options):
    data = PairsDataModule(str(write([{**PREPARED, "pair_id": i} for i in "abc"])), **options)
    data.setup("predict")
    return data


def test_batches_are_runs_of_pairs_and_begin_at_their_place(write):
    data = three_pairs(write, batch_size=2)
    assert data.batch_size == 2
    found = [(batch.first, [pair.pair_id for pair in batch.pairs]) for batch in data.batches]
    assert found == [(0, ["a", "b"]), (2, ["c"])]
    data.leave_out({0})
    assert [batch.first for batch in data.missing] == [2]
    assert [batch.first for batch in data.batches] == [0, 2]
    assert len(data.predict_dataloader()) == 1


def test_a_process_for_each_batch_and_no_more(write):
    data = three_pairs(write, batch_size=1)
    data.trainer = SimpleNamespace(world_size=3, global_rank=2)
    assert [batch.first for batch in data.predict_dataloader()] == [2]
    data.trainer.world_size = 4
    with pytest.raises(InputError, match=r"expected at most 3 processes.*of 1 pairs, got 4"):
        data.predict_dataloader()


def test_the_pairs_of_a_run_are_those_that_were_chosen_or_go_with_the_model(write):
    data = three_pairs(write)
    assert not data.by_default
    assert data.sha256 == hashlib.sha256(data.path.read_bytes()).hexdigest()
    names = [None, "shipped", *SHIPPED_PAIRS]
    found = [PairsDataModule(name) for name in names]
    assert [each.by_default for each in found] == [name is None for name in names]
    tiny = SHIPPED_PAIRS["codi-tiny"]
    assert [each.path for each in found] == [tiny, tiny, *SHIPPED_PAIRS.values()]
    for name, path in SHIPPED_PAIRS.items():
        found[0].trainer = SimpleNamespace(lightning_module=SimpleNamespace(checkpoint=name))
        assert found[0].path == path


def test_what_is_left_out_and_what_is_to_run_is_counted(write, monkeypatch):
    told = []
    monkeypatch.setattr(datamodule, "rank_zero_info", lambda line, *all: told.append(line % all))
    alike = {**PREPARED, "pair_id": "alike", "clean": PREPARED["corrupted"]}
    other = {**PREPARED, "pair_id": "other", "clean": {"question": "7 pens?", "answer": 3}}
    PairsDataModule(str(write([PREPARED, alike, other])), max_pairs=1).setup("predict")
    equal = "1 left out because both answers are equal (alike), 1 to run"
    assert told[-1] == f"pairs.json: 3 pairs, {equal}"


def test_all_processes_have_as_many_pairs_a_batch_as_the_first(write, monkeypatch):
    asked = []
    monkeypatch.setattr(datamodule, "pairs_at_once", lambda *all: asked.append(all) or 6)
    data = PairsDataModule(str(write([{**PREPARED, "pair_id": n} for n in "abc"])), max_pairs=2)
    strategy = SimpleNamespace(root_device="here", broadcast=lambda own: own - 2)
    data.trainer = SimpleNamespace(strategy=strategy, world_size=3)
    data.setup("predict")
    assert (asked, data.batch_size) == ([("here", 2, 3)], 4)


def test_what_a_model_reads_otherwise_is_said_once_and_max_pairs_still_holds(write):
    texts = {"p": ("a 1", "b 1"), "q": ("c 1", "d 1"), "r": ("A 1", "e 1")}
    records = [
        {
            "pair_id": name,
            "clean": {"question": clean, "answer": 1},
            "corrupted": {"question": corrupted, "answer": 2},
            "sibling": {"question": f"{clean} and 5", "answer": 3},
        }
        for name, (clean, corrupted) in texts.items()
    ]
    data = PairsDataModule(str(write(records)), max_pairs=2)
    data.setup("predict")
    assert [pair.group for pair in data.usable] == ["p", "q", "p"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        data.read_as(lambda text: text[0].lower().replace("d", "b"))
    assert [(pair.pair_id, pair.group) for pair in data.kept] == [("p", "p"), ("q", "p")]
    assert [pair.group for pair in data.usable] == ["p", "p", "p"]
    assert all(pair.sibling is None for pair in data.usable)
    said = [str(each.message) for each in caught]
    assert [line.partition(" ")[2].partition(",")[0] for line in said] == [
        "siblings left out",
        "pairs share their questions; each of 1 groups of them counts as one: p",
    ]
