"""What a notebook needs: load, run, patch, grid, lens; the experiments' calls without a Trainer.

import codi_patching as cp
model = cp.load("codi-tiny")
run = model.run("Tom has 5 apples. …")          # .answer, .thoughts, .activations, .lens(k=5)
pair = cp.Pair.of("Tom has 5 …", "Tom has 7 …")
sites = [cp.Site("resid_post", layer=l, position=p) for l in (3, 4, 5) for p in (1, 3)]
effect = model.patch(pair, sites)               # one patched run: .metrics, .logits, .answer
effect = model.patch("Tom has 5 …", cp.Site("thought", position=2), value=lambda z: z + vector)
cut = model.patch(pair, cp.Edge(reader="readout", read=("thought", 3)))   # attention cut
grid = model.grid(pair, site="kv")              # a frame: grid["recovery"].unstack()
many = model.patch_many(cp.read_pairs(), sites) # a dataset: many.recovery.mean()
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, overload

import pandas as pd
import torch
import xarray as xr
from torch import Tensor

from codi_patching.data.pair_files import read_pairs as pairs_of_file
from codi_patching.data.pairs import Pair, Question, as_question, split_equal
from codi_patching.errors import InputError, brief, path_text, plain_text, whole_number
from codi_patching.hand_calls import TOKENS, Calls, say_unknown
from codi_patching.hand_patching import Patching, RunMetric, as_floats, plain
from codi_patching.hand_runs import METRIC, Effect, Grid, QuestionRun, one_number
from codi_patching.measuring import by_hand
from codi_patching.measuring.by_hand import as_questions, with_answers
from codi_patching.measuring.engine_choice import EngineName, build_engine
from codi_patching.measuring.hand_edges import without_edges
from codi_patching.measuring.hand_input import (
    as_sites,
    as_subjects,
    check_choice,
    check_metric,
    value_of_each,
)
from codi_patching.measuring.measurement import Measurement
from codi_patching.measuring.own_cache import as_text, said_by
from codi_patching.measuring.patch_grid import (
    PatchGrid,
    Positions,
    all_positions,
    grid_layers,
    head_grid,
    single_cells,
    whole_layers,
)
from codi_patching.measuring.preparation import PairStart, Preparation
from codi_patching.measuring.prompts import Direction, Prompts, roles
from codi_patching.metrics.inputs import MetricInputs
from codi_patching.metrics.table import METRICS, metric_rows
from codi_patching.models.codi import CodiModel
from codi_patching.models.loading.checkpoint import load_checkpoint
from codi_patching.patching.edges import Edge
from codi_patching.patching.interventions import Latents, Site, SiteName
from codi_patching.results.description import ALL
from codi_patching.results.records import ExcludedPair
from codi_patching.shipped import SHIPPED_PAIRS


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

    Example:
        >>> import codi_patching as cp
        >>> cp.load("codi-tiny")
        Model(llama, 16 layers, 5 thoughts, hidden size 96)
    """
    check_choice("engine", engine, EngineName)
    codi, _ = load_checkpoint(
        checkpoint, num_latents, base_model, lora_alpha, prompt_eos, answer_prefix
    )
    return Model(codi, engine)


Value = by_hand.Value | QuestionRun
"""What is patched in: `"source"`, `"base"`, the source or the base run's activation; `"clean"`,
`"corrupted"`, those of the pair's questions; `"zero"`; `"mean"`, over questions; `"random_pair"`,
another pair's; a `Question`, or its run, that one's; a tensor or an array; or a function of what
the patched run has there."""


class Model:
    """A CODI model, to patch from Python.

    Args:
        codi: The model.
        engine: See `load`.

    Example:
        >>> import codi_patching as cp
        >>> model = cp.load("codi-tiny")
        >>> clean = "Raj has 53 stamps. He gives 21 to Zoe. He loses 19. How many stamps are left?"
        >>> pair = model.pair(clean, clean.replace("21", "20"))
        >>> pair.clean.answer, pair.corrupted.answer
        (13.0, 14.0)
        >>> grid = model.grid(pair, site="thought")
        >>> [round(probability, 2) for probability in grid["clean_probability"]]
        [0.99, 0.99, 0.0, 0.0, 0.0]
    """

    def __init__(self, codi: CodiModel, engine: EngineName = "sweep") -> None:
        check_choice("engine", engine, EngineName)
        if not isinstance(codi, CodiModel):
            raise InputError(f"expected a CodiModel, got {brief(codi)}: see load(checkpoint)")
        self.codi, self.engine = codi, build_engine(codi, engine, None)
        self._calls = Calls(codi, self.engine)

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

    def to(self, place: str | torch.device | torch.dtype) -> Model:
        """Move the model to a device, or change its precision; returns it.

        Raises:
            InputError: There is no such device here, or it is no floating type.
        """
        if not isinstance(place, str | torch.device | torch.dtype):
            raise InputError(f"expected a device or a dtype, got {brief(place)}: set [[place]]")
        try:
            if not isinstance(place, torch.dtype) and torch.device(place).type == "meta":
                raise ValueError("nothing can be run there")
            self.codi.to(place)
        except (RuntimeError, AssertionError, TypeError, ValueError) as error:
            reason = plain_text(str(error)).partition(". ")[0]
            raise InputError(
                f"expected a device of this machine or a floating type, got {brief(place)} "
                f"({reason}): set [[place]]"
            ) from None
        return self

    @contextmanager
    def gradients(self) -> Iterator[Model]:
        """Within, what `patch` gives can be differentiated by the values that are patched in.

        A value is a tensor that requires gradients, or a function of the present activation that
        uses one. Weights take none. The run without patches is constant: a thought is
        differentiated by as what is patched in at the site `thought`.

        Raises:
            InputError: It is called in torch's inference mode, which keeps nothing for gradients.
        """
        if torch.is_inference_mode_enabled():
            raise InputError("expected gradients outside of torch.inference_mode()")
        before = self._calls.differentiable
        taking = [p for p in self.codi.parameters() if p.requires_grad]
        self._calls.differentiable = True
        for parameter in taking:
            parameter.requires_grad_(False)
        try:
            yield self
        finally:
            self._calls.differentiable = before
            for parameter in taking:
                parameter.requires_grad_(True)

    # -- questions ------------------------------------------------------------------------------

    @overload
    def run(self, question: str | Question) -> QuestionRun: ...  # type: ignore[overload-overlap]

    @overload
    def run(self, question: Sequence[str | Question]) -> list[QuestionRun]: ...

    def run(
        self, question: str | Question | Sequence[str | Question]
    ) -> QuestionRun | list[QuestionRun]:
        """A question without patches; of a list of questions each, several side by side.

        Raises:
            InputError: One is no text, or does not fit the model.
        """
        found = self._calls.run(as_questions(question))
        alone = isinstance(question, str | Question) or not isinstance(question, Iterable)
        return found[0] if alone else found

    def pair(self, clean: str | Question, corrupted: str | Question) -> Pair:
        """Two typed questions, with the answers that the model gives; see `Pair.of`."""
        return with_answers(Pair.of(clean, corrupted), self._calls.texts)

    # -- patched runs ---------------------------------------------------------------------------

    def patch(
        self,
        pair: Pair | str | Question,
        sites: Site | Edge | Sequence[Site | Edge],
        value: Value | Sequence[Value] = "source",
        latents: Latents = "recomputed",
        direction: Direction = "denoising",
        questions: Sequence[str | Question] = (),
        metric: RunMetric | None = None,
        say: int = TOKENS,
    ) -> Effect:
        """One patched run.

        Args:
            pair: The two questions; denoising patches the corrupted one's run. Or a question alone,
                which is read at its own answer, or at what the model says to it.
            sites: All that is overwritten; edges of attention are cut in the base run, which with
                `noising` is the clean question's.
            value: What with: one for all sites or one for each; see `Value`. Tensors and arguments
                of functions have the shape of the site's activation, `(hidden,)`, for `kv`
                `(2, heads, size)`, or that flat, for a head `(size,)`.
            latents: Whether later thoughts are generated anew or stay the base run's.
            direction: `noising` patches the clean question's run with the corrupted one's.
            questions: What `"mean"` is taken over, at a place those that have it (the patched
                question has no changed number), and `"random_pair"` is the first of.
            metric: A function of the patched run; its number is in the metrics, as `metric`.
            say: Most tokens of the answer.

        Raises:
            InputError: The pair, a site or a value does not fit the model.
        """
        if isinstance(pair, str | Question):
            pair = as_question(pair)
        if not isinstance(pair, Pair | Question):
            raise InputError(
                f"expected a pair, got {brief(pair)}: make one with Pair.of(clean, corrupted)"
            )
        patching = self._patching(sites, value, latents, direction, questions, metric, say)
        ((_, found),) = patching.effects([pair])
        if isinstance(found, InputError):
            raise found
        _ = found.answer
        return found

    def patch_many(
        self,
        pairs: Sequence[Pair] | Sequence[str | Question],
        sites: Site | Edge | Sequence[Site | Edge],
        value: Value | Sequence[Value] = "source",
        latents: Latents = "recomputed",
        direction: Direction = "denoising",
        questions: Sequence[str | Question] = (),
        metric: RunMetric | None = None,
        say: int = TOKENS,
        seed: int = 42,
    ) -> xr.Dataset:
        """The same patch of many pairs, or of many questions alone, several side by side.

        Args:
            pairs: Pairs, or questions.
            sites: See `patch`.
            value: See `patch`. Without `questions`, `"mean"` is over the source questions of all
                pairs, and `"random_pair"` another pair of them, matched as in the experiments.
            latents: See `patch`.
            direction: See `patch`.
            questions: See `patch`.
            metric: See `patch`.
            say: See `patch`.
            seed: Of the draw of other pairs.

        Returns:
            Along `pair`, by id (or `question`, by text), a variable for each metric; `run_<metric>`
            of the runs without patches, along `run`; `said`, what the patched run says. Those that
            cannot be run are left out: `attrs["excluded"]` has the reason of each.

        Raises:
            InputError: There are none, or a site or value does not fit the model.
        """
        subjects = as_subjects(pairs)
        patching = self._patching(sites, value, latents, direction, questions, metric, say)
        return patching.dataset(subjects, whole_number(seed, "seed", 0))

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
        metric: RunMetric | None = None,
        positions: Positions = "thoughts",
    ) -> Grid:
        """Every cell alone, or every whole layer, as position and layer patching have it.

        Of the site `head` every head alone, at all positions at once.

        Args:
            pair: See `patch`.
            site: What is overwritten in each cell.
            latents: See `patch`.
            direction: See `patch`.
            value: A name, a question or its run; see `Value`.
            whole_layers: All positions of a layer at once.
            questions: See `patch`.
            metric: A function of each patched run; its numbers are the column `metric`.
            positions: With `all`, places outside the thoughts have columns too.

        Returns:
            By layer and position, or head, a column for each metric: `grid["recovery"].unstack()`
            is the map. `structural_zero` marks cells that cannot have an effect, whatever the
            model.
        """
        check_choice("site", site, SiteName)
        check_choice("latents", latents, Latents)
        check_metric(metric)
        if not isinstance(whole_layers, bool):
            raise InputError(
                f"expected whole_layers to be a truth value, got {brief(whole_layers)}"
            )
        check_choice("positions", positions, Positions)
        if positions == "all" and (whole_layers or site in ("head", "thought")):
            raise InputError(
                "expected positions thoughts with whole layers, heads or thoughts: set "
                "[[positions]]"
            )
        cells = self._cells(site, latents, whole_layers, positions)
        preparation = self._preparation(direction, cells.record, cells.places)
        start = self._start(preparation, pair)
        runs = start.base.run.activations(), start.source.run.activations()
        base, _ = roles(start.pair, direction)
        named = self._calls.named(
            runs,
            direction,
            cells.record,
            as_questions(questions),
            start.base.places,
            (lambda _: base) if cells.places else None,
        )
        start = replace(start, source_activations=named.of(plain(value)))
        if metric is not None:
            own = partial(_metric_of_cells, self.codi, start, cells, metric)
            cells = replace(cells, metrics={**METRICS, METRIC: own})
        measurement = Measurement(model=self.codi, preparation=preparation, cells=cells)
        (result,) = measurement.started([start])
        if isinstance(result, ExcludedPair):
            raise InputError(result.reason)
        names = [
            (int(layer) if layer.isdigit() else layer, int(at) if at.isdigit() else at)
            for _, layer, at in cells.grid.cells()
        ]
        index = pd.MultiIndex.from_tuples(names, names=["layer", cells.grid.column])
        columns = {m: v.flatten() for m, v in result.values.items()}
        return Grid({**columns, "structural_zero": cells.grid.structural.flatten()}, index=index)

    # -- parts of these -------------------------------------------------------------------------

    def _patching(
        self,
        sites: Site | Edge | Sequence[Site | Edge],
        value: Value | Sequence[Value],
        latents: Latents,
        direction: Direction,
        questions: Sequence[str | Question],
        metric: RunMetric | None,
        say: int,
    ) -> Patching:
        """The same patch, of any pairs or questions."""
        sites, edges = without_edges(sites)
        wanted = [] if edges and not sites else as_sites(sites)
        return Patching(
            calls=self._calls,
            sites=wanted,
            edges=edges,
            values=value_of_each(value, wanted),
            latents=latents,
            direction=direction,
            questions=as_questions(questions),
            metric=metric,
            say=whole_number(say, "say", 1),
        )

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
        self, direction: Direction, record: Sequence[SiteName], places: bool
    ) -> Preparation:
        """Makes unpatched runs, without control."""
        check_choice("direction", direction, Direction)
        prompts = Prompts.of(self.codi, direction, self.engine)
        return Preparation(engine=self.engine, prompts=prompts, record=record, places=places)

    def _start(self, preparation: Preparation, pair: Pair) -> PairStart:
        """The two unpatched runs of a pair."""
        if not isinstance(pair, Pair):
            raise InputError(
                f"expected a pair, got {brief(pair)}: make one with Pair.of(clean, corrupted)"
            )
        pair = with_answers(pair, self._calls.texts)
        say_unknown(self.codi, pair.clean.text, pair.corrupted.text)
        requests = preparation.requests(pair)
        key = tuple((tuple(ids), readout) for ids, readout in requests.all())
        runs = self._calls.once(
            (key, tuple(preparation.record), preparation.places),
            lambda: self.engine.unpatched(requests.all(), preparation.record, requests.places),
        )
        return preparation.start(pair, requests, runs)


def read_pairs(path: str | Path | None = None) -> list[Pair]:
    """The pairs of a file, or those that come with the package for one of its models.

    Pairs with equal answers are left out, as the experiments leave them out.

    Args:
        path: Of a file in either form of `data.pair_files`, or a shipped model; by default
            codi-tiny.

    Raises:
        InputError: The file cannot be read, or no pair of it has two different answers.

    Example:
        >>> import codi_patching as cp
        >>> pairs = cp.read_pairs()
        >>> len(pairs), pairs[0].clean.answer, pairs[0].corrupted.answer
        (57, 7.0, 6.0)
    """
    text = path_text("codi-tiny" if path is None else path, "path")
    path = SHIPPED_PAIRS.get(text, Path(text))
    kept, dropped = split_equal(pairs_of_file(path))
    if not kept:
        raise InputError(
            f"{path}: expected a pair with two different answers, but all {len(dropped)} have "
            "equal answers: set [[path]]"
        )
    return kept


def _metric_of_cells(
    codi: CodiModel, start: PairStart, cells: PatchGrid, metric: RunMetric, inputs: MetricInputs
) -> Tensor:
    """A metric of one's own, of each patched run of a grid, `(cells,)`."""
    rows = cells.patch_sets(start.source_activations)
    measured, unpatched = metric_rows(inputs), metric_rows(inputs.unpatched())
    base, source = (as_floats({n: v[run] for n, v in unpatched.items()}) for run in (0, 1))
    found = []
    for row, patches in enumerate(rows):

        def say(patches: Any = patches) -> str:
            if cells.places:
                raise InputError("expected no answer of patches outside the thoughts: use patch")
            return as_text(codi, said_by(codi, [start.base], [patches], cells.latents, TOKENS)[0])

        run = inputs.patched.take(slice(row, row + 1))
        answers = inputs.of(run)
        logits = {
            "clean": answers.answer(True, run)[0][0],
            "corrupted": answers.answer(False, run)[0][0],
        }
        values = as_floats({name: values[row] for name, values in measured.items()})
        found.append(float(one_number(metric(Effect(values, logits, base, source, say)))))
    return torch.tensor(found, dtype=torch.float64)
