"""Reports made by hand: findings whose numbers a test says, on datasets without a model."""

import numpy as np
import xarray as xr
from results_maker import make, run_of

from codi_patching.analysis.checks import Check
from codi_patching.analysis.findings import (
    Carried,
    Claim,
    Comparison,
    Entry,
    Finding,
    StrataFinding,
    StrataTable,
    Stratum,
)
from codi_patching.analysis.report import Report, Summary

POSITION = "position, recomputed"


def comparison(mean, against="unpatched", low=None, high=None, up=20, down=0, n=24):
    """A comparison whose interval is 0.1 to either side if it is not given."""
    low = mean - 0.1 if low is None else low
    high = mean + 0.1 if high is None else high
    return Comparison(against, mean, low, high, up, down, n, n)


def claim(layer="1", column="0", verdict="rises", mean=0.5, other=0.4, p=0.002, bound=0.6, **more):
    """A claim about a cell with both comparisons."""
    both = (comparison(mean), comparison(other, "control"))
    name = f"layer {layer}, position {column}"
    more = {"layer": layer, "column": column, **more}
    return Claim(name, verdict, both, p, bound, **more)


def entry(restored, n, counts=None, control=0):
    """An entry that counts where most are restored, unless it is said."""
    counts = restored > n / 2 if counts is None else counts
    return Entry(restored, n, 0.0, 1.0, counts, control)


def strata_of(carried, rows, columns=("0", "1", "2"), layer="0"):
    """A finding of what each thought carries.

    Args:
        carried: `(column, step, restored, n)`; step None for nothing shown.
        rows: `(num_steps, changed_step, [restored, …], n)`.
        columns: Names of positions.
        layer: Of the table.
    """
    table = StrataTable(
        run=POSITION,
        layer=layer,
        strata=tuple(Stratum(steps, changed, n) for steps, changed, _, n in rows),
        columns=tuple(columns),
        entries=tuple(tuple(entry(k, n) for k in restored) for _, _, restored, n in rows),
        carried=tuple(
            Carried(column, step, (), restored, n, 0, 10, most=0.21)
            for column, step, restored, n in carried
        ),
        control_restored=1,
        control_n=99,
    )
    return StrataFinding(table, (table,), 0.0005, 0.97, 0.99)


def finding(key, number, answer, lead=None, **more):
    """A finding of the run of position patching."""
    more.setdefault("claims", (lead,) if lead else ())
    return Finding(key, number, answer, (POSITION,), lead, **more)


def report(*findings, checks=None, run=None, pairs=24, **made):
    """A report of one run."""
    run = run or run_of("position")
    data = make(run, pairs=pairs, **made)
    nothing = xr.Dataset(
        {"content_effect": (("layer", "column"), np.zeros(run.grid.shape))},
        {"layer": list(run.grid.layers), "column": list(run.grid.columns)},
    )
    summary = Summary(POSITION, data, nothing, (), (), ())
    checks = checks or [Check("self-patch", "no change", "no change", "pass", "measured")]
    return Report(
        summaries={POSITION: summary},
        lens=None,
        hit_rates=None,
        findings=tuple(findings),
        checks={POSITION: tuple(checks)},
        tests={POSITION: ()},
        seed=42,
    )
