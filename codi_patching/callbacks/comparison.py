"""Compares the results of the three experiments: at the end of a run, or from their folders alone.

Reads results files only, so it needs no model. Writes

    comparison.json    what was compared, validity, findings, every statistic
    comparison.csv     the paired tests, a row each
    effects.png, differences.png, additivity.png
    report.html        one page with all of it
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import lightning.pytorch as pl
import numpy as np
from lightning.pytorch.utilities import rank_zero_info, rank_zero_warn

from codi_patching.analysis.comparison import Arm, compare_arms, same_by_construction
from codi_patching.analysis.findings import Finding, answer_questions
from codi_patching.analysis.statistics import ROUNDING, Array, agree
from codi_patching.analysis.validity import (
    Check,
    check_arms,
    check_baselines,
    check_recovery,
    check_structural_zeros,
    check_unchanged,
)
from codi_patching.callbacks.page import PAGE, write_page
from codi_patching.callbacks.results import check_writable, on_first, written_results
from codi_patching.data.results import (
    Results,
    ResultsError,
    read_results,
    results_name,
    write_json,
    write_table,
)

_SAME = ("checkpoint_sha256", "data_sha256", "seed", "direction", "source", "precision")
_NEEDED = (*_SAME, "model", "strategy", "latents", "num_pairs")
_BF16_ROUNDING = 2e-2


class Comparison(pl.Callback):
    """After an experiment, compares it with the results of the others that are there.

    Args:
        layer: Folder of layer-patching results; the comparison is made if it is named.
        position: Folder of position-patching results.
        iterative: Folders of further iterative results.
        dir: Output folder.
    """

    def __init__(
        self,
        layer: str | None = None,
        position: str | None = None,
        iterative: list[str] | None = None,
        dir: str = "results/comparison",
    ) -> None:
        self.named = {"layer": layer, "position": position}
        self.iterative, self.dir = iterative or [], dir
        self.made = False

    def setup(self, trainer: pl.Trainer, pl_module: pl.LightningModule, stage: str) -> None:
        """Find out before the work whether the folder can be written.

        Raises:
            ResultsError: It cannot.
        """
        if any(self.named.values()):
            on_first(trainer, lambda: check_writable(Path(self.dir), "--comparison.dir"))

    def on_predict_end(self, trainer: pl.Trainer, pl_module: pl.LightningModule) -> None:
        """Compare; what is missing or does not belong together costs a warning, not the run."""
        if not any(self.named.values()) or not trainer.is_global_zero:
            return
        own, _ = written_results(trainer)
        folders = [own]
        folders += [
            Path(f) for f in (*self.named.values(), *self.iterative) if f and Path(f) != own
        ]
        there = [folder for folder in folders if any(folder.glob(results_name("*")))]
        try:
            compare_folders(there, Path(self.dir))
            self.made = True
        except ResultsError as error:
            rank_zero_warn(f"no comparison: {error}")


def compare_folders(folders: Sequence[Path], out: Path) -> list[Check]:
    """Compare results folders, and write and print what they say together.

    Args:
        folders: Of layer, position and one or two iterative experiments.
        out: Where files are written.

    Returns:
        The validity checks.

    Raises:
        ResultsError: A folder is missing or has no whole results, or two do not belong together.
    """
    everything = _by_name(folders)
    _check_compatible(everything)
    check_writable(out, "--dir or --comparison.dir")
    arms = {name: as_arm(name, results) for name, results in everything.items()}
    first = everything["layer"]
    seed = int(first.metadata["seed"])
    rounding = ROUNDING if str(first.metadata["precision"])[:2] in ("32", "64") else _BF16_ROUNDING
    unpatched = _unpatched(first, "baseline")
    compared = compare_arms(arms, unpatched, seed, rounding)
    findings = answer_questions(compared)
    checks = check_together(everything, arms, rounding)
    out.mkdir(parents=True, exist_ok=True)
    write_json(
        out / "comparison.json",
        {
            "metadata": _describe(everything, rounding),
            "validity": [asdict(check) for check in checks],
            "findings": [asdict(finding) for finding in findings],
            **compared,
        },
    )
    write_table(out / "comparison.csv", list(_rows(compared)))
    _draw(arms, compared, unpatched, seed, out)
    effects = {
        label: (list(arm.layers), arm.values["kl_divergence"]) for label, arm in _ends(arms).items()
    }
    write_page(
        out / PAGE,
        everything,
        [("together", asdict(check)) for check in checks],
        [asdict(finding) for finding in findings],
        effects,
    )
    rank_zero_info(_report(compared, findings, checks, out))
    return checks


def _by_name(folders: Sequence[Path]) -> dict[str, Results]:
    """Results by the name of their arm: layer, position, relay, cumulative."""
    found: dict[str, Results] = {}
    for folder in folders:
        results = read_results(folder)
        lacking = [key for key in _NEEDED if key not in results.metadata]
        if lacking:
            raise ResultsError(f"expected metadata of {folder} to have {', '.join(lacking)}")
        name = str(results.metadata["strategy"] or results.metadata["experiment"])
        if name in found:
            raise ResultsError(f"expected one {name} experiment, got another in {folder}")
        found[name] = results
    lacking = [name for name in ("layer", "position") if name not in found]
    if not {"relay", "cumulative"} & found.keys():
        lacking.append("iterative")
    if lacking:
        raise ResultsError(
            f"expected results of layer, position and iterative patching, got none of "
            f"{', '.join(lacking)}: run them, or name their folders"
        )
    return {n: found[n] for n in ("layer", "position", "relay", "cumulative") if n in found}


def _check_compatible(everything: Mapping[str, Results]) -> None:
    """Refuse results that are not of the same model, data, pairs and settings."""
    (first_name, first), *others = everything.items()
    for name, results in others:
        for field in _SAME:
            ours, theirs = first.metadata.get(field), results.metadata.get(field)
            if ours != theirs:
                raise ResultsError(
                    f"{first_name} and {name} patching differ in {field}: {ours!r} and {theirs!r}"
                )
        if first.metadata["grid"]["layers"] != results.metadata["grid"]["layers"]:
            raise ResultsError(f"{first_name} and {name} patching differ in their layers")
        missing = sorted(set(first.pair_ids) ^ set(results.pair_ids))
        if missing:
            raise ResultsError(
                f"{first_name} and {name} patching differ in their pairs: only one of them has "
                f"{', '.join(missing[:5])}"
            )
        if first.pair_ids != results.pair_ids:
            raise ResultsError(f"{first_name} and {name} patching have pairs in another order")


def as_arm(name: str, results: Results) -> Arm:
    """Results as an arm of the comparison."""
    grid = results.metadata["grid"]
    return Arm(
        name,
        results.metadata["latents"],
        tuple(grid["layers"]),
        tuple(grid["positions"]),
        results.values,
        results.structural,
    )


def _unpatched(results: Results, run: str) -> Array:
    """Answer logit difference of each pair's unpatched run: `baseline` or `giving`."""
    values = [results.baseline[p][run]["answer_logit_difference"] for p in results.pair_ids]
    return np.array(values, dtype=np.float64)


def check_together(
    everything: Mapping[str, Results], arms: Mapping[str, Arm], rounding: float
) -> list[Check]:
    """What must hold between the results of experiments, and within each file."""
    checks = [check_baselines({name: results.baseline for name, results in everything.items()})]
    for name, results in everything.items():
        checks.append(
            check_recovery(
                name,
                results.values["recovery"],
                results.values["answer_logit_difference"],
                _unpatched(results, "baseline"),
                _unpatched(results, "giving"),
            )
        )
        kl = results.values["kl_divergence"]
        zeros = check_structural_zeros(kl, results.structural)
        checks.append(Check(f"{zeros.name} of {name}", zeros.expected, zeros.seen, zeros.status))
    layer = arms["layer"]
    for name in ("relay", "cumulative"):
        if name in arms:
            end = arms[name].end()
            both = ~(layer.structural | end.structural)
            first, second = (arm.values["kl_divergence"][:, both] for arm in (end, layer))
            identical = agree(first, second, rounding)
            by_construction = same_by_construction(end, layer)
            checks.append(check_arms(f"{name}'s end", "layer", identical, by_construction, "KL"))
    changed = check_unchanged({name: results.changed for name, results in everything.items()})
    return [*checks, *_check_first_iterations(arms, rounding), changed]


def _check_first_iterations(arms: Mapping[str, Arm], rounding: float) -> list[Check]:
    """A chain's first iteration is position 0 alone, if positions have recomputed latents."""
    position = arms["position"]
    if position.latents != "recomputed":
        return []
    checks = []
    for name in ("relay", "cumulative"):
        if name in arms:
            first = arms[name].values["kl_divergence"][:, :, 0]
            identical = agree(first, position.values["kl_divergence"][:, :, 0], rounding)
            check = check_arms(f"{name}'s first iteration", "position 0", identical, True, "KL")
            checks.append(check)
    return checks


def _describe(everything: Mapping[str, Results], rounding: float) -> dict[str, Any]:
    """What was compared."""
    first = next(iter(everything.values())).metadata
    return {
        **{field: first[field] for field in _SAME},
        "model": first["model"],
        "num_pairs": first["num_pairs"],
        "latents": {name: results.metadata["latents"] for name, results in everything.items()},
        "interval": "95 % percentile bootstrap over pairs",
        "correction": "Holm",
        "rounding": rounding,
    }


_NUMBERS = (
    "n", "first", "second", "difference", "ci_low", "ci_high", "t", "p_t", "p_t_holm", "wilcoxon",
    "p_wilcoxon", "p_wilcoxon_holm", "effect_size", "effect_low", "effect_high", "identical",
)  # fmt: skip


def _rows(node: Any, path: tuple[str, ...] = ()) -> Iterator[dict[str, Any]]:
    """Every paired test of the comparison, flat, with the way to it in `comparison.json`."""
    if isinstance(node, Mapping):
        if "p_wilcoxon" in node:
            numbers = {key: node[key] for key in _NUMBERS if node.get(key) is not None}
            yield {"test": "/".join(path), **dict.fromkeys(_NUMBERS, ""), **numbers}
        for key, value in node.items():
            yield from _rows(value, (*path, str(key)))
    elif isinstance(node, list):
        for item in (item for item in node if isinstance(item, Mapping)):
            names = (f"{k} {item[k]}" for k in ("layer", "position", "positions") if k in item)
            yield from _rows(item, (*path, next(names)))


def _ends(arms: Mapping[str, Arm]) -> dict[str, Arm]:
    """What patches all positions of a layer, by a label."""
    chains = {f"{n}, last iteration": arms[n].end() for n in ("relay", "cumulative") if n in arms}
    return {f"layer patching ({arms['layer'].latents})": arms["layer"], **chains}


def _draw(
    arms: Mapping[str, Arm], compared: Mapping[str, Any], unpatched: Array, seed: int, out: Path
) -> None:
    from codi_patching.analysis import comparison_figures as figures

    figures.effects_by_layer(_ends(arms), "kl_divergence", seed).savefig(
        out / "effects.png", dpi=150
    )
    chains = {n: c["metrics"] for n, c in compared["iterative_against_parallel"].items()}
    drawn = figures.differences_by_layer(chains, ("kl_divergence", "recovery"))
    drawn.savefig(out / "differences.png", dpi=150)
    panels = []
    position = arms["position"]
    for whole, effects in compared["additivity"].items():
        arm = arms[whole].end() if arms[whole].columns else arms[whole]
        for effect, label in (
            ("kl_divergence", "KL (nats)"),
            ("answer_logit_difference", "change of answer logit difference"),
        ):
            shift = unpatched if effect == "answer_logit_difference" else np.zeros_like(unpatched)
            singles = np.where(
                position.structural, 0.0, position.values[effect] - shift[:, None, None]
            )
            together = arm.known(effect) - shift[:, None]
            title = f"{label}\n{arm.latents} latents, whole: {whole}"
            panels.append((title, singles.sum(-1), together, effects[effect]["line"]))
    if panels:
        drawn = figures.additivity(panels, position.layers)
        drawn.savefig(out / "additivity.png", dpi=150)


def _report(
    compared: Mapping[str, Any], findings: Sequence[Finding], checks: Sequence[Check], out: Path
) -> str:
    """A short table, the answers, and what failed."""
    heading = f"{'comparison':<23}{'metric':<24}{'iterative':>11}{'parallel':>11}"
    lines = ["", f"{heading}  {'difference [95 % interval]':<30}{'d_z':>6}   p (Wilcoxon)"]
    for name, chain in compared["iterative_against_parallel"].items():
        for metric, tests in chain["metrics"].items():
            test = tests["overall"]
            line = f"{name + ' − parallel':<23}{metric:<24}"
            line += f"{test['first']:>11.4f}{test['second']:>11.4f}" if test["n"] else ""
            if test["identical"]:
                line += "  identical" + (" by construction" * chain["same_by_construction"])
            elif test["p_wilcoxon"] is not None:
                interval = f"{test['difference']:.4f} [{test['ci_low']:.4f}, {test['ci_high']:.4f}]"
                size = "" if test["effect_size"] is None else f"{test['effect_size']:.2f}"
                line += f"  {interval:<30}{size:>6}   {test['p_wilcoxon']:.3g}"
            lines.append(line)
    lines += [""] + [f"{finding.question}\n    {finding.answer}" for finding in findings]
    failed = [check for check in checks if check.status == "fail"]
    lines += ["", f"validity: {len(checks) - len(failed)} of {len(checks)} checks hold"]
    lines += [f"FAILED  {c.name}: expected {c.expected}; seen: {c.seen}" for c in failed]
    return "\n".join([*lines, f"written to {out}"])
