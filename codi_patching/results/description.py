"""What a results folder holds, as types: the run, its grid, and what is known of each pair.

Everything before these types measures, everything after them is a function of them and needs no
model. In the results file they stand as JSON objects of the same keys.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any, TypeVar

import msgspec
import numpy as np
from numpy.typing import NDArray

from codi_patching.errors import InputError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]
T = TypeVar("T")

ALL = "all"
"""The one column of a grid in which a layer is one cell."""

EDGE = "edge"
"""What a column is where edges of attention are cut."""
THOUGHTS = "thoughts"
"""Patches are at the latent positions alone, at all of them or one after the other."""

THOUGHT = "thought"
"""The row of the latent thoughts themselves, what enters layer 0."""


class ResultsError(InputError):
    """A results folder is not what it should be."""


def place_name(column: str) -> str:
    """A place outside the thoughts in words.

    Example:
        >>> [place_name(name) for name in ("number", "question end", "eot", "readout 2")]
        ['the changed number', "the question's last token", 'eot', 'readout token 2']
    """
    words = {"number": "the changed number", "question end": "the question's last token"}
    return words.get(column, column.replace("readout", "readout token"))


@dataclass(frozen=True)
class Grid:
    """The cells of an experiment, always layers × columns.

    Attributes:
        layers: Names of the rows: "thought" first if it is there, then "0", "1", …; where edges are
            cut "all" first, then "0", "1", … or windows of layers, "0-2", "1-3", ….
        column: What a column is: `position`, `iteration`, `head` or `edge`.
        columns: Names of the columns: "0", "1", …, or "all" alone where a layer is one cell; of
            positions, places outside the thoughts by name; of edges "question->readout",
            "0->readout", "0->1", ….
        structural_zeros: Row and column of the cells whose patched state nothing reads.
    """

    layers: tuple[str, ...]
    column: str
    columns: tuple[str, ...]
    structural_zeros: tuple[tuple[int, int], ...] = ()

    def __post_init__(self) -> None:
        """Refuse structural zeros outside the grid."""
        rows, columns = self.shape
        for row, column in self.structural_zeros:
            if not (0 <= row < rows and 0 <= column < columns):
                raise ValueError(
                    f"expected structural zeros inside {list(self.shape)}, got {[row, column]}"
                )

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns."""
        return len(self.layers), len(self.columns)

    @property
    def size(self) -> int:
        """Number of cells."""
        return len(self.layers) * len(self.columns)

    @property
    def whole_layers(self) -> bool:
        """Whether a layer is one cell."""
        return self.columns == (ALL,)

    @property
    def structural(self) -> Mask:
        """The structural zeros as a mask in the grid's shape."""
        mask = np.zeros(self.shape, dtype=bool)
        for cell in self.structural_zeros:
            mask[cell] = True
        return mask

    def row_label(self, row: int, makes_thoughts: bool = False) -> str:
        """A row in words: `layer 3`, `the thoughts themselves`; whether it makes the next ones."""
        if self.layers[row] == THOUGHT:
            return "the thoughts themselves"
        if self.layers[row] == ALL:
            return "all layers"
        first, _, last = self.layers[row].partition("-")
        if last:
            return f"layers {first} to {last}"
        name = f"layer {self.layers[row]}"
        return f"{name} (makes the next thoughts)" if makes_thoughts else name

    def label(self, cell: tuple[int, int], makes_thoughts: bool = False) -> str:
        """A cell in words, and the thought that it makes if that is all it does.

        `layer 3, position 1`, `thought 0`, `layer 15, position 3 (makes thought 4)`.
        """
        row, place = cell
        layer, column = self.layers[row], self.columns[place]
        if layer == THOUGHT:
            return "all thoughts" if column == ALL else f"thought {column}"
        if column == ALL:
            return self.row_label(row, makes_thoughts)
        if self.column == EDGE:
            ends = (f"z{end}" if end.isdigit() else end for end in column.split("->"))
            return f"{' → '.join(ends)}, {self.row_label(row)}"
        if not column.isdigit():
            name = f"layer {layer}, {place_name(column)}"
        else:
            name = f"layer {layer}, {self.column} {column}"
        made = self._thought_made(column)
        return f"{name} (makes thought {made})" if makes_thoughts and made is not None else name

    def _thought_made(self, column: str) -> int | None:
        """The thought that is made from a position's last state; None if there is none."""
        made = 0 if column == "bot" else int(column) + 1 if column.isdigit() else None
        return made if str(made) in self.columns else None

    def cells(self) -> Iterator[tuple[tuple[int, int], str, str]]:
        """Index, layer name and column name of every cell, row by row."""
        for row, layer in enumerate(self.layers):
            for column, name in enumerate(self.columns):
                yield (row, column), layer, name


@dataclass(frozen=True)
class Code:
    """The code that measured.

    Attributes:
        sha256: Of the package's sources; a run is resumed by the same sources only.
        version: Of the package.
        git_commit: Of the checkout it ran from, if it was one.
        git_changed: Whether the checkout differed from that commit.
    """

    sha256: str
    version: str
    git_commit: str | None = None
    git_changed: bool | None = None


def places_in_words(positions: str) -> str:
    """Where patches are, if not at the thoughts.

    Example:
        >>> [places_in_words(positions) for positions in ("thoughts", "all", "1", "bot")]
        ['', 'all positions', 'position 1', 'bot']
    """
    if positions == THOUGHTS:
        return ""
    if positions == "all":
        return "all positions"
    return f"position {positions}" if positions.isdigit() else place_name(positions)


@dataclass(frozen=True)
class RunLabel:
    """What a run is called by, known before its model is loaded; see `RunDescription`."""

    model: str
    data: str
    experiment: str
    strategy: str | None
    latents: str
    direction: str
    source: str
    control: str
    site: str
    positions: str = THOUGHTS

    @property
    def places(self) -> str:
        """See `RunDescription.places`."""
        return places_in_words(self.positions)


@dataclass(frozen=True)
class RunDescription:
    """All that the numbers of a run depend on, and nothing that changes from run to run.

    Attributes:
        experiment: `layer`, `position`, `iterative`, `head`, `lens`, `attention`, `knockout`, or
            the name of a user's own.
        strategy: Of iterative patching: `relay` or `cumulative`.
        latents: `frozen` or `recomputed`.
        direction: `denoising` or `noising`.
        source: What is patched in: `clean`, `zero`, `mean` or `random_pair`.
        control: `sibling`, `random_pair` or `none`, as asked for; each pair says which it got;
            where edges are cut `words`.
        site: What is overwritten in a cell, or read there.
        model: Name, folder or file of the checkpoint, as asked for.
        model_type: Family of the backbone.
        num_latents: K.
        checkpoint_sha256: Of the weights.
        checkpoint: What was loaded from where.
        data: Name of the file of pairs; empty for the shipped ones.
        data_sha256: Of that file.
        seed: Of everything random.
        precision: Of the model, as Lightning names it.
        device: Its kind, and what of it the last digits depend on.
        versions: Of the packages that compute.
        code: That measured.
        grid: The cells.
        metrics: Names of the metrics; none of the lens.
        num_pairs: Pairs with results.
        filtered: Ids of pairs left out because both answers are equal.
        excluded: Reasons of pairs that could not be run, by id.
        config: The resolved configuration.
        mean_runs: With the source `mean`, over how many source runs it is taken: those of all
            usable pairs, however many of them the run has; None if nobody wrote it down.
        top: Of the lens, how many tokens are kept for each cell; a hit is a result among them.
        readers: Of attention, names of those who attend, the last one before the answer.
        attended: Of attention, names of what is attended to.
        positions: Where patches are: at the `thoughts`; at `all` places, those outside the thoughts
            too; or of heads at this one.
    """

    experiment: str
    strategy: str | None
    latents: str
    direction: str
    source: str
    control: str
    site: str
    model: str
    model_type: str
    num_latents: int
    checkpoint_sha256: str
    checkpoint: dict[str, Any]
    data: str
    data_sha256: str
    seed: int
    precision: str
    device: dict[str, Any]
    versions: dict[str, str]
    code: Code
    grid: Grid
    metrics: tuple[str, ...]
    num_pairs: int
    filtered: tuple[str, ...] = ()
    excluded: dict[str, str] = field(default_factory=dict)
    config: dict[str, Any] = field(default_factory=dict)
    mean_runs: int | None = None
    top: int | None = None
    readers: tuple[str, ...] = ()
    attended: tuple[str, ...] = ()
    positions: str = THOUGHTS

    @property
    def places(self) -> str:
        """Where patches are in words; empty for the thoughts."""
        return places_in_words(self.positions)

    @property
    def arm(self) -> str:
        """What the run is called among others: `layer`, `position`, `relay`, `cumulative`, …."""
        return self.strategy or self.experiment

    @property
    def pooled(self) -> tuple[str, ...]:
        """Names of the checkpoints that were put together; none of a run of one."""
        return tuple(self.checkpoint.get("pooled", ()))

    @property
    def feeds_back(self) -> bool:
        """Whether the model makes its thoughts; else they are learned vectors."""
        return bool(self.checkpoint.get("feeds_back", True))

    @property
    def clean_is_source(self) -> bool:
        """Whether the clean question's run is the source run."""
        return self.direction == "denoising"

    def makes_thoughts(self, row: int) -> bool:
        """Whether a patch in a row of the grid is a patch of the next thoughts and nothing else.

        With recomputed latents the last layer's output at a position is read by nothing else.
        """
        layers = self.grid.layers
        last = row == len(layers) - 1 and layers[row] != THOUGHT
        made_anew = self.latents == "recomputed" and self.feeds_back
        return last and made_anew and self.site == "resid_post"

    def layer_label(self, row: int) -> str:
        """A row in words: `layer 3`, `the thoughts themselves`."""
        return self.grid.row_label(row, self.makes_thoughts(row))

    def label(self, cell: tuple[int, int]) -> str:
        """A cell in words; see `Grid.label`."""
        return self.grid.label(cell, self.makes_thoughts(cell[0]))

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists; where patches are, if not at the thoughts."""
        content = asdict(self)
        if self.positions == THOUGHTS:
            del content["positions"]
        return content

    @classmethod
    def from_json(cls, content: Any) -> RunDescription:
        """From `to_json`.

        Raises:
            ValueError: A key is missing, unknown or of another type.
        """
        return typed(cls, content, "metadata")


@dataclass(frozen=True)
class Control:
    """The other question whose activations a pair was patched with, to compare.

    Attributes:
        kind: `sibling` or `random_pair`.
        question: Whose run they come from.
        answer: Its answer.
        pair_id: The pair it belongs to; its own for a sibling.
    """

    kind: str
    question: str
    answer: str
    pair_id: str


@dataclass(frozen=True)
class VerifiedRun:
    """A run that was made again by the reference engine, its metrics by independent code.

    Attributes:
        arm: `own`, `control` or `self` of a cell; `base`, `source`, `ceiling` or
            `ceiling_control` of a whole run.
        layer: Name of the cell's layer; None of a whole run.
        column: Name of its column.
        metrics: Each metric as the independent code computed it.
    """

    arm: str
    metrics: dict[str, float | None]
    layer: str | None = None
    column: str | None = None


@dataclass(frozen=True)
class PairDescription:
    """A pair, and what its runs without patches of single cells gave.

    Attributes:
        base_question: The question whose run is patched.
        source_question: The question that the activations come from.
        base_answer: Its answer.
        source_answer: Its answer.
        base_answer_tokens: Token ids that are read.
        source_answer_tokens: Token ids that are read.
        group: Pairs of one group share a question.
        base: Each metric of the base run.
        source: Each metric of the source run.
        ceiling: Each metric of the run with all thoughts of the source run, at all layers.
        ceiling_control: The same with the control's thoughts; empty without a control.
        control: What the control is; None if there is none.
        source_pair: The other pair that the activations come from, if they do.
        num_steps: Reasoning steps of the question, if known.
        changed_step: The first step that differs between the questions, from 1, if known.
        changed_path: All steps whose results differ, from 1: where the changed number goes.
        fields: The pair's own further fields in the file of pairs, as text.
        base_tokens: Length of the base run's prompt.
        source_tokens: Length of the source run's prompt.
        unknown_words: Words of the questions that the tokenizer does not know.
        self_patch: Largest KL in any cell with the base run's own activations; None if not run.
        chain_links: Of relay, cells patched with what the iteration before generated.
        chain_broken: How many of those held anything else.
        verified: Runs that were made again another way.
        left_out: By column why it has no values of this pair, or none of its control.
    """

    base_question: str
    source_question: str
    base_answer: str
    source_answer: str
    base_answer_tokens: tuple[int, ...]
    source_answer_tokens: tuple[int, ...]
    group: str
    base: dict[str, float | None]
    source: dict[str, float | None]
    ceiling: dict[str, float | None]
    ceiling_control: dict[str, float | None] = field(default_factory=dict)
    control: Control | None = None
    source_pair: str | None = None
    num_steps: int | None = None
    changed_step: int | None = None
    changed_path: tuple[int, ...] = ()
    fields: dict[str, str] = field(default_factory=dict)
    base_tokens: int | None = None
    source_tokens: int | None = None
    unknown_words: tuple[str, ...] = ()
    self_patch: float | None = None
    chain_links: int = 0
    chain_broken: int = 0
    verified: tuple[VerifiedRun, ...] = ()
    left_out: dict[str, str] = field(default_factory=dict)

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists; the ceiling's control stands inside the ceiling."""
        content = asdict(self)
        if not self.left_out:
            del content["left_out"]
        content["ceiling"]["control"] = content.pop("ceiling_control") or None
        return content

    @classmethod
    def from_json(cls, content: Any) -> PairDescription:
        """From `to_json`.

        Raises:
            ValueError: A key is missing, unknown or of another type.
        """
        if isinstance(content, Mapping) and isinstance(content.get("ceiling"), Mapping):
            ceiling = dict(content["ceiling"])
            control = ceiling.pop("control", None)
            content = {**content, "ceiling": ceiling, "ceiling_control": control or {}}
        return typed(cls, content, "baseline")


@dataclass(frozen=True)
class ReadStep:
    """A reasoning step that the lens looks for.

    Attributes:
        result: The step's result, as text.
        tokens: Its token ids; ranks are of the first of them.
        chance_result: The result of the same step of another pair; empty if there is none.
        corrupted_result: The result of the same step of the corrupted question; empty if it has
            not as many steps with results.
    """

    result: str
    tokens: tuple[int, ...]
    chance_result: str = ""
    corrupted_result: str = ""


@dataclass(frozen=True)
class LensPair:
    """A pair seen through the lens.

    Attributes:
        question: Its clean question, whose run is read.
        steps: Its reasoning steps.
        top: The most probable tokens as text, best first, `(L, K, top)`.
        group: Pairs of one group share a question.
    """

    question: str
    steps: tuple[ReadStep, ...]
    top: list[list[list[str]]]
    group: str = ""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> LensPair:
        """From `to_json`.

        Raises:
            ValueError: A key is missing, unknown or of another type.
        """
        return typed(cls, content, "pair")


@dataclass(frozen=True)
class VerifiedLook:
    """Where a reader looks in a layer, read again by transformers' eager attention.

    Attributes:
        reader: Who attends.
        layer: Name of the layer.
        head: One of its heads.
        shares: What that head gives to each of what is attended to.
        mean: The mean over heads.
        strongest: Of the head that gives most to each.
    """

    reader: str
    layer: str
    head: int
    shares: tuple[float, ...]
    mean: tuple[float, ...]
    strongest: tuple[float, ...]


@dataclass(frozen=True)
class AttentionPair:
    """A pair whose attention was read.

    Attributes:
        question: Its clean question, whose run is read.
        tokens: Tokens of each group that is attended to.
        group: Pairs of one group share a question.
        num_steps: Reasoning steps of the question, if known.
        verified: What was read again another way.
    """

    question: str
    tokens: tuple[int, ...]
    group: str = ""
    num_steps: int | None = None
    verified: tuple[VerifiedLook, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> AttentionPair:
        """From `to_json`.

        Raises:
            ValueError: A key is missing, unknown or of another type.
        """
        return typed(cls, content, "pair")


@dataclass(frozen=True)
class KnockoutPair:
    """A pair of whose clean question's run edges of attention were cut.

    Attributes:
        question: Its clean question, whose run is cut.
        answer: Its answer, whose fall is measured.
        corrupted_answer: The corrupted question's answer.
        uncut: Each metric of the run without a cut.
        prompt_tokens: Length of the prompt.
        question_tokens: Places in the prompt that are cut where the question is.
        number_tokens: Those of them that carry a number.
        plain_tokens: Those of the question's own text that carry none.
        control_tokens: By edge those that the control cuts; none of edges without one.
        group: Pairs of one group share a question.
        num_steps: Reasoning steps of the question, if known.
        changed_step: The first step that differs between the questions, from 1, if known.
        verified: Runs that were made again another way.
    """

    question: str
    answer: str
    corrupted_answer: str
    uncut: dict[str, float | None]
    prompt_tokens: int
    question_tokens: tuple[int, ...]
    number_tokens: tuple[int, ...]
    plain_tokens: tuple[int, ...]
    control_tokens: dict[str, tuple[int, ...]]
    group: str = ""
    num_steps: int | None = None
    changed_step: int | None = None
    verified: tuple[VerifiedRun, ...] = ()

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Any) -> KnockoutPair:
        """From `to_json`.

        Raises:
            ValueError: A key is missing, unknown or of another type.
        """
        return typed(cls, content, "pair")


def typed(cls: type[T], content: Any, where: str) -> T:
    """A dataclass from JSON, its types checked, those inside it too.

    Raises:
        ValueError: A key is missing, unknown or of another type, saying where.
    """
    if isinstance(content, Mapping):
        unknown = sorted(content.keys() - {f.name for f in fields(cls)})  # type: ignore[arg-type]
        if unknown:
            raise ValueError(f"expected no key {', '.join(map(str, unknown))} in {where}")
    try:
        return msgspec.convert(content, cls)
    except msgspec.ValidationError as error:
        raise ValueError(f"{where}: {error}") from error
