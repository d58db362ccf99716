"""What pairs are taken to be: independent of each other, with siblings that are controls.

Two questions are the same if they are read alike. Of a file that is their words and the values of
their numbers; of a model it is what `read` gives, `lambda text: tuple(model.question_ids(text))`:
their tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from fractions import Fraction
from functools import lru_cache

from codi_patching.data.chains import ChainError
from codi_patching.data.json_lines import in_short
from codi_patching.data.mentions import find_mentions
from codi_patching.data.pairs import Pair, Question

Read = Callable[[str], Hashable]
"""What a question's text is read as; texts that give the same are one question."""


@lru_cache(maxsize=10_000)
def words_of(text: str) -> tuple[tuple[str, ...], tuple[Fraction, ...]]:
    """A text's words with its numbers taken out, and what these are worth.

    Case, the spaces around and between words and characters that cannot be seen are none of it.

    >>> words_of("Tom has  13 eggs. ") == words_of("tom has Thirteen eggs.")
    True
    """
    plain = unicodedata.normalize("NFC", text).casefold()
    plain = "".join(c for c in plain if unicodedata.category(c) != "Cf")
    try:
        mentions = find_mentions(plain)
    except ChainError:
        return tuple(plain.split()), ()
    ends = [0, *(mention.end for mention in mentions)]
    starts = [*(mention.start for mention in mentions), len(plain)]
    between = [plain[end:start] for end, start in zip(ends, starts, strict=True)]
    return tuple("\0".join(between).split()), tuple(mention.value for mention in mentions)


def check_siblings(pairs: Sequence[Pair], read: Read = words_of) -> tuple[list[Pair], list[str]]:
    """Leave out siblings that are no third question, and name those that change more.

    Args:
        pairs: As they are in the file.
        read: What a text is read as.

    Returns:
        The pairs, and lines that name what was found.
    """
    checked: list[Pair] = []
    refused, unlike = [], []
    for pair in pairs:
        reason = "" if pair.sibling is None else _why_no_sibling(pair, pair.sibling, read)
        if reason:
            refused.append(f"{pair.pair_id} ({reason})")
        elif pair.sibling is not None and not _changes_the_same(pair, pair.sibling.text):
            unlike.append(pair.pair_id)
        checked.append(replace(pair, sibling=None) if reason else pair)
    lines = []
    if refused:
        lines.append(
            f"{len(refused)} siblings left out, another pair's question is the control instead "
            f"where one fits: {in_short(refused)}"
        )
    if unlike:
        lines.append(
            f"{len(unlike)} siblings differ from their pairs outside the changed number, so these "
            f"controls change more than the pairs do: {in_short(unlike)}"
        )
    return checked, lines


def _why_no_sibling(pair: Pair, sibling: Question, read: Read) -> str:
    """Why a sibling controls nothing: it is one of the pair's questions, or has its answer."""
    sides = {"clean": pair.clean, "corrupted": pair.corrupted}
    for name, question in sides.items():
        if read(sibling.text) == read(question.text):
            return f"it is the {name} question"
    for name, question in sides.items():
        if sibling.answer == question.answer:
            return f"it has the {name} answer"
    return ""


def _changes_the_same(pair: Pair, text: str) -> bool:
    """Whether a third text differs from a pair's questions only in a number that they change."""
    forms = [words_of(each) for each in (pair.clean.text, pair.corrupted.text, text)]
    words, values = zip(*forms, strict=True)
    return len(set(words)) == 1 and all(
        third == clean or clean != corrupted
        for clean, corrupted, third in zip(*values, strict=True)
    )


def name_unlike(pairs: Sequence[Pair]) -> list[str]:
    """A line that names pairs whose two questions differ in more than one number alone."""
    found = []
    for pair in pairs:
        (words, values), (other_words, other_values) = map(
            words_of, (pair.clean.text, pair.corrupted.text)
        )
        changed = sum(one != other for one, other in zip(values, other_values, strict=False))
        if words != other_words or changed > 1:
            found.append(pair.pair_id)
    if not found:
        return []
    return [
        f"{len(found)} pairs differ in more than one number alone, so their effects are of all "
        f"that differs: {in_short(found)}"
    ]


def join_groups(pairs: Sequence[Pair], read: Read = words_of) -> tuple[list[Pair], list[str]]:
    """Put pairs that share a question into one group, named after its first pair's.

    Args:
        pairs: As they are in the file.
        read: What a text is read as.

    Returns:
        The pairs, and a line that names the groups which the file has apart.
    """
    roots = _roots(pairs, read)
    names: dict[Hashable, str] = {}
    members: dict[str, list[str]] = {}
    joined = []
    for pair in pairs:
        name = names.setdefault(roots[pair.group], pair.group)
        joined.append(pair if pair.group == name else replace(pair, group=name))
        if pair.group != name:
            members.setdefault(name, [name]).append(pair.pair_id)
    if not members:
        return joined, []
    found = [in_short(ids, 3, ", ") for ids in members.values()]
    return joined, [
        f"{sum(map(len, members.values()))} pairs share their questions; each of {len(found)} "
        f"groups of them counts as one: {in_short(found)}"
    ]


def _roots(pairs: Sequence[Pair], read: Read) -> dict[str, Hashable]:
    """For each group one of all the groups and questions that it is connected with."""
    leader: dict[Hashable, Hashable] = {}

    def root(key: Hashable) -> Hashable:
        while leader.setdefault(key, key) != key:
            key = leader[key]
        return key

    for pair in pairs:
        for question in (pair.clean, pair.corrupted):
            leader[root((read(question.text),))] = root(pair.group)
    return {pair.group: root(pair.group) for pair in pairs}
