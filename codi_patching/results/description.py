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

_WORDS = {
    "latents": ("frozen", "recomputed"),
    "direction": ("denoising", "noising"),
    "source": ("clean", "zero", "mean", "random_pair"),
    "control": ("sibling", "random_pair", "none", "words"),
}
"""What may stand in a run's description where another word would be taken for one of them."""


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
        """Refuse structural zeros outside the grid, and cells of one name."""
        rows, columns = self.shape
        for names in (self.layers, self.columns):
            if len(set(names)) < len(names):
                raise ValueError(f"expected names of layers and columns once each, got {[*names]}")
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
            ValueError: A key is missing, unknown or of another type, or says what no run is.
        """
        run = typed(cls, content, "metadata")
        for key, known in _WORDS.items():
            if getattr(run, key) not in known:
                expected = f"{key} to be one of {', '.join(known)}"
                raise ValueError(f"metadata: expected {expected}, got {getattr(run, key)!r}")
        return run


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
