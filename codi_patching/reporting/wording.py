"""How a run was made, in the sentences of a methods section."""

from __future__ import annotations

from collections import Counter

from codi_patching.reporting.names import counted, data_name, model_name, words
from codi_patching.results.read import Results
from codi_patching.results.schema import RunDescription

_PATCHES = {
    "layer": "For each pair and layer, {site} is overwritten at all latent positions at once by "
    "{given}.",
    "position": "For each pair, one layer and one latent position at a time, {site} is overwritten "
    "by {given}.",
    "relay": "For each pair and layer a chain of runs is made. Iteration 0 overwrites {site} at "
    "position 0 by {given}; each later iteration N overwrites position N alone, by exactly what "
    "the previous iteration generated there.",
    "cumulative": "For each pair and layer a chain of runs is made. Iteration N holds {site} at "
    "positions 0 to N at {given}; the later thoughts are generated.",
}
_SITES = {
    "resid_post": "the block's output on the residual stream",
    "attn_out": "what the attention sublayer adds to the residual stream",
    "mlp_out": "what the MLP sublayer adds to the residual stream",
    "kv": "the layer's entry of keys and values",
    "thought": "the latent thought that enters layer 0",
}
_GIVEN = {
    "clean": "the source run's activations there",
    "zero": "zeros",
    "mean": "the mean activations there over the source runs of all pairs",
    "random_pair": "the activations there of another pair's source run",
}
_LATENTS = {
    "frozen": "Thoughts after the patch stay those of the base run (frozen latents): what is "
    "measured is the direct effect.",
    "recomputed": "Thoughts after the patch are generated anew (recomputed latents): what is "
    "measured is the total effect.",
}


VERDICTS = (
    "An answer is yes where a simultaneous interval lies beyond the threshold, no where all lie "
    "inside it and there are enough pairs that a rare effect would have shown, and undecided "
    "otherwise. All claims of a family of questions share one test, the largest studentised mean "
    "under common sign flips. Its intervals miss with 5 % divided by the number of families that "
    "are tested here, so a comparison, which tests more of them, may leave undecided what the "
    "report of a single run decides."
)


def methods(results: Results) -> list[str]:
    """The paragraphs of a methods section."""
    return [
        _sample(results),
        _intervention(results.run),
        _control(results),
        _measures(results),
        _statistics(results),
    ]


def _sample(results: Results) -> str:
    run = results.run
    groups = len({pair.group for pair in results.pairs})
    base, source = ("corrupted", "clean") if run.clean_is_source else ("clean", "corrupted")
    said = (
        f"{counted(len(results.pairs), 'pair')} of questions that differ in one number, from "
        f"{data_name(run)}"
    )
    if groups < len(results.pairs):
        said += f", in {counted(groups, 'group')} that share a question"
    said += (
        f". The {base} question's run is the base run, the {source} question's the source run "
        f"({run.direction})."
    )
    if run.filtered:
        left_out = counted(len(run.filtered), "pair")
        said += f" Left out before: {left_out} with equal answers."
    said += (
        f" Without patches {model_name(run)} answers {_right(results, 'base')} of the base and "
        f"{_right(results, 'source')} of the source questions right."
    )
    steps = Counter(pair.num_steps for pair in results.pairs if pair.num_steps)
    if steps:
        listed = ", ".join(f"{steps[n]} of {counted(n, 'step')}" for n in sorted(steps))
        said += f" Questions by reasoning steps: {listed}."
    return said


def _right(results: Results, which: str) -> str:
    clean = (which == "source") == results.run.clean_is_source
    metric = "predicts_clean" if clean else "predicts_corrupted"
    right = sum(getattr(pair, which).get(metric, 0.0) == 1.0 for pair in results.pairs)
    return f"{right} of {len(results.pairs)}"


def _intervention(run: RunDescription) -> str:
    said = _PATCHES[run.arm].format(site=_SITES.get(run.site, run.site), given=_GIVEN[run.source])
    if run.grid.layers[0] == "thought":
        said += " The row `thought` is of the latent thoughts themselves, what enters layer 0."
    if run.latents == "recomputed" and run.site == "resid_post":
        said += (
            f" The output of the last layer, {run.grid.layers[-1]}, is read by nothing but the "
            "next thought: a patch there is a patch of that thought."
        )
    return f"{said} {_LATENTS[run.latents]}"


def _control(results: Results) -> str:
    used = Counter(pair.control.kind for pair in results.pairs if pair.control is not None)
    if not used:
        reason = "" if results.run.source == "clean" else f", since source is {results.run.source}"
        return (
            f"No control was run{reason}: an effect may be disruption alone, and the content "
            "effect below is the change against the unpatched run alone."
        )
    kinds = {
        "sibling": "a sibling (the same question with yet another number in that place)",
        "random_pair": "another pair, matched by steps and length",
    }
    listed = " and ".join(f"{kinds[kind]} for {counted(n, 'pair')}" for kind, n in used.items())
    return (
        "Each patched run was repeated with the activations of a third question, the control: "
        f"{listed}."
    )


def _measures(results: Results) -> str:
    return (
        "All metrics are read at the answer's own tokens. The content effect of a cell is the rise "
        "of the probability of the source run's answer, over the unpatched run and over the "
        "control; the smaller of the two means counts. Disruption is KL(patched ‖ unpatched), the "
        "KL divergence of the patched run's distribution from the unpatched run's, in nats: it is "
        "no evidence of content. Recovery is the normalised logit difference (0 as in the base "
        "run, 1 as in the source run). The flip rate is of tokens whose most probable token "
        "changes. The ceiling is a run with all thoughts of the source run, at all layers."
    )


def _statistics(results: Results) -> str:
    return (
        "Means over pairs stand with 95 % intervals, for each cell by itself: from the lowest to "
        "the highest end of three, the BCa and the studentised bootstrap and Student's t. Medians "
        "stand with exact intervals from order statistics. Pairs that share a question are "
        f"resampled together. Seed {results.run.seed}."
    )


def limits(results: Results) -> list[str]:
    """What the numbers do not show."""
    run = results.run
    said = [
        "These are effects of interventions on one model and one set of pairs; nothing is said of "
        "other models or questions."
    ]
    if (
        _right(results, "base")
        == _right(results, "source")
        == f"{len(results.pairs)} of " + str(len(results.pairs))
    ):
        said.append(
            "All questions are ones that the model answers right: effects on questions that it "
            "gets wrong may differ."
        )
    if run.source in ("zero", "mean"):
        said.append(
            f"Source {words(run.source)} leaves the distribution that the model was trained on; a "
            "model trained against empty thoughts reacts to that by construction."
        )
    if len({pair.group for pair in results.pairs}) < 20:
        said.append("With fewer than 20 independent pairs no verdict is given.")
    return said
