"""What each position carries: which pairs a patch restores, by the step that changed.

Over all pairs an effect of a patch is a mixture: a thought that holds the result of step 2 restores
the pairs whose changed number reaches step 2, and no others. So pairs are told apart by their
number of steps and by the first step that uses the changed number, and counted: a pair is
*restored* where the source answer is said with the own patch, and neither with the control's nor
unpatched.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import xarray as xr
from numpy.typing import NDArray

from codi_patching.analysis.carries import (
    BACKGROUND,
    Pooled,
    Row,
    Test,
    carried,
    pooled,
    whichever,
)
from codi_patching.analysis.dependence import (
    PERMUTATIONS,
    bimodal_share,
    explained_share,
    permutation_p,
)
from codi_patching.analysis.effects import content, groups_of, mean_error, mean_over, metric_of
from codi_patching.analysis.findings import Carried, Entry, StrataFinding, StrataTable, Stratum
from codi_patching.analysis.intervals import ROUNDING
from codi_patching.analysis.restored import Count, Restored, counts_of
from codi_patching.results.dataset import (
    pairs_of,
    patches,
    run_of,
    structural_of,
)
from codi_patching.results.description import Array, Mask


def strata_finding(
    data: xr.Dataset,
    label: str,
    share: float,
    fields: Sequence[str] = (),
    seed: int = 0,
    permutations: int = PERMUTATIONS,
) -> StrataFinding | None:
    """Counts of restored pairs by stratum, at every layer, and what each position carries.

    An entry counts where P(Bin(n, max(0.05, the control's rate)) ≥ k) is at most `share` divided by
    the number of tests in its table, both of the stratum and of what it is pooled with: a position
    and a changed step, of the lengths that do not differ. A step is named only where effects depend
    on the step that changed, at the same share.

    Args:
        data: A run; see `results.dataset`.
        label: Its name.
        share: Of the level, 0..1.
        fields: Of the file of pairs, by which they are told apart too.
        seed: Of the permutations.
        permutations: Of the test of dependence.

    Returns:
        None where no source answer can be restored: where nothing is patched, of a source that is
        not the pair's own, or without metrics that say whether it is.
    """
    if not patches(data) or run_of(data).source != "clean":
        return None
    said = metric_of(run_of(data), "hit")
    if not {said, metric_of(run_of(data), "probability")} <= set(data.data_vars):
        return None
    groups = _codes(groups_of(data))
    strata, labels = strata_of(data, fields)
    restored = Restored.of(data, said)
    effects = list(content(data).values())
    able = ~structural_of(data)
    cells = [np.where(np.isfinite(effect), effect, 0.0)[:, able] for effect in effects]
    steps = _codes([None if np.isnan(n) else n for n in data["num_steps"].values])
    stepped = np.array([stratum.changed_step is not None for stratum in strata])
    by_step = np.where(stepped[labels[0]], labels[0], -1)
    tested = [by_step, *labels[1:]] if stepped.any() else labels[1:]
    depends = permutation_p(cells, tested, steps, groups, seed, permutations)
    members = _members(labels)
    tables = tuple(
        _table(restored, row, strata, members, groups, _Judge(label, share, depends <= share))
        for row in range(len(data["layer"]))
    )
    return StrataFinding(
        main=tables[_largest(effects, ~able, groups_of(data))],
        others=tables,
        depends=depends,
        bimodal=bimodal_share(effects[-1][:, able]),
        explained=explained_share(cells[-1], tested[0]) if tested else float("nan"),
    )


def strata_of(
    data: xr.Dataset, fields: Sequence[str] = ()
) -> tuple[tuple[Stratum, ...], list[NDArray[np.int_]]]:
    """Pairs alike in steps and changed step, in order; then those alike in each field.

    Returns:
        The strata, and for the steps and for each field the place of every pair's stratum,
        `(pairs,)`; -1 where a pair does not have the field.
    """
    pairs = pairs_of(data)
    known = zip(data["num_steps"].values, data["changed_step"].values, strict=True)
    keys = [(_whole(length), _whole(step)) for length, step in known]
    longest = max((value or 0 for key in keys for value in key), default=0)
    order = sorted(set(keys), key=lambda key: tuple(value or longest + 1 for value in key))
    strata = []
    for length, step in order:
        alike = [p for p, key in zip(pairs, keys, strict=True) if key == (length, step)]
        paths = [
            p.changed_path or (range(step, (length or longest) + 1) if step else ()) for p in alike
        ]
        strata.append(Stratum(length, step, len(alike), _in_most(paths)))
    place = {key: at for at, key in enumerate(order)}
    labels = [np.array([place[key] for key in keys], dtype=np.int_)]
    for name in fields:
        values = [pair.fields.get(name) for pair in pairs]
        of_field = Counter(value for value in values if value is not None)
        places = {value: len(strata) + at for at, value in enumerate(sorted(of_field))}
        strata += [Stratum(None, None, of_field[v], (), (name, v)) for v in places]
        labels.append(np.array([-1 if v is None else places[v] for v in values], dtype=np.int_))
    return tuple(strata), labels


@dataclass(frozen=True)
class _Judge:
    """How entries are judged: the run's name, the share, whether effects depend on steps."""

    label: str
    share: float
    depends: bool


def _table(
    restored: Restored,
    layer: int,
    strata: tuple[Stratum, ...],
    members: Array,
    groups: NDArray[np.int_],
    judge: _Judge,
) -> StrataTable:
    """The table of one layer."""
    counts = list(counts_of(restored, layer, members, groups))
    other = np.where(restored.structural[layer], 0.0, members @ restored.control[:, layer])
    of_steps = [at for at, stratum in enumerate(strata) if not stratum.field]
    real = np.flatnonzero(~restored.structural[layer]).tolist()
    control_n = int(restored.known[:, layer][:, real].sum())
    control = int(other[of_steps].sum())
    chains = [at for at in of_steps if strata[at].changed_step]
    stepped = [strata[at] for at in chains]
    pools = {c: pooled(stepped, [counts[at][c] for at in chains]) for c in real}
    rows = {c: _rows([row[c] for row in counts], chains, pools[c]) for c in real}
    whole = {c: sum((counts[at][c] for at in of_steps), Count()) for c in real}
    tested = sum(row.count.tested for own in rows.values() for row in set(own))
    tested += 0 if judge.depends else sum(count.tested for count in whole.values())
    by_chance = float(restored.by_chance[:, layer][:, real].sum()) / max(control_n, 1)
    test = Test(max(BACKGROUND, by_chance), judge.share / max(tested, 1))
    entries = tuple(
        tuple(
            _entry(count, int(other[at, c]), c in rows and test(rows[c][at].count) and test(count))
            for c, count in enumerate(row)
        )
        for at, row in enumerate(counts)
    )
    found: list[Carried] = []
    for c in real:
        if judge.depends:
            own = [counts[at][c] for at in chains]
            found += carried(restored.columns[c], stepped, own, pools[c], test)
        else:
            found.append(whichever(restored.columns[c], whole[c], test))
    return StrataTable(
        run=judge.label,
        layer=restored.layers[layer],
        strata=strata,
        columns=restored.columns,
        entries=entries,
        carried=tuple(found),
        control_restored=control,
        control_n=control_n,
        chance=test.rate,
    )


def _rows(counts: Sequence[Count], chains: Sequence[int], pools: Sequence[Pooled]) -> list[Row]:
    """Of one position, the row that each stratum is tested in: a pooled one, or its own."""
    rows = [Row(None, (at,), count) for at, count in enumerate(counts)]
    for row in (row for pool in pools for row in pool.rows):
        for place in row.strata:
            rows[chains[place]] = row
    return rows


def _entry(count: Count, control: int, counts: bool) -> Entry:
    low, high = count.interval
    return Entry(count.restored, count.n, low, high, counts, control)


def _largest(effects: Sequence[Array], structural: Mask, groups: Sequence[str]) -> int:
    """The layer of the largest effect, the lowest of those that tie with it.

    The effect is relative to what it is the smaller of. Cells tie where their means differ by no
    more than the standard error of the difference.
    """
    flat = [effect[:, ~structural] for effect in effects]
    means = np.min([mean_over(values) for values in flat], axis=0)
    if not np.isfinite(means).any():
        return 0
    best = int(np.nanargmax(means))
    nearest = min(flat, key=lambda values: float(mean_over(values)[best]))
    behind = nearest[:, [best]] - nearest
    error = np.nan_to_num(mean_error(behind, groups))
    tied = mean_over(behind) <= error + ROUNDING
    return int(np.nonzero(~structural)[0][tied][0])


def _members(labels: Sequence[NDArray[np.int_]]) -> Array:
    """`(strata, pairs)`: 1 where a pair is of the stratum."""
    places = range(max(int(of.max(initial=0)) for of in labels) + 1)
    return np.array([np.any([of == at for of in labels], axis=0) for at in places], dtype=float)


def _in_most(paths: Sequence[Sequence[int]]) -> tuple[int, ...]:
    """Steps that are on more than half of the paths."""
    on = Counter(step for path in paths for step in set(path))
    return tuple(sorted(step for step, times in on.items() if 2 * times > len(paths)))


def _codes(values: Sequence[object]) -> NDArray[np.int_]:
    """Whole numbers that are alike where the values are."""
    places = {value: at for at, value in enumerate(dict.fromkeys(values))}
    return np.array([places[value] for value in values], dtype=np.int_)


def _whole(value: float) -> int | None:
    return int(value) if np.isfinite(value) else None
