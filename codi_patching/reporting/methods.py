"""How a run was made and what it cannot show, in the sentences of a methods section."""

from __future__ import annotations

from collections import Counter

import numpy as np
import xarray as xr

from codi_patching.reporting.names import counted, data_name, model_name, words
from codi_patching.results.dataset import is_attention, is_knockout, pairs_of, patches, run_of
from codi_patching.results.description import THOUGHT, RunDescription, place_name

_PATCHES = {
    "layer": "For each pair and layer, {site} is overwritten at all latent positions at once by "
    "{values}.",
    "position": "For each pair, one layer and one {position} at a time, {site} is overwritten "
    "by {values}.",
    "head": "For each pair, one attention head at a time, {site} is overwritten at {positions} by "
    "{values}.",
    "relay": "For each pair and layer a chain of runs is made. Iteration 0 overwrites {site} at "
    "position 0 by {values}; each later iteration N overwrites position N alone, by exactly what "
    "the previous iteration generated there.",
    "cumulative": "For each pair and layer a chain of runs is made. Iteration N holds {site} at "
    "positions 0 to N at {values}; the later thoughts are generated.",
}
_OTHER = "For each pair and cell of its grid, the experiment overwrites {site} by {values}."
_SITES = {
    "resid_post": "the block's output on the residual stream",
    "attn_out": "what the attention sublayer adds to the residual stream",
    "mlp_out": "what the MLP sublayer adds to the residual stream",
    "kv": "the layer's entry of keys and values",
    "head": "what the head hands to the layer's output projection",
    "thought": "the latent thought that enters layer 0",
}
_VALUES = {
    "clean": "the source run's activations there",
    "zero": "zeros",
    "mean": "the mean activations there over the source runs of all {usable}",
    "random_pair": "the activations there of another pair's source run",
}
_LATENTS = {
    "frozen": "Thoughts after the patch stay those of the base run: what is measured is the direct "
    "effect.",
    "recomputed": "Thoughts after the patch are generated anew: what is measured is the total "
    "effect.",
}
NOT_FED_BACK = (
    "This model feeds nothing back: in the place of thoughts stand learned vectors, the same for "
    "every question. A patch changes no later one, so the total effect is the direct effect, and "
    "what a position carries is what it has read from the question and from the positions before."
)
"""Of a model with pause vectors."""

_CONTROLS = {
    "sibling": "a sibling, the same question with yet another number in that place",
    "random_pair": "another pair's source run, matched by steps and length",
}

MEASURES = (
    "Metrics are read at the answer's own tokens. The content effect is the rise of the "
    "probability of the source run's answer, relative to the unpatched run and relative to the "
    "control's patch. KL to the unpatched run is disruption, and no evidence of content. Recovery "
    "is the normalised logit difference, 0 as in the base run and 1 as in the source run. The "
    "ceiling is a run with all thoughts of the source run at all layers: what the thoughts can "
    "carry at all."
)
STATISTICS = (
    "A claim needs both comparisons. Each question's columns share one test, the largest "
    "studentised mean under common sign flips of groups of pairs, at a share of the level of 5 % "
    "that is fixed in advance: 2 % for where the effects are, 1 % for what each thought carries, "
    "0.33 % for each other primary question. The direction of a mean is claimed where both "
    "simultaneous intervals exclude 0 and the mean is larger than unseen rare pairs could undo; "
    "where only the intervals exclude 0, pairs are counted. A thought carries the latest step "
    "whose change a patch of it restores, since later results contain earlier ones. What is not "
    "claimed is bounded, and “no” is said where the bound is within 0.10. Everything below the "
    "primary questions is description, with unadjusted 95 % intervals."
)

ATTENTION = (
    "Nothing is patched: attention probabilities are kept in the run of the clean question, from "
    "bot, each thought and each token of the readout to the question before, at and after the "
    "changed number, to bot, each thought and the readout. A cell of a map is seen as far as the "
    "most attentive head of any block above it looks at its thought, from any reader after it."
)


KNOCKOUT = (
    "Nothing is patched: in the run of the clean question an edge of attention is cut, its logits "
    "being −inf before the softmax, from readers to what they read, in all layers and in each "
    "window of layers. The readout is every token after the thoughts; the question every token of "
    "the prompt, bot among them, but one that the tokenizer puts first. Later thoughts are made "
    "anew. What a thought hands on to the next one, its last state, is no attention and is never "
    "cut. The control cuts, for the same readers and layers, as many tokens of the question that "
    "carry no number, drawn by the seed; where the whole question is cut there are not as many, "
    "and no control."
)
KNOCKOUT_STATISTICS = (
    "The effect is the fall of the probability of the run's own answer, relative to the uncut run "
    "and to the control, where there is one; both are kept, each with its own interval, and a "
    "claim needs both. "
    "Question → readout and thoughts → readout, in all layers, are judged; all other edges are "
    "described with unadjusted 95 % intervals, by number of steps."
)


def methods(data: xr.Dataset) -> list[str]:
    """The paragraphs of a methods section."""
    if not patches(data):
        if is_knockout(data):
            return [_sample(data), KNOCKOUT, KNOCKOUT_STATISTICS]
        return [_sample(data), ATTENTION if is_attention(data) else _lens(run_of(data))]
    return [_sample(data), _intervention(run_of(data)), _control(data), MEASURES, STATISTICS]


def _sample(data: xr.Dataset) -> str:
    run, pairs = run_of(data), pairs_of(data)
    groups = len(set(data["group"].values))
    said = (
        f"{counted(len(pairs), 'pair')} of questions that differ in one number, from "
        f"{data_name(run)}"
    )
    if run.pooled:
        said += (
            f", each once for each of {counted(len(run.pooled), 'checkpoint')}, together: "
            f"{counted(groups, 'group')}, a pair's runs being one. What is said holds of these "
            "checkpoints"
        )
    elif groups < len(pairs):
        said += f", in {counted(groups, 'group')} that share a question"
    said += "."
    if run.filtered:
        said += f" Left out before: {counted(len(run.filtered), 'pair')} with equal answers."
    if not patches(data):
        return said
    said += _left_out(data)
    base, source = ("corrupted", "clean") if run.clean_is_source else ("clean", "corrupted")
    said += (
        f" The run of the {base} question is patched; activations come from that of the {source} "
        "question."
    )
    right = answered(data, "base"), answered(data, "source")
    if None not in right:
        said += (
            f" Without patches {model_name(run)} answers {right[0]} of the base and {right[1]} of "
            f"the source questions right, of {len(pairs)} each."
        )
    steps = Counter(pair.num_steps for pair in pairs if pair.num_steps)
    if steps:
        listed = ", ".join(f"{steps[n]} of {counted(n, 'step')}" for n in sorted(steps))
        said += f" Questions by reasoning steps: {listed}."
    return said


def _left_out(data: xr.Dataset) -> str:
    """Which pairs have no values in a column, by name."""
    said = ""
    for column in run_of(data).grid.columns:
        reasons = {
            str(name): pair.left_out[column]
            for name, pair in zip(data["pair"].values, pairs_of(data))
            if column in pair.left_out
        }
        if reasons:
            named = "; ".join(f"{name}, {reason}" for name, reason in reasons.items())
            counted_pairs = counted(len(reasons), "pair")
            said += f" Without values at {place_name(column)}: {counted_pairs} ({named})."
    return said


def answered(data: xr.Dataset, which: str) -> int | None:
    """How many questions the unpatched base or source run answers right; None if unknown."""
    clean = (which == "source") == run_of(data).clean_is_source
    metric = "run_predicts_clean" if clean else "run_predicts_corrupted"
    return int((data[metric].sel(run=which).values == 1.0).sum()) if metric in data else None


def _intervention(run: RunDescription) -> str:
    usable = counted(run.mean_runs, "usable pair") if run.mean_runs else "usable pairs"
    said = _PATCHES.get(run.arm, _OTHER).format(
        position="position" if run.positions == "all" else "latent position",
        site=_SITES.get(run.site, run.site),
        values=_VALUES[run.source].format(usable=usable),
        positions=run.places or "all latent positions at once",
    )
    if run.positions == "all":
        said += (
            " Positions are the latent ones and places outside them: the changed number, all its "
            "tokens together, the question's last token, bot, eot, and each token of the readout."
        )
    if THOUGHT in run.grid.layers:
        said += " The row “thought” is of the latent thoughts themselves, what enters layer 0."
    if not run.feeds_back:
        return f"{said} {NOT_FED_BACK}"
    if run.latents == "recomputed" and run.site == "resid_post":
        said += (
            f" The output of the last layer, {run.grid.layers[-1]}, is read by nothing but the "
            "next thought: a patch there is a patch of that thought."
            + (" Before the answer the head reads it." if run.positions == "all" else "")
        )
    return f"{said} {_LATENTS[run.latents]}"


def _lens(run: RunDescription) -> str:
    return (
        "Nothing is patched: the head is put on the final norm of every block's output in the run "
        "of the clean question; of the last layer that is the state that the next thought is made "
        f"from. A step is read where its result is among the {run.top} most probable tokens; "
        "chance is how often the result of that step of another pair is."
    )


def _control(data: xr.Dataset) -> str:
    used = Counter(kind for kind in data["control_kind"].values if kind)
    source = run_of(data).source
    if not used:
        reason = "" if source == "clean" else f", since the source is {words(source)}"
        return (
            f"No control was run{reason}: the content effect is the change relative to the "
            "unpatched run alone, and may be disruption."
        )
    listed = " and ".join(
        f"{_CONTROLS.get(kind, kind)}, for {counted(n, 'pair')}" for kind, n in used.items()
    )
    return f"Each patched run was repeated with the activations of a third question: {listed}."


def limits(data: xr.Dataset) -> list[str]:
    """What the numbers do not show."""
    run, pairs = run_of(data), pairs_of(data)
    said = [
        "These are effects of interventions on the models and pairs named here; nothing is said of "
        "other models or questions."
    ]
    if is_attention(data):
        return [*said, "What is attended to need not be used: patching tells."]
    if is_knockout(data):
        return [
            *said,
            "A run without an edge is one that the model was not trained for: it may fail for that "
            "alone, which the control shows in part. An edge whose cut changes nothing may have "
            "another that says the same.",
        ]
    if not patches(data):
        return [*said, "What can be read need not be used: patching tells."]
    if answered(data, "base") == answered(data, "source") == len(pairs):
        said.append(
            "All questions are ones that the model answers right; effects on others may differ. "
            "Means over all pairs are means over the mix of this file."
        )
    if run.source in ("zero", "mean"):
        said.append(
            f"The source {words(run.source)} leaves the distribution that the model was trained "
            "on; a model trained against empty thoughts reacts to that by construction."
        )
    if len(set(data["group"].values)) < 20:
        said.append("With fewer than 20 independent pairs nothing is claimed: counts stand alone.")
    if not np.isfinite(data["num_steps"].values).any():
        said.append("The pairs have no reasoning steps: effects are not split by what changed.")
    return said
