from dataclasses import replace

import pytest
import torch
from conftest import random_model

from codi_patching.errors import InputError
from codi_patching.measuring.prompts import Prompts
from codi_patching.models import codi
from codi_patching.models import head as head_module
from codi_patching.models.accuracy import latent_answers
from codi_patching.models.answers import PairError
from codi_patching.models.context import pad_left
from codi_patching.models.families import cache_argument
from codi_patching.models.projections import build_projection
from codi_patching.models.settings import CodiSettings

LONG, SHORT = "Tom has 16 pears. He eats 3.", "Tom has 5."


def test_prompt_starts_with_bos_and_ends_with_bot(model):
    ids = model.prompt_ids(LONG)
    assert ids[0] == model.tokenizer.bos_token_id
    assert ids[-1] == model.settings.bot_ids[-1]
    assert model.tokenizer.convert_ids_to_tokens(ids[1:4]) == ["Tom", "has", "16"]


@pytest.mark.parametrize(
    ("question", "read"),
    [(" Tom  has 5. ", "Tom has 5."), ("a   b", "a  b"), ("a    b", "a  b"), ("a     b", "a   b")],
)
def test_the_prompts_text_is_that_of_codis_own_code(model, monkeypatch, question, read):
    """`example["question"].strip().replace("  ", " ")`, once: two of three spaces stay."""
    texts = []
    monkeypatch.setattr(model, "tokenizer", SimpleTokenizer(texts))
    monkeypatch.setattr("codi_patching.models.codi.control_tokens", lambda *_: [])
    model.prompt_ids(question)
    assert texts == [read]


class SimpleTokenizer:
    """Notes what it is given."""

    def __init__(self, texts):
        self.texts = texts

    def __call__(self, text):
        self.texts.append(text)
        return {"input_ids": [1]}


@pytest.mark.parametrize(
    ("question", "message"),
    [
        ("  ", "expected a question with text"),
        ("Tom<eos> has 5.", "expected a question in words, got control tokens: <eos>"),
        ("<bos>Tom has 5.<bot>", "got control tokens: <bos>, <bot>"),
    ],
)
def test_questions_that_are_none_are_refused(model, question, message):
    with pytest.raises(PairError, match=message):
        model.prompt_ids(question)


def test_no_more_tokens_than_the_context_has_enter_the_model(model):
    """Whatever enters: a prompt, thoughts, or what is read and spoken after them."""
    prompt = model.prompt_ids(LONG)
    model.backbone.config.max_position_embeddings = len(prompt) + model.num_latents
    hidden, start = model.encode([prompt])
    _, _, context = model.think(hidden, start)
    with pytest.raises(PairError, match=f"at most {len(prompt) + 3} tokens .* context, got "):
        model.read(context, torch.tensor([[7]]))
    with pytest.raises(PairError, match="the model's context, got"):
        model.encode([prompt * 2])


def test_words_outside_the_vocabulary_become_characters_and_bytes_never_unknown(model):
    tokens = model.tokenizer.convert_ids_to_tokens(model.question_ids("Zoë 1430"))
    assert tokens == ["<bos>", "Z", "o", "<0xC3>", "<0xAB>", "1", "4", "3", "0"]


def test_thoughts_are_the_projected_hidden_states_not_tokens(model):
    """Step by step over whole sequences, without a cache."""
    prompt = torch.tensor([model.prompt_ids(LONG)])
    sequence = model.embed(prompt)
    expected = []
    for _ in range(model.num_latents):
        hidden = model.backbone.model(inputs_embeds=sequence).last_hidden_state[:, -1]
        thought = model.prj(hidden)
        expected.append(thought)
        sequence = torch.cat([sequence, thought.unsqueeze(1)], dim=1)
    thoughts, _, context = model.think(*model.encode(prompt.tolist()))
    torch.testing.assert_close(thoughts, torch.stack(expected, dim=1), rtol=0, atol=1e-12)
    assert context.length == prompt.shape[1] + model.num_latents


@pytest.mark.parametrize("num_latents", [1, 2, 7])
def test_any_number_of_latents(num_latents):
    model = random_model(num_latents=num_latents)
    thoughts, states, _ = model.think(*model.encode([model.prompt_ids(LONG)]))
    assert thoughts.shape == states.shape == (1, num_latents, 32)


def test_eos_stands_before_bot_in_the_prompt_and_after_eot_in_the_readout(model, pair):
    """As published code does with models trained so; `--model.prompt_eos`."""
    eos, bot, eot = 1, 2, 3
    model.settings = replace(model.settings, bot_ids=(eos, bot), eot_ids=(eot, eos))
    for ids, readout in Prompts(model, "denoising").of_pair(pair):
        assert ids[-2:] == [eos, bot]
        assert readout.prefix[:2] == (eot, eos)
        prefix = model.tokenizer.convert_ids_to_tokens(readout.prefix[2:])
        assert prefix == ["The", "answer", "is", ":"]


def test_the_first_token_after_the_thoughts_ends_them():
    assert CodiSettings(num_latents=1, bot_ids=(1,), eot_ids=(2, 5), eos_id=5).eot_id == 2


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"num_latents": 0}, r"at least 1 latent.*num_latents"),
        ({"bot_ids": ()}, "bot_ids to hold at least one token"),
        ({"eot_ids": ()}, "eot_ids to hold at least one token"),
        ({"answer_prefix": "\ud83d"}, "answer_prefix of whole characters, got half of one"),
        ({"question_suffix": "\ude00"}, "question_suffix of whole characters, got half of one"),
    ],
    ids=str,
)
def test_settings_of_no_model_are_refused(changed, expected):
    settings = {"num_latents": 1, "bot_ids": (1,), "eot_ids": (2,), "eos_id": 3}
    with pytest.raises(InputError, match=f"expected {expected}"):
        CodiSettings(**{**settings, **changed})


def test_left_padded_prompts_in_a_batch_equal_single_ones_through_the_thoughts(model):
    prompts = [model.prompt_ids(LONG), model.prompt_ids(SHORT)]
    batch, _, context = model.think(*model.encode(prompts))
    readout = torch.tensor([[model.settings.eot_id, 7]] * 2)
    read, _ = model.read(context, readout)
    for row, prompt in enumerate(prompts):
        single, _, alone = model.think(*model.encode([prompt]))
        torch.testing.assert_close(batch[row], single[0], rtol=0, atol=1e-10)
        hidden, _ = model.read(alone, readout[:1])
        torch.testing.assert_close(read[row], hidden[0], rtol=0, atol=1e-10)


def test_a_context_is_left_as_it_was(model):
    hidden, context = model.encode([model.prompt_ids(LONG)])
    before = [layer.keys.clone() for layer in context.cache.layers]
    first, _, _ = model.think(hidden, context)
    again, _, _ = model.think(hidden, context)
    assert torch.equal(first, again)
    for layer, keys in zip(context.cache.layers, before, strict=True):
        assert torch.equal(layer.keys, keys)
    with pytest.raises(ValueError, match="1 row"):
        context.expand(2).expand(4)


@pytest.mark.parametrize("rows", [[0], [1], [1, 0]])
def test_some_rows_of_a_context(model, rows):
    hidden, context = model.encode([model.prompt_ids(LONG), model.prompt_ids(SHORT)])
    both, _, _ = model.think(hidden, context)
    some, _, _ = model.think(hidden[rows], context.take(torch.tensor(rows)))
    torch.testing.assert_close(some, both[rows], rtol=0, atol=1e-10)


def test_pad_left():
    ids, mask = pad_left([[5, 6, 7], [8]], pad_id=0)
    assert ids.tolist() == [[5, 6, 7], [0, 0, 8]]
    assert mask.tolist() == [[1, 1, 1], [0, 0, 1]]


def test_an_answer_that_the_context_cuts_off_is_refused(model, monkeypatch):
    """Prompt, K thoughts, eot and prefix fit exactly: one token can be said, which is not read."""
    read = len(model.prompt_ids("Tom has 3.")) + model.num_latents + 1 + 4
    monkeypatch.setattr(model, "settings", replace(model.settings, eos_id=9))  # is not said
    for room, fits in ((read - 1, False), (read, False), (read + 2, True)):
        model.backbone.config.max_position_embeddings = room
        if fits:
            assert latent_answers(model, ["Tom has 3."], max_tokens=3)
        else:
            with pytest.raises(PairError, match=f"at most {room} tokens from prompt to answer"):
                latent_answers(model, ["Tom has 3."], max_tokens=3)
    model.backbone.config.max_position_embeddings = read
    assert latent_answers(model, ["Tom has 3."], max_tokens=1)


def test_keys_and_values_go_to_a_decoder_under_its_own_name_for_them(model, monkeypatch):
    """A name that it takes and does not read would run every token without those before it."""

    class Older(torch.nn.Module):
        def forward(self, inputs_embeds=None, past_key_values=None, **kwargs): ...

    class Newer(torch.nn.Module):
        def forward(self, inputs_embeds=None, cache=None, **kwargs): ...

    assert (cache_argument(Older), cache_argument(Newer)) == ("past_key_values", "cache")
    monkeypatch.setattr(codi, "cache_argument", lambda decoder: "name_of_another_version")
    with pytest.raises(RuntimeError, match=r"expected LlamaModel to keep \d+ tokens' keys and"):
        model.encode([model.prompt_ids("Tom has 5.")])


@pytest.mark.parametrize("rows", [1, 3, 4, 5])
@pytest.mark.parametrize("at_once", [7, 512])
def test_logits_are_products_with_the_head_in_float32_at_least(model, monkeypatch, rows, at_once):
    monkeypatch.setattr(head_module, "_CPU_ROWS", at_once)
    head = model.backbone.get_output_embeddings().weight
    hidden = torch.linspace(-1, 1, rows * 2 * 32, dtype=torch.float64).view(rows, 2, 32)
    torch.testing.assert_close(model.logits(hidden), hidden @ head.T, rtol=0, atol=1e-12)
    half = model.to(torch.bfloat16).logits(hidden.to(torch.bfloat16))
    assert half.dtype == torch.float32
    exact = hidden.to(torch.bfloat16).double() @ head.to(torch.bfloat16).double().T
    torch.testing.assert_close(half.double(), exact, rtol=0, atol=1e-4)


def test_gradients_go_through_logits_of_bf16(model, monkeypatch):
    """Pieces of the head are not written over where a backward pass reads them again."""
    monkeypatch.setattr(head_module, "_CPU_ROWS", 7)
    model.to(torch.bfloat16)
    hidden = torch.ones(1, 32, dtype=torch.bfloat16, requires_grad=True)
    model.logits(hidden).sum().backward()
    expected = model.backbone.get_output_embeddings().weight.float().sum(0)
    torch.testing.assert_close(hidden.grad[0].float(), expected, rtol=0.02, atol=0.05)


def test_bf16_products_are_for_bf16_alone_and_end_with_it(model):
    setting = torch.backends.mkldnn.matmul
    before = setting.fp32_precision
    for dtype, inside in ((torch.bfloat16, "bf16"), (torch.float16, before)):
        with head_module._bf16_products(torch.zeros(1, dtype=dtype)):
            assert setting.fp32_precision == inside
        assert setting.fp32_precision == before


def test_questions_as_they_are_and_with_a_suffix(model):
    model.settings = replace(model.settings, question_suffix="!")
    assert model.question_text(" a  b ") == "a b!"
    model.settings = replace(model.settings, raw_question=True)
    assert model.question_text(" a  b ") == " a  b !"


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradient_checkpointing_is_refused_in_training_mode_alone(model, training, checkpointing):
    model.train(training)
    model.backbone.model.gradient_checkpointing = checkpointing
    if training and checkpointing:
        with pytest.raises(ValueError, match="with gradient checkpointing in training mode"):
            model.check_mode()
    else:
        model.check_mode()


def test_pause_vectors_stand_at_their_positions_and_feed_nothing_back():
    plain = random_model()
    assert plain.feeds_back
    assert (plain.effective("recomputed"), plain.effective("frozen")) == ("recomputed", "frozen")
    vectors = codi.PauseVectors(3, 32).double()
    with torch.no_grad():
        vectors.pause.copy_(torch.arange(3.0)[:, None].expand(3, 32))
    model = codi.CodiModel(plain.backbone, vectors, plain.tokenizer, plain.settings)
    assert not model.feeds_back
    assert model.effective("recomputed") == "frozen"
    hidden = torch.zeros(2, 32, dtype=torch.float64)
    assert torch.equal(model.next_thought(hidden, 2), hidden + 2)
    with pytest.raises(ValueError, match="expected the position of a thought"):
        model.next_thought(hidden)
    model.check_latents(3)
    with pytest.raises(ValueError, match="at most 3 latent thoughts"):
        model.check_latents(4)


def test_only_prompts_of_several_lengths_are_padded(model):
    ids = model.prompt_ids(LONG)
    hidden, context = model.encode([ids, ids])
    assert (context.mask, context.length, context.rows) == (None, len(ids), 2)
    alone, one = model.encode([ids])
    torch.testing.assert_close(hidden, alone.expand(2, -1), rtol=0, atol=1e-12)
    assert one.expand(3).rows == 3
    short = model.prompt_ids(SHORT)
    _, context = model.encode([ids, short])
    assert context.mask.sum(1).tolist() == [len(ids), len(short)]
    assert context.take(torch.tensor([1])).mask.sum(1).tolist() == [len(short)]


def test_a_projection_has_a_norm_where_it_is_asked_for():
    assert [name for name, _ in build_projection(4, 3).named_children()][-1] == "ln"
    bare = build_projection(4, 3, layer_norm=False)
    assert len(bare) == 4
    assert (bare[1].weight.shape, bare[3].weight.shape) == ((3, 4), (4, 3))
