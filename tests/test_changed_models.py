"""What no engine follows in a model that was changed after it was loaded is refused."""

import pytest
import torch
from conftest import random_model
from torch import nn
from torch.nn.modules import module as torch_modules

import codi_patching as cp
from codi_patching.errors import InputError
from codi_patching.measuring.engine_choice import build_engine
from codi_patching.patching.engine import Readout
from codi_patching.patching.interventions import THOUGHT, patches_from

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
