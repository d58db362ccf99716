"""What a model answers after thoughts of its own, of zeros and of others, by hand."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from conftest import random_model
from tokenizers import AddedToken, Tokenizer, models, normalizers, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from codi_patching.errors import InputError
from codi_patching.models.accuracy import (
    answer_start,
    answers_by_thoughts,
    is_correct,
    latent_answer_ids,
    latent_answers,
    read_out_ids,
    reasoned_answers,
    why_not_asked,
)
from codi_patching.models.interchange import Interchange, interchange_hits, interchanged_answers
from codi_patching.models.lens import token_text
from codi_patching.models.number_text import first_number, parse_number
from codi_patching.models.strict_json import parse_json, read_object
from codi_patching.models.vocabulary import control_tokens, unknown_words

ASKED = ["Tom has 16 pears. He eats 3.", "Tom has 9.", "Tom buys 2 more pears."]


@pytest.fixture(scope="module")
def silent():
    """A model that never ends what it says."""
    model = random_model()
    model.settings = replace(model.settings, eos_id=10**6)
    return model


def test_answers_begin_after_eot_and_the_prefix(silent):
    ids = silent.tokenizer("The answer is:", add_special_tokens=False)["input_ids"]
    assert answer_start(silent) == [*silent.settings.eot_ids, *ids]
    bare = random_model()
    bare.settings = replace(bare.settings, eot_ids=(3, 1), answer_prefix="")
    assert answer_start(bare) == [3, 1]


def test_a_question_is_asked_as_long_as_its_answer_fits_to_the_last_word():
    """Of which the last is said and not read: prompt, K thoughts, eot, prefix, two tokens of it."""
    model = random_model()
    length = len(model.prompt_ids(ASKED[0])) + model.num_latents + len(answer_start(model)) + 2
    assert (len(answer_start(model)), model.num_latents) == (5, 3)
    for room in (length, length - 1):
        model.backbone.config.max_position_embeddings = room
        said = why_not_asked(model, ASKED[0], 3)
        told = f"expected at most {room} tokens from prompt to answer, the model's context, got "
        assert said == (None if room == length else f"{told}{length}")
    assert "got an empty one" in why_not_asked(model, " ", 3)


def said_after(model, question, given, length=8):
    """Greedy tokens after the prompt and the given thoughts, over whole sequences."""
    prompt = model.embed(torch.tensor(model.prompt_ids(question)))
    ids = answer_start(model)
    for _ in range(length):
        sequence = torch.cat([prompt, *given, model.embed(torch.tensor(ids))])
        state = model.backbone.model(inputs_embeds=sequence[None]).last_hidden_state[0, -1]
        ids.append(int(model.logits(state[None]).argmax()))
    return model.tokenizer.decode(ids[-length:], skip_special_tokens=True)


def test_answers_after_every_kind_of_thoughts_by_whole_sequences():
    model = random_model(num_layers=1, num_latents=2)
    model.settings = replace(model.settings, eos_id=len(model.tokenizer) - 1)  # is not said
    thoughts = [model.think(*model.encode([model.prompt_ids(q)]))[0] for q in ASKED]
    zeros = torch.zeros_like(thoughts[0])
    own = [said_after(model, q, z) for q, z in zip(ASKED, thoughts, strict=True)]
    others = [said_after(model, q, z) for q, z in zip(ASKED, thoughts[1:] + thoughts[:1])]
    nothing = [said_after(model, q, zeros) for q in ASKED]
    assert latent_answers(model, ASKED) == own
    assert latent_answers(model, ASKED, "zeroed") == nothing
    assert latent_answers(model, ASKED, "exchanged") == others
    with pytest.raises(InputError, match="at least 2 questions"):
        latent_answers(model, ASKED[:1], "exchanged")
    found = answers_by_thoughts(model, ASKED)
    assert found["own"] == found["thoughts_2"] == own[:2]
    assert (found["zeroed"], found["exchanged"]) == (nothing[:2], others[:2])
    for number in range(2):
        expected = [said_after(model, q, z[:, :number]) for q, z in zip(ASKED[:2], thoughts)]
        assert found[f"thoughts_{number}"] == expected
    assert list(found) == ["own", "zeroed", "exchanged", *(f"thoughts_{n}" for n in range(3))]


@pytest.mark.parametrize("place", [0, 1, 3])
def test_an_answer_ends_before_eos_whatever_the_others_say(place):
    model = random_model(num_layers=1)
    model.settings = replace(model.settings, eos_id=len(model.tokenizer) - 1)
    whole = [latent_answer_ids(model, [question], 5)[0] for question in ASKED]
    assert {len(ids) for ids in whole} == {5}
    model.settings = replace(model.settings, eos_id=whole[0][place])
    alone = [latent_answer_ids(model, [question], 5)[0] for question in ASKED]
    ended = [ids[: ids.index(whole[0][place])] if whole[0][place] in ids else ids for ids in whole]
    assert alone == ended
    prompts = [model.prompt_ids(question) for question in ASKED]
    context = model.think(*model.encode(prompts))[2]
    assert read_out_ids(model, context, 5) == latent_answer_ids(model, ASKED, 5) == ended


def test_reasoning_is_read_after_the_question_without_bot():
    """Greedily over whole sequences; the prefix is set to the first token that is said."""
    model, question, length = random_model(num_layers=1, seed=2), ASKED[0], 12
    ids = model.question_ids(question)
    read = len(ids)
    for _ in range(length):
        state = model.backbone.model(torch.tensor([ids])).last_hidden_state[0, -1]
        ids.append(int(model.logits(state[None]).argmax()))
    assert model.tokenizer.decode(ids[read]) == "."
    assert model.settings.eos_id not in ids[read:]
    said = "".join(model.tokenizer.decode(ids[read + 1 :]).split())
    model.settings = replace(model.settings, answer_prefix=" . ")
    assert reasoned_answers(model, [question], length) == [said]
    model.settings = replace(model.settings, answer_prefix="not said")
    assert reasoned_answers(model, [question], length) == [""]
    model.settings = replace(model.settings, answer_prefix=" . ")
    model.backbone.config.max_position_embeddings = read + 2
    short = "".join(model.tokenizer.decode(ids[read + 1 : read + 3]).split())
    assert reasoned_answers(model, [question], length) == [short]


def test_an_answer_is_right_to_a_millionth():
    assert is_correct("18.0000009", 18.0)
    assert is_correct("-0.5", -0.5)
    assert not is_correct("18.000002", 18.0)
    assert not is_correct("-18", 18.0)


def test_an_intervention_hits_where_it_gives_the_number_that_was_expected():
    model = random_model(num_layers=1)
    texts = interchanged_answers(model, ASKED, ASKED[::-1], 1)
    changes, expected = [], []
    for base, source, text in zip(ASKED, ASKED[::-1], texts, strict=True):
        number = first_number(text)
        for off in (0, 1):
            wanted = 7.0 if number is None else float(number) + off
            changes.append(Interchange(base, source, 1, 2, wanted))
            expected.append(number is not None and not off)
    assert interchange_hits(model, changes, batch_size=4) == expected


@pytest.mark.parametrize(("length", "read"), [(60, True), (61, False)])
def test_numbers_of_60_characters_are_read(length, read):
    assert (parse_number("1" * length) is not None) == read


def test_json_of_an_object_in_which_no_key_stands_twice(tmp_path):
    path = tmp_path / "x.json"
    path.write_text('{"a": {"b": 1, "c": "é"}, "b": [1, 2]}', encoding="utf-8")
    assert read_object(path) == {"a": {"b": 1, "c": "é"}, "b": [1, 2]}
    assert parse_json("[1]") == [1]
    path.write_text("[1]")
    with pytest.raises(ValueError, match="expected an object, got list"):
        read_object(path)
    with pytest.raises(ValueError, match="has the key 'c' twice"):
        parse_json('{"a": {"b": 1, "c": 1, "d": 1, "c": 1}}')


def test_words_that_a_tokenizer_spells_are_named_once_and_in_order(silent):
    text = "Zoë has 16 pears and foxes. Zoë eats 3 foxes."
    assert unknown_words(silent.tokenizer, text) == ["Zoë", "and", "foxes"]
    assert unknown_words(silent.tokenizer, "Tom has 16 pears.") == []
    assert unknown_words(silent.tokenizer, "Tom has 116.") == ["116"]


def tokenizer_of(model, before=None, unk=None, control=()):
    """A tokenizer of a model of the tokenizers library."""
    backend = Tokenizer(model)
    backend.pre_tokenizer = before or pre_tokenizers.Whitespace()
    made = PreTrainedTokenizerFast(tokenizer_object=backend, unk_token=unk)
    made.add_tokens(list(control))
    return made


LETTERS = {token: place for place, token in enumerate(["<unk>", "a", "b", "ab", "▁", "▁ab"])}
BYTES = {f"<0x{byte:02X}>": len(LETTERS) + byte for byte in range(256)}


@pytest.mark.parametrize(
    ("model", "before", "unk"),
    [
        (models.WordLevel({"<unk>": 0, "ab": 1}, unk_token="<unk>"), None, "<unk>"),
        (models.BPE(LETTERS, [("a", "b")], unk_token="<unk>"), None, "<unk>"),
        (
            models.BPE(LETTERS | BYTES, [("a", "b"), ("▁", "ab")], byte_fallback=True),
            pre_tokenizers.Metaspace(),
            None,
        ),
    ],
    ids=["whole words", "letters", "bytes"],
)
def test_words_of_unknown_tokens_and_bytes_are_named_whole(model, before, unk):
    tokenizer = tokenizer_of(model, before, unk)
    assert unknown_words(tokenizer, "ab aé ab ü") == ["aé", "ü"]
    assert unknown_words(tokenizer, "ab ab") == []


def test_control_tokens_are_special_or_marks_that_a_text_names_or_becomes():
    control = [
        AddedToken("END", special=True),
        AddedToken("<call>", single_word=True),
        AddedToken("[go]", normalized=True),
        "bread",
    ]
    words = models.WordLevel({"<unk>": 0, "ab": 1}, unk_token="<unk>")
    tokenizer = tokenizer_of(words, unk="<unk>", control=control)
    tokenizer.backend_tokenizer.normalizer = normalizers.Lowercase()
    assert control_tokens(tokenizer, "ab END ab") == ["END"]
    assert control_tokens(tokenizer, "ab bread x") == []  # x is unknown, and names no token
    assert control_tokens(tokenizer, "x <unk>") == ["<unk>"]
    assert control_tokens(tokenizer, "ab<call>ab") == ["<call>"]  # named, though it stays text
    assert control_tokens(tokenizer, "ab [GO]") == ["[go]"]  # not named, but it would become one


def test_a_token_that_is_all_space_is_told_by_its_name():
    words = models.WordLevel({"<unk>": 0, "\u2581x": 1, " x ": 2, " \n": 3}, unk_token="<unk>")
    model = SimpleNamespace(tokenizer=tokenizer_of(words, unk="<unk>"))
    assert [token_text(model, token) for token in (2, 3)] == ["x", " \n"]
