"""What a results folder holds, as types: the run, its grid, and what each pair gave.

Everything before these types measures, everything after them is a function of them and needs no
model. `to_json` and `from_json` are the form that they have in the results file.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import MISSING, asdict, dataclass, field, fields
from typing import Any, get_type_hints

import numpy as np
from numpy.typing import NDArray

from codi_patching.errors import InputError

Array = NDArray[np.float64]
Mask = NDArray[np.bool_]

ALL = "all"
"""The one column of a grid in which a layer is one cell."""


class ResultsError(InputError):
    """A results folder is not what it should be."""


@dataclass(frozen=True)
class Grid:
    """The cells of an experiment, always layers × columns.

    Attributes:
        layers: Names of the rows: "thought" first if it is there, then "0", "1", ….
        column: What a column is: `position` or `iteration`.
        columns: Names of the columns: "0", "1", …, or "all" alone where a layer is one cell.
        structural_zeros: Row and column of the cells that cannot have an effect.
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

    def cells(self) -> Iterator[tuple[tuple[int, int], str, str]]:
        """Index, layer name and column name of every cell, row by row."""
        for row, layer in enumerate(self.layers):
            for column, name in enumerate(self.columns):
                yield (row, column), layer, name


def cell_label(
    grid: Grid, cell: tuple[int, int], recomputed: bool = False, site: str = "resid_post"
) -> str:
    """A cell in words, and the thought that it makes if that is all it does.

    Args:
        grid: Of the experiment.
        cell: Row and column.
        recomputed: Whether later thoughts are generated anew.
        site: What is overwritten.

    Example:
        >>> grid = Grid(("thought", "0", "1"), "position", ("0", "1"))
        >>> cell_label(grid, (1, 1)), cell_label(grid, (0, 0))
        ('layer 0, position 1', 'thought 0')
        >>> cell_label(grid, (2, 0), recomputed=True)
        'layer 1, position 0 (makes thought 1)'
    """
    row, place = cell
    layer, column = grid.layers[row], grid.columns[place]
    if layer == "thought":
        return "all thoughts" if column == ALL else f"thought {column}"
    name = f"layer {layer}" if column == ALL else f"layer {layer}, {grid.column} {column}"
    if not makes_thoughts(grid.layers, row, recomputed, site):
        return name
    if column == ALL:
        return f"{name} (makes the next thoughts)"
    last = place == len(grid.columns) - 1
    return name if last else f"{name} (makes thought {place + 1})"


def makes_thoughts(layers: Sequence[str], row: int, recomputed: bool, site: str) -> bool:
    """Whether a patch in a row of a grid is a patch of the next thoughts.

    With recomputed latents the last layer's output at a position is read by nothing else.

    Args:
        layers: Names of the grid's rows.
        row: One of them.
        recomputed: Whether later thoughts are generated anew.
        site: What is overwritten.
    """
    last = row == len(layers) - 1 and layers[row] != "thought"
    return last and recomputed and site == "resid_post"


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


@dataclass(frozen=True)
class RunDescription:
    """All that the numbers of a run depend on, and nothing that changes from run to run.

    Attributes:
        experiment: `layer`, `position` or `iterative`.
        strategy: Of iterative patching: `relay` or `cumulative`.
        latents: `frozen` or `recomputed`.
        direction: `denoising` or `noising`.
        source: What is patched in: `clean`, `zero`, `mean` or `random_pair`.
        control: `sibling`, `random_pair` or `none`, as asked for; each pair says which it got.
        site: What is overwritten in a cell.
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
        metrics: Names of the metrics.
        num_pairs: Pairs with results.
        filtered: Ids of pairs left out because both answers are equal.
        excluded: Reasons of pairs that could not be run, by id.
        config: The resolved configuration.
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

    @property
    def arm(self) -> str:
        """What the run is called among others: `layer`, `position`, `relay` or `cumulative`."""
        return self.strategy or self.experiment

    def label(self, cell: tuple[int, int]) -> str:
        """A cell in words; see `cell_label`."""
        return cell_label(self.grid, cell, self.latents == "recomputed", self.site)

    @property
    def clean_is_source(self) -> bool:
        """Whether the clean question's run is the source run."""
        return self.direction == "denoising"

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> RunDescription:
        """From `to_json`; other keys are refused.

        Raises:
            ValueError: A key is missing, unknown or of another type.
        """
        content = dict(content)
        content["grid"] = build_typed(Grid, content.get("grid"), "grid")
        content["code"] = build_typed(Code, content.get("code"), "code")
        return build_typed(cls, content, "metadata")


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
        unknown_words: Words of the questions that the tokenizer does not know.
        self_patch: Largest KL in any cell with the base run's own activations; None if not run.
        chain_links: Of relay, cells patched with what the iteration before generated.
        chain_broken: How many of those held anything else.
    """

    base_question: str
    source_question: str
    base_answer: str
    source_answer: str
    base_answer_tokens: tuple[int, ...]
    source_answer_tokens: tuple[int, ...]
    group: str
    base: dict[str, float]
    source: dict[str, float]
    ceiling: dict[str, float]
    ceiling_control: dict[str, float] = field(default_factory=dict)
    control: Control | None = None
    source_pair: str | None = None
    num_steps: int | None = None
    changed_step: int | None = None
    unknown_words: tuple[str, ...] = ()
    self_patch: float | None = None
    chain_links: int = 0
    chain_broken: int = 0

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists; the ceiling's control stands inside the ceiling."""
        content = asdict(self)
        content["ceiling"]["control"] = content.pop("ceiling_control") or None
        return content

    @classmethod
    def from_json(cls, content: Mapping[str, Any]) -> PairDescription:
        """From `to_json`; undefined metrics become NaN.

        Raises:
            ValueError: A key is missing, unknown or of another type.
        """
        content = dict(content)
        ceiling = dict(content.get("ceiling") or {})
        content["ceiling_control"] = ceiling.pop("control", None) or {}
        content["ceiling"] = ceiling
        for run in ("base", "source", "ceiling", "ceiling_control"):
            values = content.get(run)
            if isinstance(values, Mapping):
                content[run] = {m: as_number(v, f"{run}.{m}") for m, v in values.items()}
        if content.get("control") is not None:
            content["control"] = build_typed(Control, content["control"], "control")
        return build_typed(cls, content, "baseline")


def as_number(value: Any, where: str) -> float:
    """A number; null, which is undefined, as NaN.

    Raises:
        TypeError: It is something else.
    """
    if value is None:
        return float("nan")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise TypeError(f"{where}: expected numbers or null, got {value!r}")
    return float(value)


_PLAIN = {"str": str, "int": int, "bool": bool, "float": (int, float), "dict": dict}


def build_typed(cls: Any, content: Any, where: str) -> Any:
    """A dataclass from a mapping, lists as tuples; keys and simple types are checked.

    Raises:
        ValueError: A key is missing, unknown or of another type.
    """
    if not isinstance(content, Mapping):
        raise ValueError(f"expected {where} to be an object, got {content!r}")
    known = {f.name: f for f in fields(cls)}
    unknown = sorted(content.keys() - known.keys())
    needed = {n for n, f in known.items() if f.default is MISSING and f.default_factory is MISSING}
    missing = sorted(needed - content.keys())
    if unknown or missing:
        what = f"unknown {', '.join(unknown)}" if unknown else f"no {', '.join(missing)}"
        raise ValueError(f"expected {where} to have the keys of {cls.__name__}, got {what}")
    hints = get_type_hints(cls)
    for name, value in content.items():
        _check_type(hints[name], value, f"{where}.{name}")
    return cls(**{name: _frozen(value) for name, value in content.items()})


def _check_type(hint: Any, value: Any, where: str) -> None:
    """Refuse text for a number, and the like; nested types are checked when they are built."""
    text = str(hint) if not isinstance(hint, type) else hint.__name__
    if value is None and "None" in text:
        return
    wanted = text.replace(" | None", "").partition("[")[0]
    if wanted == "tuple":
        of_text = "tuple[str" in text
        right = isinstance(value, list | tuple)
        right = right and (not of_text or all(isinstance(item, str) for item in value))
    elif wanted in _PLAIN:
        right = isinstance(value, _PLAIN[wanted])  # type: ignore[arg-type]
        right = right and (wanted == "bool" or not isinstance(value, bool))
    else:
        return
    if not right:
        raise ValueError(f"expected {where} to be {text}, got {value!r}")


def _frozen(value: Any) -> Any:
    return tuple(_frozen(item) for item in value) if isinstance(value, list) else value
