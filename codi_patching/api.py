"""What a notebook needs: load, run, patch, grid, lens; the experiments' calls without a Trainer.

import codi_patching as cp
model = cp.load("codi-tiny")
run = model.run("Tom has 5 apples. …")          # .answer, .thoughts, .activations, .lens(k=5)
pair = cp.Pair.of("Tom has 5 …", "Tom has 7 …")
sites = [cp.Site("resid_post", layer=l, position=p) for l in (3, 4, 5) for p in (1, 3)]
effect = model.patch(pair, sites)               # one patched run: .metrics, .logits, .answer
effect = model.patch(pair, cp.Site("thought", position=2), value=lambda z: z + vector)
grid = model.grid(pair, site="kv")              # a frame: grid["recovery"].unstack()
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import pandas as pd
import torch
from torch import Tensor

from codi_patching.data.datamodule import PairsDataModule
from codi_patching.data.pairs import Pair, Question
from codi_patching.errors import InputError
from codi_patching.experiments.by_hand import NamedValues, Value, as_values, say, shaped
from codi_patching.experiments.engines import EngineName
from codi_patching.experiments.layer import LayerPatching
from codi_patching.experiments.pair_runs import PairStart, check_finite
from codi_patching.experiments.patching import PatchingExperiment
from codi_patching.experiments.position import PositionPatching
from codi_patching.experiments.preparation import Preparation
from codi_patching.experiments.prompts import NOTHING, Direction, roles
from codi_patching.metrics.grid import row_values
from codi_patching.metrics.inputs import AnswerLogits
from codi_patching.models.accuracy import latent_answers, read_number
from codi_patching.models.answers import PairError
from codi_patching.models.codi import CodiModel
from codi_patching.models.lens import token_text, top_tokens
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.patching.interventions import (
    EXTRA_SITES,
    Activations,
    Latents,
    Patch,
    Site,
    SiteName,
    extra_sites,
)
from codi_patching.results.batches import ExcludedPair


def load(
    checkpoint: str = "codi-tiny",
    base_model: str | None = None,
    num_latents: int | None = None,
    lora_alpha: float | None = None,
    prompt_eos: bool | None = None,
    answer_prefix: str | None = None,
    engine: EngineName = "sweep",
) -> Model:
    """A model in torch's default dtype, on the CPU; `model.codi` is a module that can be moved.

    Args:
        checkpoint: Name of a shipped model, a Hub id, a folder, or a file in the layout of others.
        base_model: Hugging Face id or folder with config and tokenizer, for the layouts of others.
        num_latents: K; the checkpoint's own if not given.
        lora_alpha: Of CODI's layout, if it is not the usual 32.
        prompt_eos: Whether prompt and readout have an eos beside bot and eot; CODI's layout.
        answer_prefix: Text before the answer; the checkpoint's own if not given.
        engine: `sweep`, or the slow and obvious `reference`.

    Raises:
        InputError: The checkpoint cannot be loaded, every weight in its place.
    """
    codi, _ = load_checkpoint(
        checkpoint, num_latents, base_model, lora_alpha, prompt_eos, answer_prefix
    )
    return Model(codi, engine)


@dataclass(frozen=True)
class QuestionRun:
    """A question's run without patches. L layers, K thoughts.

    Attributes:
        question: As it was asked.
        answer: What the model says, as text.
        thoughts: z as fed, `(K, hidden)`.
        activations: By site: `resid_post`, `attn_out`, `mlp_out` of `(L, K, hidden)`, and `kv` of
            `(L, K, 2, heads, size)`, keys before rotation, then values.
    """

    question: str
    answer: str
    thoughts: Tensor
    activations: dict[SiteName, Tensor]
    model: Model

    def lens(self, k: int = 5) -> pd.DataFrame:
        """The k tokens that each block's output makes most probable, best first.

        Layers × positions. The last layer's row reads the state that thought p + 1 is made from.
        """
        codi = self.model.codi
        best = top_tokens(codi, self.activations["resid_post"], k).tolist()
        table = [[" ".join(token_text(codi, t) for t in cell) for cell in row] for row in best]
        frame = pd.DataFrame(table).rename_axis("layer")
        return frame.rename_axis("position", axis="columns")


@dataclass(frozen=True)
class Effect:
    """What one patched run gave.

    Attributes:
        metrics: By name, as in results; the unpatched runs' are in `base` and `source`.
        logits: Before each token of the pair's `clean` and `corrupted` answers, each forced on
            itself, `(tokens, vocabulary)`.
        answer: What the patched run says, as text.
        base: Metrics of the run that was patched, without patches.
        source: Metrics of the source run.
    """

    metrics: dict[str, float]
    logits: dict[str, Tensor]
    answer: str
    base: dict[str, float]
    source: dict[str, float]


class Model:
    """A CODI model, to patch from Python.

    Args:
        codi: The model.
        engine: See `load`.
    """

    def __init__(self, codi: CodiModel, engine: EngineName = "sweep") -> None:
        self.codi, self.engine_name = codi, engine
        self.engine = self._experiment(PositionPatching).engine

    def __repr__(self) -> str:
        size = self.codi.backbone.config.hidden_size
        return (
            f"Model({self.codi.backbone.config.model_type}, {self.num_layers} layers, "
            f"{self.num_latents} thoughts, hidden size {size})"
        )

    @property
    def num_layers(self) -> int:
        """L."""
        return len(self.codi.blocks)

    @property
    def num_latents(self) -> int:
        """K."""
        return self.codi.num_latents

    # -- one question ---------------------------------------------------------------------------

    @torch.no_grad()
    def run(self, question: str) -> QuestionRun:
        """A question without patches."""
        own = self._activations(question, EXTRA_SITES)
        sites: tuple[SiteName, ...] = ("resid_post", *EXTRA_SITES)
        activations = {s: shaped(self.codi, own.of_site(s), s) for s in sites}
        answer = latent_answers(self.codi, [question])[0].strip()
        return QuestionRun(question, answer, own.thoughts, activations, self)

    def pair(self, clean: str, corrupted: str) -> Pair:
        """Two typed questions, with the answers that the model gives; see `Pair.of`."""
        return self._answered(Pair.of(clean, corrupted))

    # -- patched runs ---------------------------------------------------------------------------

    @torch.no_grad()
    def patch(
        self,
        pair: Pair,
        sites: Site | Sequence[Site],
        value: Value | Sequence[Value] = "source",
        latents: Latents = "recomputed",
        direction: Direction = "denoising",
        questions: Sequence[str] = (),
    ) -> Effect:
        """One patched run.

        Args:
            pair: The two questions; denoising patches the corrupted one's run.
            sites: All that is overwritten.
            value: What with: one for all sites or one for each; see `Value`. Tensors and arguments
                of functions have the shape of the site's activation, `(hidden,)` or for `kv`
                `(2, heads, size)`.
            latents: Whether later thoughts are generated anew or stay the base run's.
            direction: `noising` patches the clean question's run with the corrupted one's.
            questions: What `"mean"` is taken over.

        Raises:
            InputError: The pair, a site or a value does not fit the model.
        """
        wanted = [sites] if isinstance(sites, Site) else list(sites)
        values: list[Any] = [value] * len(wanted)
        if isinstance(value, list | tuple):
            values = list(value)
        if len(values) != len(wanted):
            raise InputError(f"expected a value for each of {len(wanted)} sites, got {len(values)}")
        record = extra_sites({site.name for site in wanted})
        start = self._start(self._experiment(PositionPatching, latents, direction), pair, record)
        named = NamedValues(self._activations, start.source.run.activations(), record, questions)
        row = [self._as_patch(site, own, named) for site, own in zip(wanted, values)]
        try:
            patched = self.engine.patched(start.base, [row], latents)
        except ValueError as error:
            raise InputError(str(error)) from None
        check_finite(patched.answer_logits, lambda _: "the patched run")
        inputs = start.metric_inputs()
        metrics = row_values(inputs.of(AnswerLogits(*patched.answer_logits)))
        unpatched = row_values(inputs.unpatched())
        names = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
        base = roles(pair, direction)[0]
        return Effect(
            {name: float(values[0]) for name, values in metrics.items()},
            {name: logits[0] for name, logits in zip(names, patched.answer_logits)},
            say(self.engine, self.codi, self.codi.prompt_ids(base.text), row, latents, record),
            *({name: float(v[run]) for name, v in unpatched.items()} for run in (0, 1)),
        )

    @torch.no_grad()
    def grid(
        self,
        pair: Pair,
        site: SiteName = "resid_post",
        latents: Latents = "recomputed",
        direction: Direction = "denoising",
        value: str = "source",
        whole_layers: bool = False,
        questions: Sequence[str] = (),
    ) -> pd.DataFrame:
        """Every cell alone, or every whole layer, as position and layer patching have it.

        Returns:
            By layer and position, a column for each metric: `grid["recovery"].unstack()` is the
            map. `structural_zero` marks cells that cannot have an effect, whatever the model.
        """
        kind = LayerPatching if whole_layers else PositionPatching
        experiment = self._experiment(kind, latents, direction, site=site)
        start = self._start(experiment, pair, experiment.record)
        source = start.source.run.activations()
        named = NamedValues(self._activations, source, experiment.record, questions)
        (result,) = experiment.run_pairs([replace(start, source_activations=named.of(value))])
        if isinstance(result, ExcludedPair):
            raise PairError(result.reason)
        names = [
            (int(layer) if layer.isdigit() else layer, int(at) if at.isdigit() else at)
            for _, layer, at in experiment.grid.cells()
        ]
        index = pd.MultiIndex.from_tuples(names, names=["layer", experiment.column])
        frame = pd.DataFrame({m: v.flatten() for m, v in result.values.items()}, index=index)
        return frame.assign(structural_zero=experiment.grid.structural.flatten())

    # -- parts of these -------------------------------------------------------------------------

    def _experiment(
        self,
        kind: type[PatchingExperiment],
        latents: Latents = "recomputed",
        direction: Direction = "denoising",
        **options: Any,
    ) -> PatchingExperiment:
        """An experiment on this model, without control."""
        experiment = kind(
            latents=latents,
            direction=direction,
            control="none",
            engine=self.engine_name,
            self_patch_pairs=0,
            **options,
        )
        experiment.use(self.codi, getattr(self, "engine", None))
        return experiment

    def _start(
        self, experiment: PatchingExperiment, pair: Pair, record: Sequence[SiteName]
    ) -> PairStart:
        """The two unpatched runs of a pair."""
        pair = self._answered(pair)
        preparation = Preparation(
            self.engine, experiment.prompts, PairsDataModule(), "clean", "none", 0, record
        )
        try:
            asked = preparation.requests(pair)
        except PairError as error:
            raise InputError(str(error)) from None
        return preparation.start(pair, asked, self.engine.unpatched(asked.all(), record))

    def _answered(self, pair: Pair) -> Pair:
        """The pair with the model's answers where there are none.

        Raises:
            InputError: It says no number, or the same for both.
        """
        questions = {name: getattr(pair, name) for name in ("clean", "corrupted")}
        for name, question in questions.items():
            if math.isnan(question.answer):
                said = latent_answers(self.codi, [question.text])[0]
                number = read_number(said)
                if number is None:
                    raise InputError(
                        f"expected a number as the answer to {question.text!r}, got "
                        f"{said!r}: give the answers to Pair.of"
                    )
                questions[name] = replace(question, answer=number)
        if questions["clean"].answer == questions["corrupted"].answer:
            raise InputError(
                f"expected two different answers, got {questions['clean'].answer:g} "
                "for both: give the answers to Pair.of, or change the questions"
            )
        return replace(pair, **questions)

    def _activations(self, question: str, record: Sequence[SiteName]) -> Activations:
        request = self._experiment(PositionPatching).prompts.of_question(
            Question(question, math.nan), NOTHING
        )
        return self.engine.unpatched([request], record)[0].run.activations()

    def _as_patch(self, site: Site, value: Any, named: NamedValues) -> Patch:
        """A site with its value.

        Raises:
            InputError: The site is not in the model, or a tensor is of another size.
        """
        if not (site.layer < self.num_layers and 0 <= site.position < self.num_latents):
            raise InputError(
                f"expected a layer under {self.num_layers} and a position under "
                f"{self.num_latents}, got {site}"
            )
        return Patch(site.layer, site.position, as_values(self.codi, site, value, named), site.name)
