"""Which tokens of a prompt are its question, and which of these carry no number."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from codi_patching.data.chains import ChainError
from codi_patching.data.mentions import find_mentions
from codi_patching.models.answers import PairError
from codi_patching.models.codi import CodiModel


@dataclass(frozen=True)
class QuestionTokens:
    """A prompt's tokens by what they are; places are counted from the prompt's first token.

    Attributes:
        length: Of the prompt.
        question: All but a special token that the tokenizer puts first; bot is one of them.
        numbers: Those of the question's own text that carry a number.
        plain: Those that carry none.
    """

    length: int
    question: tuple[int, ...]
    numbers: tuple[int, ...]
    plain: tuple[int, ...]

    @property
    def before_thoughts(self) -> dict[str, tuple[int, ...]]:
        """Places of question and numbers, counted from the end of the prompt."""
        named = {"question": self.question, "numbers": self.numbers}
        return {name: self.from_end(places) for name, places in named.items()}

    def from_end(self, places: Sequence[int]) -> tuple[int, ...]:
        """Places counted from the end of the prompt, as cuts count them."""
        return tuple(place - self.length for place in places)

    @classmethod
    def of(cls, model: CodiModel, question: str) -> QuestionTokens:
        """The tokens of a question's prompt.

        A token carries a number if it has a digit or stands where a number is named, in words too:
        twelve, half, first.

        Raises:
            PairError: A number has more digits than can be read.
        """
        text = model.question_text(question)
        encoding = model.tokenizer(
            text, return_offsets_mapping=True, return_special_tokens_mask=True
        )
        special, spans = encoding["special_tokens_mask"], encoding["offset_mapping"]
        try:
            named = [(mention.start, mention.end) for mention in find_mentions(text)]
        except ChainError as error:
            raise PairError(str(error)) from error
        first = next((place for place, is_special in enumerate(special) if not is_special), 0)
        own = [place for place, is_special in enumerate(special) if not is_special]
        numbers = tuple(place for place in own if _has_number(text, spans[place], named))
        plain = tuple(place for place in own if place not in numbers)
        length = len(special) + len(model.settings.bot_ids)
        return cls(length, tuple(range(first, length)), numbers, plain)


def _has_number(text: str, span: Sequence[int], named: Sequence[tuple[int, int]]) -> bool:
    """Whether a span of a text has a digit, or stands where a number is named."""
    start, end = span
    digits = any(character.isnumeric() for character in text[start:end])
    return digits or any(start < stop and begin < end for begin, stop in named)
