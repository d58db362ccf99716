"""What is known of each pair of a run, as it stands in a file of results."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Self

from codi_patching.results.description import typed


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


class _Described:
    """From JSON and to it, as it stands in a file of results."""

    def to_json(self) -> dict[str, Any]:
        """Plain dictionaries and lists."""
        return asdict(self)  # type: ignore[call-overload]

    @classmethod
    def from_json(cls, content: Any) -> Self:
        """From `to_json`.

        Raises:
            ValueError: A key is missing, unknown or of another type.
        """
        return typed(cls, content, "pair")


@dataclass(frozen=True)
class LensPair(_Described):
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
class AttentionPair(_Described):
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


@dataclass(frozen=True)
class KnockoutPair(_Described):
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
