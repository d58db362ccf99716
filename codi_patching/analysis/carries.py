"""Which step's result a position carries, from how many pairs it restores by the step that changed.

A thought that holds the result of step k restores a pair exactly if the result of step k differs
between its questions, that is, if k lies on the changed number's path through the chain:

    changed in step     path          z holds r_2     z holds r_3 = r_1 + r_2
    1                   1, 3          -               restored
    2                   2, 3          restored        restored
    3 (the last)        3             -               restored

So, of the strata that are restored, the latest along each path names the step. Problems of several
lengths are pooled where they do not differ, since few of a file's pairs are in each stratum.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import cache
from math import comb

from codi_patching.analysis.findings import Carried, Stratum
from codi_patching.analysis.restored import Count

BACKGROUND = 0.05
"""Rate at which a patch may restore by chance, if the control's is not larger."""

DIFFER = 0.05
"""Lengths are pooled where the p of Fisher's exact test, that they differ, is above this."""

STRONG = 0.5
"""Share of the position's best rate from which on a step is more than a trace."""


@dataclass(frozen=True)
class Test:
    """Whether a count is more than chance allows.

    Attributes:
        rate: Of restoring by chance.
        level: Of each test.
    """

    rate: float
    level: float

    def __call__(self, count: Count) -> bool:
        """Whether there are enough pairs, and enough of them restored."""
        return count.tested and count.chance(self.rate) <= self.level


@dataclass(frozen=True)
class Row:
    """A changed step of problems that are pooled.

    Attributes:
        step: From 1; None for the last step of each length.
        strata: Pooled: their places.
        count: Of them.
    """

    step: int | None
    strata: tuple[int, ...]
    count: Count


@dataclass(frozen=True)
class Pooled:
    """Lengths that do not differ at a position: its rows.

    Attributes:
        lengths: Numbers of steps; empty where they are unknown.
        rows: By changed step, the last step apart.
    """

    lengths: tuple[int, ...]
    rows: tuple[Row, ...]


def pooled(strata: Sequence[Stratum], counts: Sequence[Count]) -> tuple[Pooled, ...]:
    """The strata of one position, lengths put together where they do not differ.

    A length joins the first of the shorter ones with which no changed step that both have differs
    by Fisher's exact test; the last steps are compared with each other.

    Args:
        strata: All with a changed step.
        counts: Of each.
    """
    by_length: dict[int | None, list[int]] = {}
    for place, stratum in enumerate(strata):
        by_length.setdefault(stratum.num_steps, []).append(place)
    joined: list[tuple[list[int], dict[int | None, list[int]]]] = []
    for length, places in sorted(by_length.items(), key=lambda item: item[0] or 0):
        own: dict[int | None, list[int]] = {_row_of(strata[place]): [place] for place in places}
        for lengths, rows in joined:
            if all(_alike(counts, rows[step], own[step]) for step in rows.keys() & own.keys()):
                lengths.append(length or 0)
                for step, added in own.items():
                    rows.setdefault(step, []).extend(added)
                break
        else:
            joined.append(([length or 0], own))
    return tuple(
        Pooled(
            tuple(length for length in lengths if length),
            tuple(Row(step, tuple(p), _sum(counts, p)) for step, p in rows.items()),
        )
        for lengths, rows in joined
    )


def carried(
    column: str,
    strata: Sequence[Stratum],
    counts: Sequence[Count],
    pools: Sequence[Pooled],
    test: Test,
) -> tuple[Carried, ...]:
    """What a position carries, for each pool of lengths.

    Args:
        column: Its name.
        strata: All with a changed step.
        counts: Of each.
        pools: From `pooled`.
        test: Whether a count is more than chance allows.
    """
    judged = [j for pool in pools for j in _judged(strata, counts, pool, test)]
    found: list[Carried] = []
    for pool, steps, counting in judged:
        lengths = pool.lengths if len(judged) > 1 else ()
        if not steps:
            found.append(_nothing(column, pool, lengths))
        for step in steps:
            traces = _traces(strata, pool, steps, counting)
            places = [place for row in pool.rows for place in row.strata]
            on_path = [place for place in places if step in strata[place].path]
            of, others = _split(counts, places, on_path)
            found.append(
                Carried(column, step, traces, of.restored, of.n, others.restored, others.n, lengths)
            )
    return tuple(found)


def whichever(column: str, count: Count, test: Test) -> Carried:
    """What a position does where effects are not shown to depend on the step that changed.

    Args:
        column: Its name.
        count: Of all pairs.
        test: Whether a count is more than chance allows.
    """
    most = float("nan") if test(count) else count.interval[1]
    return Carried(column, None, (), count.restored, count.n, 0, 0, (), most)


def _row_of(stratum: Stratum) -> int | None:
    """The changed step, or None for the last one."""
    return None if stratum.changed_step == stratum.num_steps else stratum.changed_step


def _sum(counts: Sequence[Count], places: Iterable[int]) -> Count:
    return sum((counts[place] for place in places), Count())


def _alike(counts: Sequence[Count], some: Iterable[int], others: Iterable[int]) -> bool:
    one, two = _sum(counts, some), _sum(counts, others)
    successes = round(one.unit_restored), round(two.unit_restored)
    return _fisher(successes[0], one.units, successes[1], two.units) > DIFFER


@cache
def _fisher(restored: int, n: int, other_restored: int, other_n: int) -> float:
    """Two-sided p of Fisher's exact test: of all tables that are no more probable than this one."""
    both = restored + other_restored
    weights = [comb(n, k) * comb(other_n, both - k) for k in range(min(n, both) + 1)]
    return sum(weight for weight in weights if weight <= weights[restored]) / sum(weights)


def _judged(
    strata: Sequence[Stratum], counts: Sequence[Count], pool: Pooled, test: Test
) -> list[tuple[Pooled, list[int], list[Row]]]:
    """A pool, the steps that the position carries in it, and the rows that count.

    Lengths that were pooled for want of pairs and do not share in what is carried are judged by
    themselves. The last step is another one for each length: its result is said of each whose own
    count of it is more than chance allows, and at half the others' rate or more.
    """
    counting = [row for row in pool.rows if test(row.count)]
    if not counting:
        return [(pool, [], [])]
    best = max(row.count.rate for row in counting)
    strong = [row for row in counting if row.count.rate >= STRONG * best]
    if any(row.step is None for row in strong):
        return _last_steps(strata, counts, pool, test)
    steps = _latest(strata, pool, strong)
    apart = tuple(n for n in pool.lengths if not _shares(strata, counts, pool, steps, n))
    if apart:
        rest = tuple(length for length in pool.lengths if length not in apart)
        parts = [_part(strata, counts, pool, lengths) for lengths in (apart, rest) if lengths]
        if len(parts) > 1:
            return [j for part in parts for j in _judged(strata, counts, part, test)]
    return [(pool, steps, counting)]


def _last_steps(
    strata: Sequence[Stratum], counts: Sequence[Count], pool: Pooled, test: Test
) -> list[tuple[Pooled, list[int], list[Row]]]:
    """The last step's result, of the lengths that show it; nothing is said of the others."""
    places = next(row.strata for row in pool.rows if row.step is None)
    shown = []
    for length in pool.lengths:
        own = _sum(counts, (p for p in places if strata[p].num_steps == length))
        others = _sum(counts, (p for p in places if strata[p].num_steps != length))
        if test(own) and own.rate >= STRONG * others.rate:
            shown.append(length)
    rest = tuple(length for length in pool.lengths if length not in shown)
    found = [(_part(strata, counts, pool, (length,)), [length], list[Row]()) for length in shown]
    return [*found, (_part(strata, counts, pool, rest), [], [])] if rest else found


def _shares(
    strata: Sequence[Stratum],
    counts: Sequence[Count],
    pool: Pooled,
    steps: Sequence[int],
    length: int,
) -> bool:
    """Whether steps are before a length's last, and restored there at half the others' rate."""
    on_path = [p for row in pool.rows for p in row.strata if set(steps) & set(strata[p].path)]
    own = _sum(counts, (p for p in on_path if strata[p].num_steps == length))
    others = _sum(counts, (p for p in on_path if strata[p].num_steps != length))
    return length > max(steps) and own.rate >= STRONG * others.rate


def _part(
    strata: Sequence[Stratum], counts: Sequence[Count], pool: Pooled, lengths: tuple[int, ...]
) -> Pooled:
    """Some of a pool's lengths."""
    rows = []
    for row in pool.rows:
        places = tuple(place for place in row.strata if strata[place].num_steps in lengths)
        if places:
            rows.append(Row(row.step, places, _sum(counts, places)))
    return Pooled(lengths, tuple(rows))


def _latest(strata: Sequence[Stratum], pool: Pooled, strong: Sequence[Row]) -> list[int]:
    """The steps that explain which rows are restored: the latest along each path.

    Several branches that meet later, in a step that too few pairs change to be tested, are
    explained by that step alone.
    """
    paths = {row.step: _path(strata, row) for row in strong if row.step}
    steps = [s for s in paths if not any(later in paths for later in paths[s] if later > s)]
    if len(steps) > 1:
        common = set.intersection(*map(set, paths.values())) - set(pool.lengths)
        tested = {row.step for row in pool.rows if row.count.tested}
        if common and min(common) not in tested:
            return [min(common)]
    return sorted(steps)


def _traces(
    strata: Sequence[Stratum], pool: Pooled, steps: Sequence[int], counting: Sequence[Row]
) -> tuple[int, ...]:
    """Steps that count too, and are not explained by what is carried."""
    found: set[int] = set()
    for row in counting:
        if not set(steps) & set(_path(strata, row)):
            found |= {row.step} if row.step else set(pool.lengths)
    return tuple(sorted(found - set(steps)))


def _path(strata: Sequence[Stratum], row: Row) -> tuple[int, ...]:
    """Steps on the paths of all strata of a row."""
    return tuple(sorted(set.intersection(*(set(strata[place].path) for place in row.strata))))


def _split(
    counts: Sequence[Count], places: Iterable[int], on_path: Sequence[int]
) -> tuple[Count, Count]:
    return _sum(counts, on_path), _sum(counts, (p for p in places if p not in on_path))


def _nothing(column: str, pool: Pooled, lengths: tuple[int, ...]) -> Carried:
    """Nothing shown: the row that comes nearest to it, of equal ones that with the most pairs."""
    rows = [row for row in pool.rows if row.count.tested] or list(pool.rows)
    best = max(rows, key=lambda row: (row.count.rate, row.count.units)).count
    every = sum((row.count for row in pool.rows), Count())
    return Carried(
        column=column,
        step=None,
        traces=(),
        restored=best.restored,
        n=best.n,
        others_restored=every.restored - best.restored,
        others_n=every.n - best.n,
        lengths=lengths,
        most=best.interval[1],
    )
