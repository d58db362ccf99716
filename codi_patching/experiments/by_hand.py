"""What patching by hand needs beside the experiments: values by name, and an answer in words."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from torch import Tensor

from codi_patching.errors import InputError
from codi_patching.experiments.sources import mean_activations
from codi_patching.models.codi import CodiModel
from codi_patching.patching.engine import Engine, Readout
from codi_patching.patching.interventions import (
    Activations,
    Computed,
    Latents,
    Patch,
    Site,
    SiteName,
)

Value = str | Tensor | Callable[[Tensor], Tensor]
"""What is patched in: `"source"`, the source run's activation; `"zero"`; `"mean"`, over questions;
any other text, that question's; a tensor; or a function of what the patched run has there."""

_MAX_TOKENS = 8


@dataclass(frozen=True)
class NamedValues:
    """The activations that a text stands for.

    Attributes:
        run: Activations of a question, with some sites recorded.
        source: Those of the source run.
        record: The sites.
        questions: What `"mean"` is taken over.
    """

    run: Callable[[str, Sequence[SiteName]], Activations]
    source: Activations
    record: Sequence[SiteName]
    questions: Sequence[str] = ()

    def of(self, name: str) -> Activations:
        """The activations.

        Raises:
            InputError: A mean without questions, or a question that is none.
        """
        if name == "source":
            return self.source
        if name == "zero":
            return Activations.zeros_like(self.source)
        if name != "mean":
            try:
                return self.run(name, self.record)
            except ValueError as error:
                raise InputError(str(error)) from None
        if not self.questions:
            raise InputError("expected questions to take the mean over: give `questions`")
        return mean_activations(self.run(question, self.record) for question in self.questions)


def shaped(model: CodiModel, values: Tensor, site: SiteName) -> Tensor:
    """Keys and values `(…, 2, heads, size)`; everything else as it is."""
    if site != "kv":
        return values
    config = model.backbone.config
    heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    return values.unflatten(-1, (2, heads, -1))


def as_values(model: CodiModel, site: Site, value: Any, named: NamedValues) -> Tensor | Computed:
    """What an engine patches a site with.

    Raises:
        InputError: A tensor is not of the site's size, or the value is of no known kind.
    """
    there = named.source.at(site.layer, site.position, site.name)
    if isinstance(value, str):
        return named.of(value).at(site.layer, site.position, site.name)
    if isinstance(value, Tensor):
        if value.numel() != there.numel():
            raise InputError(
                f"expected {there.numel()} numbers for {site}, got {tuple(value.shape)}"
            )
        return value.to(there).flatten()
    if not callable(value):
        raise InputError(f"expected text, a tensor or a function as a value, got {value!r}")

    def of_present(present: Tensor) -> Tensor:
        changed = value(shaped(model, present.clone(), site.name))
        if not isinstance(changed, Tensor) or changed.numel() != there.numel():
            raise InputError(
                f"expected a function that gives {there.numel()} numbers for {site}, got "
                f"{tuple(changed.shape) if isinstance(changed, Tensor) else changed!r}"
            )
        return changed.to(present).reshape(-1)

    return Computed(of_present)


def say(
    engine: Engine,
    model: CodiModel,
    prompt: Sequence[int],
    row: Sequence[Patch],
    latents: Latents,
    record: Sequence[SiteName],
) -> str:
    """What a patched run answers, its most probable token at a time."""
    settings = model.settings
    prefix = model.tokenizer(settings.answer_prefix, add_special_tokens=False)["input_ids"]
    said: list[int] = []
    while len(said) < _MAX_TOKENS:
        readout = Readout((*settings.eot_ids, *prefix), ((*said, settings.eos_id),))
        start = engine.unpatched([(prompt, readout)], record)[0]
        logits = engine.patched(start, [row], latents).answer_logits[0]
        token = int(logits[0, -1].argmax())
        if token == settings.eos_id:
            break
        said.append(token)
    return model.tokenizer.decode(said, skip_special_tokens=True).strip()
