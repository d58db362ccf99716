"""Which tokens of the readout are the answer.

The prefix and the answer are tokenised *together*, and the answer's tokens found by character
offsets, because tokenizers differ in where the space goes:

    Llama-3   "The" " answer" " is" ":" " " "18"      the answer is one token, "18"
    GPT-2     "The" " answer" " is" ":" " 18"         the answer is one token, " 18"
"""

from __future__ import annotations

from collections.abc import Sequence
from decimal import Decimal
from itertools import takewhile

from transformers import PreTrainedTokenizerFast

from codi_patching.errors import InputError
from codi_patching.patching.engine import Readout


class PairError(InputError):
    """A pair that cannot be run: it is left out, named and counted, and the others go on."""


def format_answer(answer: float) -> str:
    """The text of a numeric answer: 18.0 reads "18", 0.5 reads "0.5"."""
    if float(answer).is_integer():
        return str(int(answer))
    return format(Decimal(repr(float(answer))), "f")


def answer_tokens(
    tokenizer: PreTrainedTokenizerFast, prefix: str, answer: str
) -> tuple[list[int], list[int]]:
    """Tokens before the answer, and of the answer, of `"{prefix} {answer}"`.

    With an empty prefix the answer stands alone, without the space.

    Raises:
        PairError: One token holds the end of the prefix and the start of the answer.
    """
    ids, _, first = _tokens(tokenizer, prefix, answer)
    return ids[:first], ids[first:]


def _tokens(
    tokenizer: PreTrainedTokenizerFast, prefix: str, answer: str
) -> tuple[list[int], int, int]:
    """Tokens of prefix and answer, how many are the prefix's, and which is the answer's first.

    Raises:
        PairError: One token holds the end of the prefix and the start of the answer.
    """
    before = f"{prefix} " if prefix else ""
    encoding = tokenizer(before + answer, add_special_tokens=False, return_offsets_mapping=True)
    ids, offsets = list(encoding["input_ids"]), encoding["offset_mapping"]
    first = next(i for i, (_, end) in enumerate(offsets) if end > len(before))
    if offsets[first][0] < len(prefix):
        raise PairError(
            f"expected the answer {answer!r} to start a token of its own after {prefix!r}, got "
            f"the token {tokenizer.convert_ids_to_tokens(ids[first])!r}: "
            "set [[model.answer_prefix]]"
        )
    return ids, sum(start < len(prefix) for start, _ in offsets[:first]), first


def build_readout(
    tokenizer: PreTrainedTokenizerFast,
    eot_ids: Sequence[int],
    prefix: str,
    answers: Sequence[float],
) -> Readout:
    """The readout for several numeric answers, each read from where their tokens part at the most.

    Where one answer's first token takes the space before it and another's does not, as a minus
    does in Llama-3, the space is read with the answer:

        "The" " answer" " is" ":" | " " "18"
        "The" " answer" " is" ":" | " -" "5"

    Args:
        tokenizer: Of the model.
        eot_ids: Token ids between the thoughts and the prefix: `CodiSettings.eot_ids`.
        prefix: Text before the answer.
        answers: Of the questions.

    Raises:
        PairError: The tokens of the prefix differ, or an answer straddles it.
    """
    found = [_tokens(tokenizer, prefix, format_answer(answer)) for answer in answers]
    start = _shared_start([ids[:first] for ids, _, first in found])
    if any(len(start) < of_prefix for _, of_prefix, _ in found):
        raise PairError(
            f"expected the same tokens between {prefix!r} and each answer, got "
            f"{[tokenizer.convert_ids_to_tokens(ids[:first]) for ids, _, first in found]} "
            f"for {[format_answer(a) for a in answers]}"
        )
    return Readout((*eot_ids, *start), tuple(tuple(ids[len(start) :]) for ids, _, _ in found))


def _shared_start(sequences: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that all sequences begin with."""
    shared = takewhile(lambda tokens: len(set(tokens)) == 1, zip(*sequences, strict=False))
    return [tokens[0] for tokens in shared]
