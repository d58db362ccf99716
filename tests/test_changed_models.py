"""What no engine follows in a model that was changed after it was loaded is refused."""

import pytest
import torch
from conftest import random_model
from torch import nn
from torch.nn.modules import module as torch_modules

import codi_patching as cp
from codi_patching.errors import InputError
from codi_patching.measuring import engine_choice
from codi_patching.measuring.engine_choice import build_engine, changed_reason
from codi_patching.patching.engine import PatchRequest, Readout
from codi_patching.patching.interventions import THOUGHT, Patch, patches_from
from codi_patching.patching.reference import ReferenceEngine
from codi_patching.training.plain import with_pauses

ENGINES = ("sweep", "reference")
SITE = cp.Site("resid_post", layer=0, position=1)


def plus_one(_module, _arguments, output):
    return output + 1.0


def wrap_head(codi):
    codi.bfloat16()
    codi.backbone.set_output_embeddings(nn.Sequential(codi.backbone.get_output_embeddings()))


def hook_head(codi):
    codi.bfloat16().backbone.get_output_embeddings().register_forward_hook(plus_one)


def drop(codi):
    codi.prj[0].p = 0.5
    codi.train()


def drop_attention(codi):
    codi.blocks[1].self_attn.attention_dropout = 0.1
    codi.train()


REFUSED = {
    "a hook on the language model": (
        lambda codi: codi.backbone.register_forward_hook(plus_one),
        r"backbone has a hook, but it is never called .* hang it on backbone\.model or on blocks",
    ),
    "a hook on the module around it": (
        lambda codi: codi.register_forward_pre_hook(lambda _m, arguments: arguments),
        "the model has a hook, but it is never called as a whole",
    ),
    "a hook on the head in 16 bits": (hook_head, "the head has a hook, but in 16 bits only its w"),
    "another head in 16 bits": (wrap_head, "the head is a Sequential, but in 16 bits only its w"),
    "dropout": (drop, r"prj\.0 drops activations at random in training mode: call eval\(\)"),
    "dropout of attention": (drop_attention, r"layers\.1\.self_attn drops activations at random"),
}


@pytest.mark.parametrize("engine", ENGINES)
@pytest.mark.parametrize("case", REFUSED)
def test_what_no_engine_follows_is_refused(pair, case, engine):
    change, message = REFUSED[case]
    model = cp.Model(random_model(), engine)
    change(model.codi)
    with pytest.raises(InputError, match=message):
        model.patch(pair, SITE)


def test_training_mode_without_dropout_is_the_same(pair):
    model = cp.Model(random_model())
    before = model.patch(pair, SITE).metrics
    model.codi.train()
    assert model.patch(pair, SITE).metrics == before


def global_hook(_codi):
    return nn.modules.module.register_module_forward_hook(
        lambda module, _arguments, output: output + 1.0 if isinstance(module, nn.Linear) else None
    )


def class_forward(codi, monkeypatch):
    block = type(codi.blocks[0])
    forward = block.forward
    monkeypatch.setattr(block, "forward", lambda *args, **kwargs: forward(*args, **kwargs) + 1.0)


@pytest.mark.parametrize("case", ["hooks on all modules", "another forward of a class"])
def test_changes_of_all_modules_at_once_are_followed(pair, monkeypatch, case):
    found = {}
    for engine in ENGINES:
        model = cp.Model(random_model(), engine)
        with monkeypatch.context() as patches:
            if case == "hooks on all modules":
                handle = global_hook(model.codi)
            else:
                class_forward(model.codi, patches)
            if engine == "sweep":
                with pytest.warns(UserWarning, match="reference engine is used in place of"):
                    found[engine] = model.patch(pair, SITE)
            else:
                found[engine] = model.patch(pair, SITE)
            if case == "hooks on all modules":
                handle.remove()
    assert not torch_modules._global_forward_hooks
    assert found["sweep"].metrics == pytest.approx(found["reference"].metrics, rel=1e-9)
    plain = cp.Model(random_model()).patch(pair, SITE)
    assert plain.metrics["kl_divergence"] != pytest.approx(
        found["sweep"].metrics["kl_divergence"], rel=0.01
    )


def test_a_hook_before_all_modules_is_seen():
    model = random_model()
    loaded = engine_choice._forwards_of(model)
    handle = torch_modules.register_module_forward_pre_hook(lambda *_: None)
    try:
        assert changed_reason(model, loaded) == "there are hooks on all modules"
    finally:
        handle.remove()
    assert changed_reason(model, loaded) is None


def test_one_runs_rows_of_a_changed_model_are_the_reference_engines(pair):
    """All that is asked is handed on: patches, latents, what is watched, progress, cuts."""
    codi = random_model()
    engine = build_engine(codi, "sweep", 4)
    codi.blocks[1].register_forward_hook(plus_one)
    ids, readout = codi.prompt_ids(pair.clean.text), Readout((codi.settings.eot_id, 5), ((6,),))
    with pytest.warns(UserWarning, match="has a hook"):
        (start,) = engine.unpatched([(ids, readout)])
    own = start.run.activations()
    rows = [[Patch(SITE, 2 * own.of(SITE))], [], [Patch(cp.Site.at(1, 0), own.of(SITE))]]
    cuts = [[cp.Edge("readout", ("thought", 1)).cut(3, 3, {}, readout.length)], [], []]
    told = rows, "frozen", [[(2, 1)]] * 3
    done = {"ours": [], "theirs": []}
    ours = engine.patched(start, *told, done["ours"].append, cuts)
    reference = ReferenceEngine(codi, 4)
    theirs = reference.patched(
        reference.unpatched([(ids, readout)])[0], *told, done["theirs"].append, cuts
    )
    assert done["ours"] == done["theirs"] != []
    assert torch.equal(ours.answer_logits[0], theirs.answer_logits[0])
    assert [torch.equal(a, b) for a, b in zip(ours.watched, theirs.watched, strict=True)] == [
        True
    ] * len(ours.watched)
    assert len({float(logits.sum()) for logits in ours.answer_logits[0]}) == 3


@pytest.mark.parametrize("hooked_first", [True, False])
def test_a_change_between_a_run_and_its_patches_is_refused(pair, hooked_first):
    codi = random_model()
    engine = build_engine(codi, "sweep", 4)
    ids, readout = codi.prompt_ids(pair.clean.text), Readout((codi.settings.eot_id, 5), ((6,),))
    handle = codi.blocks[1].register_forward_hook(plus_one) if hooked_first else None
    if handle:
        with pytest.warns(UserWarning, match="has a hook"):
            (start,) = engine.unpatched([(ids, readout)])
        handle.remove()
    else:
        (start,) = engine.unpatched([(ids, readout)])
        handle = codi.blocks[1].register_forward_hook(plus_one)
    rows = [patches_from(start.run.activations(), THOUGHT, [0])]
    with pytest.raises(InputError, match="it was changed since: make these runs again"):
        engine.patched(start, rows)
    handle.remove()


def test_the_model_that_is_not_changed_is_swept(pair):
    with torch.no_grad():
        model = cp.Model(random_model())
        assert model.patch(pair, SITE).metrics["kl_divergence"] > 0


def test_a_hook_on_the_head_is_followed_in_float32(pair):
    """There the head itself is called."""
    effects = []
    for hooked in (False, True):
        model = cp.Model(random_model().float(), "reference")
        if hooked:
            model.codi.backbone.get_output_embeddings().register_forward_hook(
                lambda _m, _a, output: output * 3.0
            )
        effects.append(model.patch(pair, SITE).logits["clean"])
    torch.testing.assert_close(effects[1], 3.0 * effects[0], rtol=1e-4, atol=1e-4)


def test_each_change_is_told_once(pair, recwarn):
    codi = random_model()
    engine = build_engine(codi, "sweep", 4)
    request = (codi.prompt_ids(pair.clean.text), Readout((codi.settings.eot_id, 5), ((6,),)))
    first = codi.blocks[1].register_forward_hook(plus_one)
    for _ in range(2):
        engine.unpatched([request])
    second = codi.blocks[0].register_forward_pre_hook(lambda _m, _a: None)
    engine.unpatched([request])
    said = [str(w.message) for w in recwarn.list if "reference engine" in str(w.message)]
    assert len(said) == 2
    assert "layers.1 has a hook" in said[0]
    assert "layers.0 has a hook" in said[1]
    assert list(engine.patched_each([])) == []
    first.remove()
    second.remove()
    assert list(engine.patched_each([])) == []


def test_the_batch_of_an_engine_is_what_was_asked_for_or_fits(monkeypatch):
    codi, asked = random_model(), []
    monkeypatch.setattr(engine_choice, "rows_at_once", lambda *given: (asked.append(given), 17)[1])
    for name in ENGINES:
        assert build_engine(codi, name, 5).max_rows == 5
    assert asked == []
    device = torch.device("cpu")
    for name in ENGINES:
        assert build_engine(codi, name, None, device).max_rows == 17
    assert asked == [(codi, device)] * 2


def test_a_model_that_feeds_nothing_back_has_frozen_thoughts_in_both_engines(pair):
    """Asked for recomputed ones, a run with a patched thought is that of frozen ones."""
    codi = with_pauses(random_model()).double().eval().requires_grad_(False)
    request = (codi.prompt_ids(pair.clean.text), Readout((codi.settings.eot_id, 5), ((6,),)))
    found = []
    for name in ENGINES:
        engine = build_engine(codi, name, 4)
        (start,) = engine.unpatched([request])
        row = [Patch(SITE, torch.ones(32).double())]
        for latents in ("frozen", "recomputed"):
            found.append(engine.patched(start, [row], latents).answer_logits[0])
            (each,) = engine.patched_each([PatchRequest(start, [row])], latents)
            found.append(each.answer_logits[0])
    for logits in found[1:]:
        torch.testing.assert_close(logits, found[0], rtol=0, atol=1e-9)
    assert not torch.allclose(found[0], start.run.answer_logits[0])
