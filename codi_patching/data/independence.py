"""What pairs are taken to be: independent of each other, with siblings that are controls.

Two questions are the same if they are read alike. Of a file that is their text, spaces aside; of a
model it is what `read` gives, `lambda text: tuple(model.question_ids(text))`: their tokens.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Sequence
from dataclasses import replace
from itertools import takewhile

from codi_patching.data.json_lines import in_short
from codi_patching.data.pairs import Pair

Read = Callable[[str], Hashable]
"""What a question's text is read as; texts that give the same are one question."""


def words_of(text: str) -> Hashable:
    """A text as it is read, whatever spaces are around and between its words."""
    return tuple(text.split())


def check_siblings(pairs: Sequence[Pair], read: Read = words_of) -> tuple[list[Pair], list[str]]:
    """Leave out siblings that are no third question, and name those that change more.

    Args:
        pairs: As they are in the file.
        read: What a text is read as.

    Returns:
        The pairs, and lines that name what was found.
    """
    checked: list[Pair] = []
    same, unlike = [], []
    for pair in pairs:
        twin = _twin_of_sibling(pair, read)
        if twin:
            same.append(f"{pair.pair_id} (it is the {twin} question)")
        elif pair.sibling is not None and not _changes_the_same(pair, pair.sibling.text):
            unlike.append(pair.pair_id)
        checked.append(replace(pair, sibling=None) if twin else pair)
    lines = []
    if same:
        lines.append(
            f"{len(same)} siblings left out, another pair's question is the control instead: "
            f"{in_short(same)}"
        )
    if unlike:
        lines.append(
            f"{len(unlike)} siblings differ from their pairs outside the changed number, so these "
            f"controls change more than the pairs do: {in_short(unlike)}"
        )
    return checked, lines


def _twin_of_sibling(pair: Pair, read: Read) -> str:
    """Which of a pair's questions its sibling is; empty if neither."""
    if pair.sibling is None:
        return ""
    third = read(pair.sibling.text)
    sides = {"clean": pair.clean, "corrupted": pair.corrupted}
    return next((name for name, question in sides.items() if read(question.text) == third), "")


def _changes_the_same(pair: Pair, text: str) -> bool:
    """Whether a third text differs from a pair's questions only where these differ, by words."""
    clean, corrupted, third = pair.clean.text.split(), pair.corrupted.text.split(), text.split()
    before = _shared(clean, corrupted)
    after = _shared(clean[before:][::-1], corrupted[before:][::-1])
    start, end = _shared(clean, third), _shared(clean[::-1], third[::-1])
    return start >= before and end >= after and len(third) >= before + after


def _shared(one: Sequence[str], other: Sequence[str]) -> int:
    """How many words two texts begin with alike."""
    return sum(1 for _ in takewhile(lambda both: both[0] == both[1], zip(one, other, strict=False)))


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
