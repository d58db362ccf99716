"""Cut edges against brute force on whole sequences, every family, both engines, float64."""

import pytest
import torch
from random_families import family_model
from site_twin import run_site_twin

from codi_patching.measuring.engine_choice import build_engine
from codi_patching.models.attention import NAME, EdgesNotCutError
from codi_patching.patching.cuts import Cut
from codi_patching.patching.engine import PatchRequest, Readout
from codi_patching.patching.interventions import Patch, Site

PROMPTS = ([5, 6, 7, 8, 1], [11, 6, 1])
READOUT = Readout((2, 20), ((22, 23), (24,)))
LATENTS, LAYERS = 3, 3
QUESTION, WHOLE = (-4, -3), range(LAYERS)
EVERY = tuple(range(LATENTS, LATENTS + READOUT.length))

CUTS = {
    "nothing": [],
    "question to readout, one layer": [Cut((1,), EVERY, QUESTION)],
    "question to readout, all layers": [Cut(tuple(WHOLE), EVERY, (-5, *QUESTION, -1))],
    "question to thoughts, a window": [Cut((1, 2), (0, 1, 2), QUESTION)],
    "thought to readout, a window": [Cut((0, 1), EVERY, (1,))],
    "thought to thought, all layers": [Cut(tuple(WHOLE), (2,), (0,))],
    "thought to thought, last layer": [Cut((LAYERS - 1,), (1,), (0,))],
    "several": [Cut((0, 1), (1, 2), (-2, 0)), Cut((1, 2), (2, 4), (-4, 1)), Cut((2,), (3,), (2,))],
}


def by_hand(model, prompt, cuts, latents="recomputed", frozen=None, patches=()):
    """The twin's logits; several cuts of one reader and layer are put together here."""
    unseen = {}
    for cut in cuts:
        for layer in cut.layers:
            for reader in cut.readers:
                unseen.setdefault((layer, reader), set()).update(cut.read)
    row = [("cut", layer, reader, sorted(places)) for (layer, reader), places in unseen.items()]
    row += [(p.site.name, *p.site.cell, p.values) for p in patches]
    return run_site_twin(model, prompt, row, READOUT, latents, frozen)[2]


@pytest.mark.parametrize(
    ("family", "latents"),
    [("llama", "recomputed"), ("gpt2", "recomputed"), ("qwen3", "recomputed"), ("llama", "frozen")],
)
def test_both_engines_equal_whole_sequences_with_masks_by_hand(family, latents):
    model = family_model(family, LAYERS, LATENTS)
    rows = list(CUTS.values())
    expected = {}
    for name in ("reference", "sweep"):
        engine = build_engine(model, name, 5)
        starts = engine.unpatched([(ids, READOUT) for ids in PROMPTS])
        whole = PROMPTS[0]
        frozen = starts[0].run.thoughts[0]
        found = engine.patched(starts[0], [[]] * len(rows), latents, cuts=rows)
        for place, (what, cuts) in enumerate(CUTS.items()):
            if what not in expected:
                expected[what] = by_hand(model, whole, cuts, latents, frozen)
            for logits, wanted in zip(found.answer_logits, expected[what], strict=True):
                torch.testing.assert_close(
                    logits[place], wanted, atol=1e-9, rtol=0, msg=lambda m, w=what: f"{w}: {m}"
                )
        if latents == "recomputed":
            base = starts[0].run.answer_logits
            alone = engine.patched(starts[0], [[]], cuts=[[]]).answer_logits
            assert all(torch.equal(one, uncut) for one, uncut in zip(alone, base, strict=True))
            moved = [(f[1:] - b[0]).abs().amax((1, 2)) for f, b in zip(found.answer_logits, base)]
            assert (torch.stack(moved).amax(0) > 1e-3).all()


@pytest.mark.parametrize("name", ["reference", "sweep"])
def test_several_questions_side_by_side_and_patches_beside_cuts(name):
    model = family_model("llama", LAYERS, LATENTS)
    engine = build_engine(model, name, 64)
    starts = engine.unpatched([(ids, READOUT) for ids in PROMPTS])
    value = starts[1].run.resid[0, 1, 1]
    patches = [[], [Patch(Site("resid_post", layer=1, position=1), value)]]
    cuts = [
        [[Cut((1, 2), EVERY, (-2,))], [Cut((2,), (2,), (-5, 1))]],
        [[Cut((2,), EVERY, (-3, 0))], []],
    ]
    requests = [PatchRequest(s, patches, (), own) for s, own in zip(starts, cuts, strict=True)]
    found = engine.patched_each(requests)
    for ids, own, patched in zip(PROMPTS, cuts, found, strict=True):
        for row, (cut, patch) in enumerate(zip(own, patches, strict=True)):
            expected = by_hand(model, ids, cut, patches=patch)
            for logits, wanted in zip(patched.answer_logits, expected, strict=True):
                torch.testing.assert_close(logits[row], wanted, atol=1e-9, rtol=0)


def test_rows_of_one_start_do_not_depend_on_the_batch():
    model = family_model("qwen3", LAYERS, LATENTS)
    rows = list(CUTS.values())
    found = []
    for size in (1, 4, 64):
        engine = build_engine(model, "sweep", size)
        (start,) = engine.unpatched([(PROMPTS[0], READOUT)])
        found.append(engine.patched(start, [[]] * len(rows), cuts=rows).answer_logits)
    for other in found[1:]:
        torch.testing.assert_close(found[0], other, atol=1e-12, rtol=0)


def test_a_thoughts_reader_is_computed_from_the_cut_layer_on_and_no_lower():
    """Of one readout token, thought 2 not seen in layer 1 of 3: two layers of one token."""
    model = family_model("llama", LAYERS, LATENTS)
    engine = build_engine(model, "sweep", 64)
    (start,) = engine.unpatched([(PROMPTS[0], Readout((2,), ((22,),)))])
    engine.token_layers = 0.0
    engine.patched(start, [[]], cuts=[[Cut((1,), (3,), (2,))]])
    assert engine.token_layers == 2
    engine.token_layers = 0.0
    engine.patched(start, [[]], cuts=[[Cut((2,), (2,), (0,))]])  # of the last thought, last layer
    assert engine.token_layers == 0


def test_what_cannot_be_cut_is_refused():
    model = family_model("llama", LAYERS, LATENTS)
    with pytest.raises(ValueError, match="readers after the prompt and after all"):
        Cut((0,), (1, 2), (1,))
    for name in ("reference", "sweep"):
        engine = build_engine(model, name, 64)
        (start,) = engine.unpatched([(PROMPTS[0], READOUT)])
        for cut, said in (
            (Cut((LAYERS,), (1,), (0,)), "a layer in 0..2, got 3"),
            (Cut((0,), (6,), (0,)), "a reader in 0..5, got 6"),
            (Cut((0,), (1,), (-6,)), "places from -5 on, got -6"),
        ):
            with pytest.raises(ValueError, match=said):
                engine.patched(start, [[]], cuts=[[cut]])


def test_attention_that_was_exchanged_is_noticed():
    model = family_model("llama", LAYERS, LATENTS)
    engine = build_engine(model, "reference", 64)
    (start,) = engine.unpatched([(PROMPTS[0], READOUT)])
    model.backbone.set_attn_implementation("eager")
    try:
        with pytest.raises(EdgesNotCutError, match="exactly once"):
            engine.patched(start, [[]], cuts=[[Cut((1,), (1,), (0,))]])
    finally:
        model.backbone.set_attn_implementation(NAME)
