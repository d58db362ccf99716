"""Attention: probabilities against transformers' own, shares and what is said of them by hand."""

import math
from collections import Counter
from contextlib import suppress
from dataclasses import replace
from itertools import pairwise

import lightning.pytorch as pl
import numpy as np
import pytest
import results_maker
import torch
from conftest import quiet_trainer, random_model
from random_families import CLASSES, family_model
from safetensors.numpy import save_file
from safetensors.torch import load_file

from codi_patching.analysis.attended import (
    ask_attention,
    by_length,
    even_share,
    last_reader,
    mean_seen_above,
    mean_share,
    most_attended,
    seen_above,
)
from codi_patching.analysis.made_again import check_read_again
from codi_patching.analysis.report import build_report
from codi_patching.analysis.study import studies_of
from codi_patching.analysis.validity import check_shares
from codi_patching.callbacks.results import ResultsWriter
from codi_patching.data.datamodule import PairsDataModule
from codi_patching.experiments.attention import AttentionExperiment
from codi_patching.measuring.attention_again import draw_looks, eager_attention, look_again
from codi_patching.measuring.attention_shares import AttentionShares, attention_of, changed_span
from codi_patching.measuring.prompts import Prompts
from codi_patching.models.answers import PairError
from codi_patching.models.attention import (
    NAME,
    EdgesNotCutError,
    _Unseen,
    attention_probabilities,
    watched_attention,
)
from codi_patching.models.context import Context
from codi_patching.patching.engine import Readout
from codi_patching.reporting.attention_figure import draw_attention
from codi_patching.reporting.figures import draw_figures
from codi_patching.reporting.head_figure import draw_heads
from codi_patching.reporting.page_data import attention_data, page_data
from codi_patching.reporting.sentences import headline
from codi_patching.results.dataset import attention_dataset
from codi_patching.results.description import Grid
from codi_patching.results.pair_descriptions import AttentionPair, VerifiedLook

PROMPT, PREFIX = [5, 6, 7, 8, 9, 1], (2, 11, 12)


@torch.no_grad()
def eager(model):
    """Attention of one pass of transformers over prompt, thoughts and readout."""
    hidden, context = model.encode([PROMPT])
    thoughts, _, _ = model.think(hidden, context)
    before, after = (model.embed(torch.tensor([list(ids)])) for ids in (PROMPT, PREFIX))
    model.backbone.set_attn_implementation("eager")
    try:
        done = model.backbone(
            inputs_embeds=torch.cat([before, thoughts, after], dim=1), output_attentions=True
        )
    finally:
        model.backbone.set_attn_implementation(NAME)
    return torch.cat(done.attentions)


@pytest.mark.parametrize(
    ("family", "window"), [*((name, None) for name in CLASSES), ("mistral", 4)]
)
def test_equals_eager_attention_of_the_whole_sequence(family, window):
    model = family_model(family, 3, 4, window)
    found = attention_of(model, (PROMPT, Readout(PREFIX, ())))
    expected = eager(model)[:, :, len(PROMPT) - 1 :].permute(2, 0, 1, 3)
    torch.testing.assert_close(found, expected.to(found), atol=1e-6, rtol=0)
    torch.testing.assert_close(found.sum(-1), torch.ones(found.shape[:3]).to(found))


def test_attention_that_was_exchanged_is_not_guessed():
    model = family_model("llama", 2, 2)
    model.backbone.set_attn_implementation("eager")
    try:
        with pytest.raises(PairError, match="attention was exchanged"):
            attention_of(model, (PROMPT, Readout(PREFIX, ())))
    finally:
        model.backbone.set_attn_implementation(NAME)


@pytest.mark.parametrize(
    ("base", "source", "span"),
    [
        ([1, 7, 3, 4], [1, 8, 3, 4], (1, 2)),
        ([1, 7, 3, 4], [1, 8, 9, 3, 4], (1, 3)),
        ([1, 8, 9, 3, 4], [1, 7, 3, 4], (1, 2)),
        ([1, 5, 5, 4], [1, 5, 4], (2, 2)),  # a digit less: nothing of its own is left
        ([7, 3], [8, 3], (0, 1)),
        ([3, 7], [3, 8], (1, 2)),
        ([1, 2], [1, 2, 3], (2, 3)),
        ([1, 2, 3], [1, 2], (2, 2)),
        ([1, 6, 7, 4, 5], [1, 7, 6, 4, 5], (1, 3)),
    ],
)
def test_the_changed_number_is_where_the_prompts_differ(base, source, span):
    assert changed_span(base, source) == span


def test_shares_are_sums_over_the_tokens_of_a_group(model, pair):
    shares = AttentionShares(model=model, prompts=Prompts(model, "denoising"))
    record = shares.read(pair)
    request = shares.prompts.of_pair(pair)[1]
    probabilities = attention_of(model, request).numpy()
    ids, readout = request
    asked = ids[:-1]  # bot is one token here
    at = asked.index(model.tokenizer.convert_tokens_to_ids("16"))
    tokens = {
        "first token": [0],
        "before the number": range(1, at),
        "the number": [at],
        "after the number": range(at + 1, len(asked)),
        "bot": [len(asked)],
        **{str(p): [len(ids) + p] for p in range(model.num_latents)},
        "readout": range(len(ids) + 3, len(ids) + 3 + len(readout.prefix)),
    }
    assert shares.groups == tuple(tokens)
    assert shares.readers == ("bot", "0", "1", "2", *(f"readout {n}" for n in range(5)))
    assert record.description.tokens == tuple(len(places) for places in tokens.values())
    for column, places in enumerate(tokens.values()):
        by_head = probabilities[..., list(places)].sum(-1)
        np.testing.assert_allclose(record.activations[..., column], by_head, atol=1e-6)
        values = record.values
        np.testing.assert_allclose(values["attention"][..., column], by_head.mean(2), atol=1e-7)
        np.testing.assert_allclose(values["strongest"][..., column], by_head.max(2), atol=1e-7)


def test_all_tokens_after_the_question_are_bot(pair):
    model = random_model()
    one = AttentionShares(model=model, prompts=Prompts(model, "denoising"))
    alone = one.read(pair).description.tokens
    settings = replace(model.settings, bot_ids=(model.settings.eos_id, *model.settings.bot_ids))
    model.settings = settings
    both = one.read(pair).description.tokens
    assert dict(zip(one.groups, both, strict=True)) == {
        **dict(zip(one.groups, alone, strict=True)), "bot": 2,
    }  # fmt: skip


def test_a_longer_readout_is_read_at_its_first_tokens_and_its_last(model):
    """What both answers begin with is read too; the last reader stands before the answer."""
    shares = AttentionShares(model=model, prompts=Prompts(model, "denoising"))
    assert shares._kept(5) == [4, 5, 6, 7, 8]  # bot and three thoughts come before
    assert shares._kept(7) == [4, 5, 6, 7, 10]
    with pytest.raises(PairError, match="a readout of at least 5 tokens, got 4"):
        shares._kept(4)


def test_a_longer_readouts_last_token_is_read_again(pair):
    model = random_model()
    shares = AttentionShares(model=model, prompts=Prompts(model, "denoising"))
    ids, readout = shares.prompts.of_pair(pair)[1]
    request = ids, Readout((*readout.prefix, ids[0], ids[1]), readout.answers)
    first, last = len(ids), 3 + len(readout.prefix) + 2
    (look,) = look_again(model, request, (first, last), shares.readers, [(1, 8, 2)])
    expected = attention_of(model, request)[-1, 1, 2]
    sums = [expected[:first].sum().item(), expected[first:].sum().item()]
    assert look.shares == pytest.approx(sums, abs=1e-6)
    assert look.reader == "readout 4"


def test_what_is_said_of_a_pair_is_its_own(pair):
    model = random_model()
    shares = AttentionShares(model=model, prompts=Prompts(model, "denoising"))
    said = shares.read(replace(pair, group="of two")).description
    assert (said.question, said.group) == (pair.clean.text, "of two")
    assert said.num_steps == pair.num_steps


@pytest.mark.parametrize(
    ("span", "names"),
    [
        ((2, 4), "first before number number after bot bot"),
        ((1, 2), "first number after after after bot bot"),
        ((0, 2), "number number after after after bot bot"),
        ((5, 5), "first before before before before bot bot"),
    ],
)
def test_each_token_has_its_group(model, span, names):
    """Of five tokens of a question, two of bot, three thoughts and two of a readout."""
    shares = AttentionShares(model=model, prompts=Prompts(model, "denoising"))
    short = {"first token": "first", "before the number": "before", "the number": "number",
             "after the number": "after"}  # fmt: skip
    found = [shares.groups[group] for group in shares._group_of(span, 5, 7, 2)]
    assert [short.get(name, name) for name in found] == [
        *names.split(), "0", "1", "2", "readout", "readout",
    ]  # fmt: skip


def test_pairs_that_are_read_again_are_looked_at_by_their_place(pair):
    model = random_model()  # on which transformers leaves hooks that give attention
    other = replace(pair, pair_id="two")
    shares = AttentionShares(
        model=model, prompts=Prompts(model, "denoising"), verified=[other, pair], seed=5
    )
    looks = shares.read(pair).description.verified
    expected = draw_looks((3, 9, 4), 1, 2, 5)
    assert [(int(k.layer), shares.readers.index(k.reader), k.head) for k in looks] == expected
    assert shares.read(replace(pair, pair_id="three")).description.verified == ()
    for look in looks:
        for values in (look.shares, look.mean, look.strongest):
            assert all(round(value, 7) == value for value in values)
            assert any(round(value, 6) != value for value in values)


def test_a_run_keeps_what_was_read(predict, checkpoint, pair):
    experiment = AttentionExperiment(checkpoint=checkpoint)
    data = predict(experiment).data
    assert data["pair"].values.tolist() == ["p0", "p1", "p2"]
    assert check_shares(data).status == "pass"
    shares = AttentionShares(model=experiment.model, prompts=Prompts(experiment.model, "denoising"))
    record = shares.read(experiment.pairs[1])
    for name, values in record.values.items():
        np.testing.assert_allclose(data[name].sel(pair="p1").values, values, atol=1e-6)
    heads = load_file(predict.folder / "activations.safetensors")["p1"].numpy()
    np.testing.assert_array_equal(heads, record.activations.numpy())
    np.testing.assert_allclose(data["attention"].sel(pair="p1").values, heads.mean(2), atol=1e-6)


def contents(folder):
    kept = (p for p in folder.rglob("*") if p.is_file() and p.name not in (".lock", ".owner"))
    return {path.relative_to(folder): path.read_bytes() for path in kept}


class Stop(pl.Callback):
    """Ends a run after its first batch, as a kill would."""

    def on_predict_batch_end(self, *_):
        raise KeyboardInterrupt


def test_a_run_that_was_stopped_is_resumed_with_the_same_bytes(
    checkpoint, pairs_file, tmp_path, monkeypatch
):
    def run(name, *callbacks):
        trainer = quiet_trainer(ResultsWriter(str(tmp_path / name)), *callbacks)
        data = PairsDataModule(pairs_file, batch_size=1)
        trainer.predict(AttentionExperiment(checkpoint=checkpoint), data, return_predictions=False)

    run("whole")
    with pytest.raises((KeyboardInterrupt, SystemExit)):
        run("out", Stop())
    read, own = [], AttentionShares.read
    monkeypatch.setattr(
        AttentionShares, "read", lambda self, pair: (read.append(pair.pair_id), own(self, pair))[1]
    )
    run("out")
    assert read == ["p1", "p2"]
    assert contents(tmp_path / "out") == contents(tmp_path / "whole")
    run("out")  # finished: nothing is run again
    assert read == ["p1", "p2"]


def test_a_group_that_is_lost_fails_the_check():
    data = made(np.random.default_rng(0))
    assert check_shares(data).status == "pass"
    assert check_shares(data.assign(attention=data["attention"] * 0.9)).status == "fail"


@pytest.mark.parametrize("off", [9e-6, -9e-6, 1.1e-5, -1.1e-5])
def test_shares_may_be_off_by_their_last_digits_in_sum(off):
    data = made(np.random.default_rng(0))
    data["attention"].values[5, 2, 1, 3] += off
    check = check_shares(data)
    assert check.status == ("pass" if abs(off) < 1e-5 else "fail")
    assert check.seen == f"off by at most {abs(off):.2g}"


def read_again(precision, off, looks=10):
    """The check of looks that were read again, so many of them, of which these are off by so much.

    Args:
        precision: Of the run.
        off: By look, in the head, the mean and the strongest head in turn.
        looks: How many, in two pairs.
    """
    data = made(np.random.default_rng(0), pairs=3)
    data.attrs["run"] = replace(data.attrs["run"], precision=precision)
    described, heads = data["description"].copy(), data["heads"].copy()
    for pair in range(2):
        found, own = [], []
        for look in range(pair * looks // 2, (pair + 1) * looks // 2):
            reader, layer = look % 4, look % 3
            shares = [np.full(8, 1 / 8), *(
                data[name].values[pair, reader, layer].copy() for name in ("attention", "strongest")
            )]  # fmt: skip
            own.append(shares[0].copy())
            shares[look % 3][look % 8] += off.get(look, 0.0)
            found.append(
                VerifiedLook(READERS[reader], LAYERS[layer], look, *(tuple(s) for s in shares))
            )
        described[pair] = replace(described[pair].item(), verified=tuple(found))
        heads.values[pair] = np.array(own)
    return check_read_again(data.assign_coords(description=described, heads=heads))


@pytest.mark.parametrize("look", [0, 4, 8])
@pytest.mark.parametrize(("precision", "limit"), [("64-true", 1e-4), ("32-true", 1e-4)])
def test_looks_that_were_read_again_agree_to_what_float32_has(precision, limit, look):
    """A head's own, the mean's and the strongest's, in either pair."""
    for off in (0.9 * limit, -0.9 * limit):
        check = read_again(precision, {look: off})
        assert (check.status, check.seen) == (
            "pass", "10 looks in 2 pairs differ by at most 9e-05",
        )  # fmt: skip
    check = read_again(precision, {look: 1.1 * limit, 1: -0.5})
    place = f"{READERS[1]} in layer 1, head 1, of p0"
    assert (check.status, check.seen) == (
        "fail", f"2 of 10 looks differ, by up to 0.5: {place}",
    )  # fmt: skip


@pytest.mark.parametrize(("precision", "limit"), [("16-true", 0.02), ("bf16-true", 0.1)])
def test_in_16_bits_one_look_in_ten_may_differ(precision, limit):
    over, under = 1.1 * limit, 0.9 * limit
    assert read_again(precision, dict.fromkeys(range(10), under)).status == "pass"
    one = read_again(precision, {3: over})
    assert (one.status, one.seen[:21]) == ("pass", "1 of 10 looks differ,")
    assert "in 90% of looks" in one.expected
    assert read_again(precision, {3: over, 6: over}).status == "fail"


def test_a_look_of_which_the_heads_are_lost_does_not_agree():
    check = read_again("32-true", {7: np.nan})
    assert (check.status, check.seen) == (
        "fail", "1 of 10 looks differ, by up to inf: readout 0 in layer 1, head 7, of p1",
    )  # fmt: skip


def test_shares_of_no_pairs_are_off_by_nothing():
    check = check_shares(made(np.random.default_rng(0)).isel(pair=slice(0)))
    assert (check.name, check.status) == ("attention adds up", "pass")
    assert check.seen == "off by at most 0"


LAYERS, COLUMNS = ("0", "1", "2"), ("0", "1")
READERS = ("bot", "0", "1", "readout 0")
ATTENDED = ("first token", "before the number", "the number", "after the number", "bot", "0", "1",
            "readout")  # fmt: skip


def made(rng, pairs=12, steps=(2, 3)):
    """Random shares; those of the last reader are planted: z0 of two steps, z1 of three."""
    shape = (pairs, len(READERS), len(LAYERS), len(ATTENDED))
    shares = rng.dirichlet(np.ones(shape[-1]), shape[:-1])
    lengths = [steps[index % len(steps)] for index in range(pairs)]
    for index, length in enumerate(lengths):
        layer, column = (1, 5) if length == 2 else (2, 6)
        shares[index, -1, layer] = 0.02
        shares[index, -1, layer, column] = 0.86
    run = replace(
        results_maker.run_of("attention"), grid=Grid(LAYERS, "position", COLUMNS), metrics=(),
        num_latents=2, readers=READERS, attended=ATTENDED, num_pairs=pairs,
    )  # fmt: skip
    described = [AttentionPair("?", (1, 4, 1, 5, 1, 1, 1, 2), "", n) for n in lengths]
    values = {"attention": shares, "strongest": np.sqrt(shares)}
    return attention_dataset(run, [f"p{i}" for i in range(pairs)], described, values)


def test_where_it_looks_is_told_by_number_of_steps():
    data = made(np.random.default_rng(1))
    (finding,) = ask_attention(studies_of([data], 0, ())[0])
    most = most_attended(finding)
    assert {kind: (c.layer, c.column) for kind, c in most.items()} == {
        "2 steps": ("1", "0"),
        "3 steps": ("2", "1"),
    }
    for claim in most.values():
        assert claim.lead.mean == pytest.approx(0.86)
        assert claim.lead.n == 6
    assert dict(finding.numbers) == {"evenly spread": pytest.approx(1 / 16)}
    assert even_share(data).tolist() == [1 / 16] * 12
    (said,) = headline(build_report([data]))
    assert said == (
        "The token before the answer attends most to z0 in problems of 2 steps and z1 of 3: 0.86 "
        "at layer 1 and 0.86 at layer 2; 0.062 if spread evenly."
    )


def test_what_acts_is_counted_beside_what_is_seen():
    """Cells of the last layer are left out; of the others one acts and is not seen above."""
    run = results_maker.run_of("position", layers=3, columns=2)
    rise = {(0, 0): 0.5, (0, 1): 0.3, (1, 0): 0.2, (2, 0): 0.4, (2, 1): 0.4}
    patched = results_maker.make(run, pairs=12, planted=rise)
    data = made(np.random.default_rng(5)).assign_coords(pair=patched["pair"].values)
    strongest = np.zeros(data["strongest"].shape)
    strongest[:, -1, 1, 5], strongest[:, -1, 2, 6] = 0.9, 0.7
    data = data.assign(strongest=(data["strongest"].dims, strongest))
    findings = list(ask_attention(studies_of([patched, data], 0, ())[0]))
    (known,) = [dict(f.numbers) for f in findings if f.claims]
    # seen above: z0 0.9 over layer 0 and 0 over layer 1, z1 0.7 over both
    assert known["cells"] == 4
    assert known["acting"] == 3
    assert known["acting, hardly seen"] == 1
    assert known["seen, not acting"] == 1
    assert known["rank agreement"] == pytest.approx(3 / np.sqrt(4.5 * 5))


@pytest.mark.parametrize(
    ("steps", "told"), [((None,), [None]), ((2, 3, 4), [2, 3, 4]), ((2, 2, 2, 5), [2])]
)
def test_lengths_of_a_few_pairs_are_not_told_apart(steps, told):
    data = made(np.random.default_rng(2), 12, steps)
    found = by_length(data)
    assert [length for length, _ in found] == told
    for length, mask in found:
        expected = [length is None or steps[i % len(steps)] == length for i in range(12)]
        assert mask.tolist() == expected


def test_what_is_seen_above_a_cell_is_the_largest_share_above_it():
    data = made(np.random.default_rng(3))
    found = seen_above(data)
    strongest = data["strongest"].values
    for pair in range(12):
        for layer in range(3):
            for thought in range(2):
                above = [
                    strongest[pair, reader, higher, 5 + thought]
                    for reader in range(2 + thought, 4)
                    for higher in range(layer + 1, 3)
                ]
                assert found[pair, layer, thought] == max(above, default=0.0)


def test_means_over_pairs_are_of_each_reader_and_of_what_is_seen_above():
    data = made(np.random.default_rng(3))
    for place, reader in enumerate(READERS):
        for measure in ("attention", "strongest"):
            expected = data[measure].values[:, place, :, 5:7].mean(axis=0)
            np.testing.assert_allclose(mean_share(data, reader, measure), expected)
    np.testing.assert_allclose(mean_share(data, "1"), mean_share(data, "1", "attention"))
    np.testing.assert_allclose(mean_seen_above(data), seen_above(data).mean(axis=0))
    assert mean_seen_above(data).shape == (3, 2)


def test_attention_of_no_pairs_has_no_finding_and_beside_patching_it_is_missing():
    data = made(np.random.default_rng(0))
    assert list(ask_attention(studies_of([data.isel(pair=slice(0))], 0, ())[0])) == []
    patched = results_maker.make(results_maker.run_of(), pairs=2)
    (finding,) = ask_attention(studies_of([patched], 0, ())[0])
    assert (finding.key, finding.number, finding.answer) == ("attention", 6, "missing")
    assert finding.missing == (("attention",),)


def test_pairs_of_an_unknown_length_are_left_out_where_lengths_are_told_apart():
    """Of five lengths with four pairs or more those four with most pairs."""
    steps = [None] * 9 + [6] * 8 + [2] * 7 + [3] * 6 + [4] * 5 + [5] * 4 + [7] * 3
    data = made(np.random.default_rng(2), len(steps), steps)
    found = by_length(data)
    assert [(length, mask.sum()) for length, mask in found] == [(2, 7), (3, 6), (4, 5), (6, 8)]
    few = made(np.random.default_rng(2), 7, [2] * 3 + [5] * 4)
    assert [(length, mask.sum()) for length, mask in by_length(few)] == [(5, 4)]


def test_the_figure_shows_the_shares():
    data = made(np.random.default_rng(4))
    figure = draw_attention(build_report([data]))
    axes = figure.axes[:4]
    lengths = np.array([2, 3] * 6)
    for row, measure in enumerate(("attention", "strongest")):
        for place, length in enumerate((2, 3)):
            shown = axes[2 * row + place].images[0]
            expected = data[measure].values[lengths == length, -1][:, :, 5:7].mean(0)
            np.testing.assert_allclose(shown.get_array(), expected)
            assert shown.origin == "lower"
    assert [a.get_title(loc="left") for a in axes] == ["2 steps, n = 6", "3 steps, n = 6", "", ""]
    names = [a.get_ylabel() for a in axes]
    assert names == ["mean over heads\nlayer", "", "most attentive head\nlayer", ""]
    assert last_reader(data).shape == (12, 3, 2)
    none = replace(build_report([data]), attention=data.isel(pair=[]))
    assert dict(draw_figures(none)) == {}


def test_beside_the_maps_stands_where_a_patch_acts_over_what_is_seen_above():
    run = results_maker.run_of("position", layers=3, columns=2)
    patched = results_maker.make(run, pairs=12, planted={(0, 0): 0.5, (1, 1): 0.3})
    data = made(np.random.default_rng(5)).assign_coords(pair=patched["pair"].values)
    figure = draw_attention(build_report([patched, data]))
    above, below = figure.axes[2], figure.axes[5]
    assert above.get_title(loc="left") == "Rise of P(clean answer)"
    assert np.argmax(above.images[0].get_array()) == 0
    assert below.get_title(loc="left") == "seen above, by any reader"
    np.testing.assert_allclose(below.images[0].get_array(), mean_seen_above(data))
    note = " ".join(figure.get_supxlabel().split())
    assert "On the right where a patch acts, and under it the largest share" in note


def test_the_title_says_where_it_looks_only_where_that_is_known():
    report = build_report([made(np.random.default_rng(4))])
    few = replace(report.finding("attention"), claims=())
    titles = [
        " ".join(draw_attention(each).get_suptitle().split())
        for each in (report, replace(report, findings=()), replace(report, findings=(few,)))
    ]
    assert titles == [
        "The token before the answer attends most to z0 in problems of 2 steps and z1 of 3",
        "Attention of the token before the answer",
        "Attention of the token before the answer",
    ]


def with_heads(folder, seed=8):
    """Attention whose heads, three of each layer, are kept in a folder; and these heads."""
    rng, data = np.random.default_rng(seed), made(np.random.default_rng(seed))
    shape = (len(READERS), len(LAYERS), 3, len(ATTENDED))
    heads = {str(pair): rng.random(shape).astype(np.float32) for pair in data["pair"].values}
    save_file(heads, folder / "activations.safetensors")
    data.attrs["folder"] = folder
    return data, heads


def test_the_sheet_of_heads_shows_each_head_of_the_last_reader(tmp_path):
    data, heads = with_heads(tmp_path)
    figure = dict(draw_figures(build_report([data])))["attention_heads"]
    for row in range(2):  # pairs are of two and of three steps in turn
        own = np.mean([h[-1] for h in list(heads.values())[row::2]], axis=0)  # layer, head, group
        for thought in range(2):
            shown = figure.axes[2 * row + thought].images[0]
            np.testing.assert_allclose(shown.get_array(), own[:, :, 5 + thought], rtol=1e-5)
            assert shown.origin == "lower"
        layer, head, thought = np.unravel_index(own[..., 5:7].argmax(), (3, 3, 2))
        most = f"layer {layer} head {head} at z{thought} in {row + 2} steps"
        assert f"{most} ({own[..., 5:7].max():.2f})" in " ".join(figure.get_suptitle().split())
    assert [a.get_title(loc="left") for a in figure.axes[:4]] == ["z0", "z1", "", ""]
    labels = [figure.axes[place].get_ylabel().split("\n")[0] for place in (0, 2)]
    assert labels == ["2 steps, n = 6", "3 steps, n = 6"]
    assert [t.get_text() for t in figure.axes[2].get_yticklabels()] == list(LAYERS)


def test_heads_that_hardly_look_are_said_to(tmp_path):
    data, heads = with_heads(tmp_path)
    save_file({pair: h / 4 for pair, h in heads.items()}, tmp_path / "activations.safetensors")
    title = " ".join(draw_heads(build_report([data])).get_suptitle().split())
    assert title.startswith("No head gives a thought half of its attention; the most is layer ")
    some = {pair: h / (1 if place % 2 else 4) for place, (pair, h) in enumerate(heads.items())}
    save_file(some, tmp_path / "activations.safetensors")
    title = " ".join(draw_heads(build_report([data])).get_suptitle().split())
    assert title.startswith("Most attentive heads: layer ")


@pytest.mark.parametrize("damage", ["gone", "short", "of another run"])
def test_without_readable_heads_there_is_no_sheet(tmp_path, damage):
    data, heads = with_heads(tmp_path)
    path = tmp_path / "activations.safetensors"
    if damage == "gone":
        path.unlink()
    elif damage == "short":
        path.write_bytes(path.read_bytes()[:-9])
    else:
        heads.pop("p3")
        save_file(heads, path)
    report = build_report([data])
    assert "attention_heads" not in dict(draw_figures(report))
    with pytest.raises(ValueError, match="attention of single heads, got one without"):
        draw_heads(report)


def test_the_page_shows_where_it_looks_by_number_of_steps_first():
    data = made(np.random.default_rng(6))
    shown = attention_data(data)
    keys = [key for key, _, _ in shown["measures"]]
    assert page_data(build_report([data]))["runs"][0]["id"] == shown["id"] == "attention"
    expected = [f"{m}_{n}_steps" for m in ("attention", "strongest") for n in (2, 3)]
    assert keys[:4] == expected
    assert keys[4:] == [f"{m}_{r}" for r in reversed(READERS) for m in ("attention", "strongest")]
    lengths = np.array([2, 3] * 6)
    mean = data["attention"].values[lengths == 3, -1][:, :, 5:7].mean(0)
    np.testing.assert_allclose(shown["means"]["attention_3_steps"], mean.ravel(), rtol=6e-3)
    of_all = data["strongest"].values[:, 1][:, :, 5:7].mean(0)
    np.testing.assert_allclose(shown["means"]["strongest_0"], of_all.ravel(), rtol=6e-3)


@pytest.mark.parametrize("family", ["llama", "gpt2"])
def test_what_is_read_again_is_what_stands_there(family):
    """Of six prompt tokens the third is the number, so that groups are 1, 1, 1, 2, 1 and so on."""
    model = family_model(family, 3, 2)
    request = (PROMPT, Readout(PREFIX, ()))
    counts, readers = (1, 1, 1, 2, 1, 1, 1, 3), ("bot", "0", "1", "r 0", "r 1", "last")
    looks = [(layer, reader, head) for layer in range(3) for reader in range(6) for head in (0, 3)]
    found = look_again(model, request, counts, readers, looks)
    expected, starts = eager(model).numpy(), [0, 1, 2, 3, 5, 6, 7, 8, 11]
    for (layer, reader, head), look in zip(looks, found, strict=True):
        row = expected[layer, :, 5 + reader]
        by_head = np.stack([row[:, a:b].sum(1) for a, b in pairwise(starts)], axis=1)
        assert (look.reader, look.layer, look.head) == (readers[reader], str(layer), head)
        np.testing.assert_allclose(look.shares, by_head[head], atol=1e-6)
        np.testing.assert_allclose(look.mean, by_head.mean(0), atol=1e-6)
        np.testing.assert_allclose(look.strongest, by_head.max(0), atol=1e-6)
    assert model.backbone.config._attn_implementation == NAME


def test_over_all_pairs_every_layer_reader_and_head_is_read_again():
    drawn = [draw_looks((12, 9, 4), place, 8, seed=1) for place in range(8)]
    assert drawn == [draw_looks((12, 9, 4), place, 8, seed=1) for place in range(8)]
    assert drawn != [draw_looks((12, 9, 4), place, 8, seed=2) for place in range(8)]
    assert Counter(head for looks in drawn for *_, head in looks) == dict.fromkeys(range(4), 28)
    for axis, size in enumerate((12, 9, 4)):
        assert {look[axis] for looks in drawn for look in looks} == set(range(size))


def test_probabilities_by_hand():
    """Scores of log 3 and 0 are 3 to 1; two heads share each key."""
    size = math.log(3) / 2
    query = torch.tensor([1.0, -1.0, 1.0, 1.0]).view(1, 4, 1, 1).half()
    key = torch.tensor([[size, 0.0], [0.0, size]]).view(1, 2, 2, 1)
    found = attention_probabilities(query.float(), key, None, 2.0)
    expected = torch.tensor([[3.0, 1], [1, 3], [1, 3], [1, 3]]) / 4
    torch.testing.assert_close(found[0, :, 0], expected)
    assert attention_probabilities(query, key.half(), None, 2.0).dtype == torch.float32
    assert attention_probabilities(query.double(), key.double(), None, 2.0).dtype == torch.float64


def test_a_token_looks_at_itself_and_what_is_before_it_or_as_a_mask_says():
    zeros = torch.zeros(1, 1, 3, 1)
    found = attention_probabilities(zeros[:, :, 1:], zeros, None, 1.0)[0, 0]
    torch.testing.assert_close(found, torch.tensor([[1 / 2, 1 / 2, 0], [1 / 3, 1 / 3, 1 / 3]]))
    mask = torch.tensor([[True, False, False], [False, True, True]])
    found = attention_probabilities(zeros[:, :, 1:], zeros, mask, 1.0)[0, 0]
    torch.testing.assert_close(found, torch.tensor([[1.0, 0, 0], [0, 1 / 2, 1 / 2]]))


def test_cut_edges_are_taken_from_what_a_mask_allows():
    cut = torch.zeros(2, 2, 3, dtype=torch.bool)
    cut[0, 1, 0] = True
    unseen = _Unseen({4: cut})
    mask = torch.ones(2, 1, 2, 3, dtype=torch.bool)
    assert unseen.cut(3, mask, 2, 3) is mask
    assert unseen.cut(3, None, 2, 3) is None
    assert unseen.applied == {4: 0}
    assert torch.equal(unseen.cut(4, mask, 2, 3), ~cut[:, None])
    before = torch.tensor([[True, True, False], [True, True, True]])
    assert torch.equal(unseen.cut(4, None, 2, 3), before & ~cut[:, None])
    assert unseen.applied == {4: 2}
    for new, seen in ((1, 3), (2, 4)):
        with pytest.raises(ValueError, match=r"a pass of \(2, 3\) new and seen tokens"):
            unseen.cut(4, mask, new, seen)


@pytest.mark.parametrize("passes", [0, 1, 2])
def test_edges_are_cut_in_one_pass(model, passes):
    ids = torch.tensor([[5, 6, 7]])
    start = Context(None, None, 0, 1)
    cut = torch.zeros(1, 3, 3, dtype=torch.bool)

    def read():
        with model.unseen({1: cut}):
            for _ in range(passes):
                model.read(start, ids)

    if passes == 1:
        read()
    else:
        with pytest.raises(EdgesNotCutError, match=rf"\{{1: {passes}\}} times"):
            read()


def test_only_passes_made_inside_are_watched_whether_it_ends_well_or_not(model):
    ids, start = torch.tensor([[5, 6, 7]]), Context(None, None, 0, 1)
    for failing in (False, True):
        with suppress(KeyError), watched_attention() as kept:
            model.read(start, ids)
            if failing:
                raise KeyError
        model.read(start, ids)
        assert [tuple(each.shape) for each in kept] == [(1, 4, 3, 3)] * len(model.blocks)


def test_thoughts_that_do_not_follow_from_each_other_are_seen(monkeypatch):
    """What is read again has thoughts of its own states, whatever the run's were."""
    model = family_model("llama", 2, 2)
    request, expected = (PROMPT, Readout(PREFIX, ())), eager(model)
    own = type(model).think

    def other_last(self, hidden, context):
        thoughts, states, after = own(self, hidden, context)
        thoughts = thoughts.clone()
        thoughts[:, -1] += 1.0
        return thoughts, states, after

    monkeypatch.setattr(type(model), "think", other_last)
    np.testing.assert_allclose(eager_attention(model, request), expected.numpy(), atol=1e-5)
