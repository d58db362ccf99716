"""What several runs show together, in Markdown beside `comparison.json`: findings and figures."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

import numpy as np

from codi_patching.analysis.checks import Check, count_checks
from codi_patching.analysis.questions.decoded import SETTING
from codi_patching.reporting.evidence import FindingLike, is_open
from codi_patching.reporting.names import counted, data_name, model_name
from codi_patching.reporting.templates import environment
from codi_patching.reporting.wording import VERDICTS
from codi_patching.results.files import text_file
from codi_patching.results.lens import HitRates, LensResults
from codi_patching.results.read import Results

REPORT = "comparison.md"
LENS_FIGURE = "lens_and_patching"

_CAPTIONS = {
    "by_layer": "mean KL and content effect of whole layers, with 95 % intervals",
    "decomposition": "direct, mediated and total effect by layer",
}


def comparison_heading(arms: Mapping[str, Results]) -> str:
    """Title of a comparison."""
    run = next(iter(arms.values())).run
    return f"{len(arms)} experiments on {model_name(run)}, {data_name(run)}"


def beside_lens(arms: Mapping[str, Results]) -> dict[str, Results]:
    """Position patching of the states that the lens reads, recomputed thoughts first."""
    found = {
        label: results
        for label, results in arms.items()
        if results.run.experiment == "position"
        and (results.run.site, results.run.direction, results.run.source) == SETTING
    }
    return dict(sorted(found.items(), key=lambda item: item[1].run.latents != "recomputed"))


def write_comparison_report(
    folder: Path,
    arms: Mapping[str, Results],
    findings: Sequence[FindingLike],
    checks: Mapping[str, Sequence[Check]],
    lens: LensResults | None = None,
) -> None:
    """Write `comparison.md`, with the figures that the folder has.

    Args:
        folder: Of the comparison.
        arms: Results by label.
        findings: Of all arms.
        checks: Of validity, by what they are of.
        lens: What the lens read of the same pairs, if it was run.
    """
    first = next(iter(arms.values()))
    rates = None if lens is None else lens.rates()
    every = [check for own in checks.values() for check in own]
    text = environment().get_template("comparison.md.j2").render(
        title=comparison_heading(arms),
        model=model_name(first.run),
        data=data_name(first.run),
        run=first.run,
        pairs=counted(len(first.pair_ids), "pair"),
        arms=list(arms),
        answered=[f for f in findings if not is_open(f)],
        verdicts=VERDICTS,
        open_questions=[f for f in findings if is_open(f)],
        figures=[(caption, name) for caption, name in _figures(folder)],
        lens=None if lens is None else lens.run,
        lens_figure=f"{LENS_FIGURE}.png" if (folder / f"{LENS_FIGURE}.png").exists() else "",
        positions=[] if rates is None else list(range(rates.own.shape[2])),
        steps=[] if rates is None else list(_steps(rates)),
        counts=count_checks(every),
        failed=[check for check in every if check.status == "fail"],
    )  # fmt: skip
    with text_file(folder / REPORT) as file:
        file.write(text)


def _figures(folder: Path) -> Iterator[tuple[str, str]]:
    for name, caption in _CAPTIONS.items():
        yield from ((caption, path.name) for path in sorted(folder.glob(f"{name}*.png")))


def _steps(rates: HitRates) -> Iterator[tuple[int, int, list[str]]]:
    """Of every step and position the layer where it is read most often, and chance there."""
    for step, own in enumerate(rates.own):
        cells = []
        for position, layer in enumerate(own.argmax(axis=0)):
            chance = rates.chance[step][layer, position]
            beside = "" if np.isnan(chance) else f" (chance {chance:.0%})"
            cells.append(f"{own[layer, position]:.0%}{beside} at layer {layer}")
        yield step + 1, rates.pairs[step], cells
