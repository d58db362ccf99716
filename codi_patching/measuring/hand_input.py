"""What a notebook gives a call, made plain or refused in a line."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import replace
from typing import Any, get_args

from codi_patching.data.pairs import Pair, Question, as_question
from codi_patching.errors import InputError, brief
from codi_patching.measuring.by_hand import as_tensor
from codi_patching.patching.interventions import Site

Subject = Pair | Question
"""What is patched: a pair, or a question alone."""


def as_subjects(given: Any) -> list[Subject]:
    """Pairs or questions, in a list.

    Raises:
        InputError: It is no list of one or the other.
    """
    if isinstance(given, str | Pair | Question) or not isinstance(given, Iterable):
        raise InputError(
            f"expected a list of pairs or of questions, got {brief(given)}: set [[pairs]] to a "
            "list, or call patch"
        )
    listed = [each if isinstance(each, Pair) else as_question(each) for each in given]
    kinds = {type(each) for each in listed}
    if len(kinds) != 1:
        what = "both" if kinds else "none"
        raise InputError(f"expected pairs or questions, got {what}: set [[pairs]]")
    return listed


def as_sites(given: Any) -> list[Site]:
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


def value_of_each(value: Any, sites: Sequence[Site]) -> list[Any]:
    """A value for each site, of one for all or of as many.

    Raises:
        InputError: There are more or fewer.
    """
    value = as_tensor(value)
    values = list(value) if isinstance(value, list | tuple) else [value] * len(sites)
    if len(values) != len(sites):
        raise InputError(f"expected a value for each of {len(sites)} sites, got {len(values)}")
    return values


def with_own_ids(pairs: Sequence[Pair]) -> list[Pair]:
    """Pairs with an id each; of those of the same the second is called `…_2`."""
    seen: dict[str, int] = {}
    found = []
    for pair in pairs:
        seen[pair.pair_id] = seen.get(pair.pair_id, 0) + 1
        count = seen[pair.pair_id]
        name = pair.pair_id if count == 1 else f"{pair.pair_id}_{count}"
        group = name if pair.group == pair.pair_id else pair.group
        found.append(replace(pair, pair_id=name, group=group))
    return found


def texts_of(subject: Subject) -> list[str]:
    """The questions' texts."""
    both = [subject] if isinstance(subject, Question) else [subject.clean, subject.corrupted]
    return [question.text for question in both]


def check_metric(metric: Any) -> None:
    """Refuse a metric that is no function.

    Raises:
        InputError: It is none.
    """
    if metric is not None and (not callable(metric) or isinstance(metric, type)):
        raise InputError(
            "expected metric to be a function of a patched run, got "
            f"{brief(metric)}: set [[metric]]"
        )


def check_choice(argument: str, value: Any, choices: Any) -> None:
    """Refuse a value that is none of a `Literal`'s, naming the argument.

    Raises:
        InputError: It is none.
    """
    if not isinstance(value, str) or value not in get_args(choices):
        known = ", ".join(get_args(choices))
        raise InputError(f"expected {argument} of {known}, got {brief(value)}: set [[{argument}]]")
