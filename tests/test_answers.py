import pytest
from conftest import WORDS
from tokenizers import Regex, Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from codi_patching.models.accuracy import is_correct
from codi_patching.models.answers import PairError, answer_tokens, build_readout, format_answer
from codi_patching.training.codi_tiny import build_tokenizer

PREFIX = "The answer is:"


def byte_level(pattern: str, *words: str) -> PreTrainedTokenizerFast:
    """A byte-level tokenizer that knows whole `words` and splits text by `pattern`."""
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    tokens = [*sorted(alphabet), *(w.replace(" ", "Ġ") for w in words)]
    vocab = {token: index for index, token in enumerate(dict.fromkeys(tokens))}
    tokenizer = Tokenizer(models.BPE(vocab=vocab, merges=[], ignore_merges=True))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(pattern), behavior="isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer)


@pytest.fixture
def llama():
    """Digits apart from the space before them, as in Llama-3."""
    words = ["The", " answer", " is", ":", " ", "18", "143", "0", "1"]
    return byte_level(r"\d{1,3}|\s(?=\d)| ?[^\s\d:]+|:", *words)


@pytest.fixture
def gpt2():
    """The space belongs to the number, as in GPT-2."""
    return byte_level(r" ?\d+| ?[^\s\d:]+|:", "The", " answer", " is", ":", " 18", " 1430")


def names(tokenizer, ids):
    return tokenizer.convert_ids_to_tokens(ids)


def test_llama_style_answer_is_the_number_without_its_space(llama):
    before, answer = answer_tokens(llama, PREFIX, "18")
    assert names(llama, before) == ["The", "Ġanswer", "Ġis", ":", "Ġ"]
    assert names(llama, answer) == ["18"]


def test_gpt2_style_answer_is_one_token_with_its_space(gpt2):
    before, answer = answer_tokens(gpt2, PREFIX, "18")
    assert names(gpt2, before) == ["The", "Ġanswer", "Ġis", ":"]
    assert names(gpt2, answer) == ["Ġ18"]


def test_answers_of_several_tokens_and_equal_first_tokens(llama):
    readout = build_readout(llama, (7,), PREFIX, (1430.0, 1431.0))
    assert [names(llama, ids) for ids in readout.answers] == [["143", "0"], ["143", "1"]]
    assert readout.prefix[0] == 7
    assert names(llama, readout.prefix[1:]) == ["The", "Ġanswer", "Ġis", ":", "Ġ"]


def test_word_level_answers():
    tokenizer = build_tokenizer([*WORDS, "18"])
    assert names(tokenizer, answer_tokens(tokenizer, PREFIX, "18")[1]) == ["18"]
    assert names(tokenizer, answer_tokens(tokenizer, PREFIX, "-18.5")[1]) == ["-", "18", ".", "5"]


def test_a_token_across_prefix_and_answer_is_an_error():
    merged = byte_level(r": \d+| ?[^\s\d:]+", "The", " answer", " is", ": 18")
    with pytest.raises(PairError, match=r"token of its own.*got the token.*set answer_prefix"):
        answer_tokens(merged, PREFIX, "18")


def test_a_minus_that_takes_the_space_is_read_from_where_the_answers_part():
    """As in Llama-3: 5 stands after a space of its own, -5 does not."""
    words = ["The", " answer", " is", ":", " ", " -", "5", "18"]
    minus = byte_level(r"\d{1,3}| ?-|\s(?=\d)| ?[^\s\d:-]+|:", *words)
    readout = build_readout(minus, (7,), PREFIX, (18.0, -5.0))
    assert names(minus, readout.prefix[1:]) == ["The", "Ġanswer", "Ġis", ":"]
    assert [names(minus, ids) for ids in readout.answers] == [["Ġ", "18"], ["Ġ-", "5"]]
    same = build_readout(minus, (7,), PREFIX, (-18.0, -5.0))
    assert [names(minus, ids) for ids in same.answers] == [["Ġ-", "18"], ["Ġ-", "5"]]


def test_a_number_that_takes_the_space_beside_one_that_does_not():
    mixed = byte_level(r" ?18|\s(?=\d)|\d+| ?[^\s\d:]+|:", "The", " answer", " is", ":", " 18")
    readout = build_readout(mixed, (7,), PREFIX, (18.0, 19.0))
    assert [names(mixed, ids) for ids in readout.answers] == [["Ġ18"], ["Ġ", "1", "9"]]


def test_a_prefix_of_other_tokens_before_one_of_the_answers_is_an_error():
    merged = byte_level(r":(?= 18)| is:(?= 19)| ?[^\s\d:]+|\s|\d+", "The", " answer", " is", ":")
    with pytest.raises(PairError, match="expected the same tokens between"):
        build_readout(merged, (7,), PREFIX, (18.0, 19.0))


@pytest.mark.parametrize(
    ("value", "text"),
    [(18.0, "18"), (-3, "-3"), (0.5, "0.5"), (1430.0, "1430"), (1e-7, "0.0000001"), (0.0, "0")],
)
def test_format_answer(value, text):
    assert format_answer(value) == text


def test_is_correct():
    assert is_correct("18", 18.0)
    assert not is_correct("19", 18.0)
    assert not is_correct("", 18.0)
