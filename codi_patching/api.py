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

import warnings
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, get_args

import pandas as pd
import torch
from torch import Tensor

from codi_patching.data.pairs import Pair, Question, as_question
from codi_patching.errors import InputError, brief, plain_text, whole_number
from codi_patching.measuring import by_hand
from codi_patching.measuring.by_hand import (
    NamedValues,
    as_questions,
    as_tensor,
    as_values,
    say,
    shaped,
    with_answers,
)
from codi_patching.measuring.engine_choice import EngineName, build_engine
from codi_patching.measuring.measurement import Measurement, check_finite
from codi_patching.measuring.patch_grid import (
    PatchGrid,
    Positions,
    all_positions,
    grid_layers,
    head_grid,
    single_cells,
    whole_layers,
)
from codi_patching.measuring.places import typical_places
from codi_patching.measuring.preparation import PairStart, Preparation
from codi_patching.measuring.prompts import Direction, Prompts, roles
from codi_patching.metrics.inputs import AnswerLogits
from codi_patching.metrics.table import metric_rows
from codi_patching.models.accuracy import latent_answers
from codi_patching.models.codi import CodiModel
from codi_patching.models.families import head_shape
from codi_patching.models.lens import token_text, top_tokens
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.models.vocabulary import unknown_words
from codi_patching.patching.interventions import (
    EXTRA_SITES,
    Activations,
    Latents,
    Patch,
    Site,
    SiteName,
    extra_sites,
    on_tokens,
)
from codi_patching.results.description import ALL
from codi_patching.results.records import ExcludedPair


def load(
    checkpoint: str | Path = "codi-tiny",
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
    _check_choice("engine", engine, EngineName)
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
        activations: By site: `resid_post`, `attn_out`, `mlp_out` of `(L, K, hidden)`, `kv` of
            `(L, K, 2, heads, size)`, keys before rotation, then values, and `head` of
            `(L, K, heads, size)`, what attention heads hand to the output projection.
    """

    question: str
    answer: str
    thoughts: Tensor
    activations: dict[SiteName, Tensor]
    model: Model

    def __repr__(self) -> str:
        return f"QuestionRun({self.question!r}, answer={self.answer!r})"

    def lens(self, k: int = 5) -> pd.DataFrame:
        """The k tokens that each block's output makes most probable, best first.

        Layers × positions. The last layer's row reads the state that thought p + 1 is made from.

        Raises:
            InputError: k is no whole number from 1 to the size of the vocabulary.
        """
        codi = self.model.codi
        k, most = whole_number(k, "k", 1), codi.backbone.get_output_embeddings().weight.shape[0]
        if k > most:
            raise InputError(f"expected k of at most {most}, the vocabulary, got {k}: set [[k]]")
        best = top_tokens(codi, self.activations["resid_post"], k).tolist()
        table = [[" ".join(token_text(codi, t) for t in cell) for cell in row] for row in best]
        frame = pd.DataFrame(table).rename_axis("layer")
        return frame.rename_axis("position", axis="columns")


Value = by_hand.Value | QuestionRun
"""What is patched in: `"source"`, `"base"`, the source or the base run's activation; `"clean"`,
`"corrupted"`, those of the pair's questions; `"zero"`; `"mean"`, over questions; `"random_pair"`,
the first of them; a `Question`, or its run, that one's; a tensor or an array; or a function of what
the patched run has there."""


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

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name}={value:.4g}" for name, value in self.metrics.items())
        return f"Effect(answer={self.answer!r}, {metrics})"


class Model:
    """A CODI model, to patch from Python.

    Args:
        codi: The model.
        engine: See `load`.
    """

    def __init__(self, codi: CodiModel, engine: EngineName = "sweep") -> None:
        _check_choice("engine", engine, EngineName)
        if not isinstance(codi, CodiModel):
            raise InputError(f"expected a CodiModel, got {brief(codi)}: see load(checkpoint)")
        self.codi, self.engine = codi, build_engine(codi, engine, None)

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
    def run(self, question: str | Question) -> QuestionRun:
        """A question without patches.

        Raises:
            InputError: It is no text, or does not fit the model.
        """
        asked = as_question(question)
        question = str(asked.text)
        own = self._activations(asked, self._preparation("denoising", EXTRA_SITES))
        _say_unknown(self.codi, question)
        sites: tuple[SiteName, ...] = ("resid_post", *EXTRA_SITES)
        activations = {s: shaped(self.codi, own.of_site(s), s) for s in sites}
        answer = latent_answers(self.codi, [question])[0].strip()
        return QuestionRun(question, answer, own.thoughts, activations, self)

    def pair(self, clean: str | Question, corrupted: str | Question) -> Pair:
        """Two typed questions, with the answers that the model gives; see `Pair.of`."""
        return with_answers(self.codi, Pair.of(clean, corrupted))

    # -- patched runs ---------------------------------------------------------------------------

    @torch.no_grad()
    def patch(
        self,
        pair: Pair,
        sites: Site | Sequence[Site],
        value: Value | Sequence[Value] = "source",
        latents: Latents = "recomputed",
        direction: Direction = "denoising",
        questions: Sequence[str | Question] = (),
    ) -> Effect:
        """One patched run.

        Args:
            pair: The two questions; denoising patches the corrupted one's run.
            sites: All that is overwritten.
            value: What with: one for all sites or one for each; see `Value`. Tensors and arguments
                of functions have the shape of the site's activation, `(hidden,)`, for `kv`
                `(2, heads, size)`, or that flat, for a head `(size,)`.
            latents: Whether later thoughts are generated anew or stay the base run's.
            direction: `noising` patches the clean question's run with the corrupted one's.
            questions: What `"mean"` is taken over, and `"random_pair"` is the first of.

        Raises:
            InputError: The pair, a site or a value does not fit the model.
        """
        _check_choice("latents", latents, Latents)
        wanted = _as_sites(sites)
        value = as_tensor(value)
        values = list(value) if isinstance(value, list | tuple) else [value] * len(wanted)
        if len(values) != len(wanted):
            raise InputError(f"expected a value for each of {len(wanted)} sites, got {len(values)}")
        record = extra_sites({site.name for site in wanted})
        places = any(isinstance(site.position, str) for site in wanted)
        preparation = self._preparation(direction, record, places)
        start = self._start(preparation, pair)
        named = self._named(start, preparation, questions)
        row = [self._as_patch(site, own, named) for site, own in zip(wanted, values)]
        try:
            row = on_tokens(row, start.base.places)
            patched = self.engine.patched(start.base, [row], latents)
        except ValueError as error:
            raise InputError(str(error)) from None
        check_finite(patched.answer_logits, lambda _: "the patched run")
        inputs = start.metric_inputs()
        metrics = metric_rows(inputs.of(AnswerLogits(*patched.answer_logits)))
        unpatched = metric_rows(inputs.unpatched())
        names = ("corrupted", "clean") if direction == "denoising" else ("clean", "corrupted")
        prompt = start.requests.base[0]
        return Effect(
            {name: float(values[0]) for name, values in metrics.items()},
            {name: logits[0] for name, logits in zip(names, patched.answer_logits)},
            say(self.engine, self.codi, prompt, row, latents, record, start.base.places),
            *({name: float(v[run]) for name, v in unpatched.items()} for run in (0, 1)),
        )

    @torch.no_grad()
    def grid(
        self,
        pair: Pair,
        site: SiteName = "resid_post",
        latents: Latents = "recomputed",
        direction: Direction = "denoising",
        value: str | Question | QuestionRun = "source",
        whole_layers: bool = False,
        questions: Sequence[str | Question] = (),
        positions: Positions = "thoughts",
    ) -> pd.DataFrame:
        """Every cell alone, or every whole layer, as position and layer patching have it.

        Of the site `head` every head alone, at all positions at once.

        With positions `all`, places outside the thoughts have columns too.

        Returns:
            By layer and position, or head, a column for each metric: `grid["recovery"].unstack()`
            is the map. `structural_zero` marks cells that cannot have an effect, whatever the
            model.
        """
        _check_choice("site", site, SiteName)
        _check_choice("latents", latents, Latents)
        if not isinstance(whole_layers, bool):
            raise InputError(
                f"expected whole_layers to be a truth value, got {brief(whole_layers)}"
            )
        _check_choice("positions", positions, Positions)
        if positions == "all" and (whole_layers or site in ("head", "thought")):
            raise InputError(
                "expected positions thoughts with whole layers, heads or thoughts: set "
                "[[positions]]"
            )
        cells = self._cells(site, latents, whole_layers, positions)
        preparation = self._preparation(direction, cells.record, cells.places)
        start = self._start(preparation, pair)
        given = self._named(start, preparation, questions).of(_plain(value))
        measurement = Measurement(model=self.codi, preparation=preparation, cells=cells)
        (result,) = measurement.started([replace(start, source_activations=given)])
        if isinstance(result, ExcludedPair):
            raise InputError(result.reason)
        names = [
            (int(layer) if layer.isdigit() else layer, int(at) if at.isdigit() else at)
            for _, layer, at in cells.grid.cells()
        ]
        index = pd.MultiIndex.from_tuples(names, names=["layer", cells.grid.column])
        frame = pd.DataFrame({m: v.flatten() for m, v in result.values.items()}, index=index)
        return frame.assign(structural_zero=cells.grid.structural.flatten())

    # -- parts of these -------------------------------------------------------------------------

    def _cells(
        self, site: SiteName, latents: Latents, whole: bool, positions: Positions
    ) -> PatchGrid:
        """Every cell alone, or every layer at once."""
        layers = grid_layers(self.codi, site)
        if site == "head" and not whole:
            return head_grid(self.codi, latents)
        every = all_positions(self.codi) if positions == "all" else range(self.num_latents)
        columns = (ALL,) if whole else tuple(map(str, every))
        patch_sets = partial(single_cells, layers=layers, site=site, positions=every)
        if whole:
            patch_sets = partial(whole_layers, layers=layers, site=site)
        return PatchGrid.of(
            self.codi, patch_sets, layers=layers, columns=columns, latents=latents, site=site
        )

    def _preparation(
        self, direction: Direction, record: Sequence[SiteName], places: bool = False
    ) -> Preparation:
        """Makes unpatched runs, without control."""
        _check_choice("direction", direction, Direction)
        prompts = Prompts.of(self.codi, direction, self.engine)
        return Preparation(engine=self.engine, prompts=prompts, record=record, places=places)

    def _start(self, preparation: Preparation, pair: Pair) -> PairStart:
        """The two unpatched runs of a pair."""
        if not isinstance(pair, Pair):
            raise InputError(
                f"expected a pair, got {brief(pair)}: make one with Pair.of(clean, corrupted)"
            )
        pair = with_answers(self.codi, pair)
        _say_unknown(self.codi, pair.clean.text, pair.corrupted.text)
        requests = preparation.requests(pair)
        runs = self.engine.unpatched(requests.all(), preparation.record, requests.places)
        return preparation.start(pair, requests, runs)

    def _named(
        self, start: PairStart, preparation: Preparation, questions: Sequence[str | Question]
    ) -> NamedValues:
        """What names stand for beside a pair."""
        base, source = (run.run.activations() for run in (start.base, start.source))
        clean, corrupted = (source, base) if start.direction == "denoising" else (base, source)
        own = {"source": source, "base": base, "clean": clean, "corrupted": corrupted}
        base_question, _ = roles(start.pair, start.direction)
        run = partial(self._activations, preparation=preparation, other=base_question)
        return NamedValues(run, own, as_questions(questions), start.base.places)

    def _activations(
        self, question: Question, preparation: Preparation, other: Question | None = None
    ) -> Activations:
        """What a question's run has, and at the number in which it differs from another.

        Raises:
            InputError: It cannot be run.
        """
        try:
            return preparation.activations_of(question, other)
        except ValueError as error:
            raise InputError(str(error)) from None

    def _as_patch(self, site: Site, value: Any, named: NamedValues) -> Patch:
        """A site with its value.

        Raises:
            InputError: The site is not in the model, or a tensor is of another size.
        """
        if not (site.layer < self.num_layers and site.position in all_positions(self.codi)):
            raise InputError(
                f"expected a layer under {self.num_layers} and a position under "
                f"{self.num_latents} or of {', '.join(typical_places(self.codi))}, got {site}"
            )
        heads = head_shape(self.codi.backbone)[0]
        if site.head is not None and site.head >= heads:
            raise InputError(f"expected a head under {heads}, got {site}")
        return Patch(site, as_values(self.codi, site, _plain(value), named))


def _as_sites(given: Any) -> list[Site]:
    """Sites, of one or of several.

    Raises:
        InputError: They are none.
    """
    several = isinstance(given, Iterable) and not isinstance(given, str)
    sites = list(given) if several else [given]
    wrong = [site for site in sites if not isinstance(site, Site)]
    if wrong or not sites:
        got = brief(wrong[0]) if wrong else "none"
        raise InputError(
            f'expected sites such as Site("kv", layer=3, position=1), got {got}: set [[sites]]'
        )
    return sites


def _plain(value: Any) -> Any:
    """A run as the activations that it had, everything else as it is."""
    if not isinstance(value, QuestionRun):
        return value
    sites = value.activations
    recorded = {site: sites[site] for site in EXTRA_SITES}
    recorded["kv"] = recorded["kv"].flatten(2)
    return Activations(value.thoughts, sites["resid_post"], recorded)


def _say_unknown(codi: CodiModel, *questions: str) -> None:
    """Warn of words that a model reads but never learned."""
    read = (*questions, codi.settings.answer_prefix)
    words = [word for text in read for word in unknown_words(codi.tokenizer, text)]
    if words:
        said = plain_text(", ".join(dict.fromkeys(words)))
        warnings.warn(
            f"the tokenizer does not know {said}: the model never learned what stands there",
            stacklevel=4,
        )


def _check_choice(argument: str, value: Any, choices: Any) -> None:
    """Refuse a value that is none of a `Literal`'s, naming the argument.

    Raises:
        InputError: It is none.
    """
    if not isinstance(value, str) or value not in get_args(choices):
        known = ", ".join(get_args(choices))
        raise InputError(f"expected {argument} of {known}, got {brief(value)}: set [[{argument}]]")
