"""The questions of a report, as they are asked."""

from __future__ import annotations

NUMBERED = (
    "ceiling",
    "cells",
    "strata",
    "direct",
    "chain",
    "read",
    "attention",
    "needed",
    "around",
)
"""Keys of the primary questions, in the order of the table."""

BETWEEN = ("between_ceilings", "between_models")
"""Keys of what is asked of two models, before the questions of each."""

QUESTIONS = {
    "between_ceilings": "Do the thoughts of one model carry more?",
    "between_models": "Where does one model carry more?",
    "ceiling": "Do the thoughts carry the answer at all?",
    "cells": "Which positions and layers?",
    "strata": "What does each thought carry?",
    "direct": "Direct, or through later thoughts?",
    "chain": "Along the chain: compound, saturate, fade?",
    "read": "Is what can be read used?",
    "attention": "Is what acts attended to?",
    "needed": "Is what restores the answer also needed for it?",
    "around": "Does the answer come from the question directly?",
    "early_or_late_layers": "Early or late layers?",
    "early_or_late_positions": "Early or late positions?",
    "thoughts": "Do some thoughts carry more than the others?",
    "layers_by_positions": "Do early and late layers use different positions?",
    "iterative_or_parallel": "What does iteration add to parallel patching?",
    "accuracy": "How often is the source run's answer predicted, by layer?",
    "hops": "What does each hop of the relay change?",
    "sums": "Do single positions add up to all at once?",
    "sums_of_logits": "Do they add up in logit differences?",
    "increments": "What does each further position add?",
    "below_ceiling": "How far is a single patch below the ceiling?",
    "layers_from_positions": "Are layer effects predictable from single positions?",
    "leading": "Do the layers that lead here lead there?",
    "disruption": "Where do patches disrupt most, whatever their content?",
    "edges": "Which thought does the answer need to see?",
}
"""By the key of their finding."""

SIDES = {
    "early_or_late_layers": ("early layers", "late layers"),
    "early_or_late_positions": ("early positions", "late positions"),
}
"""Of a question which of two carries more: the answer if its contrast is above 0, and if below."""

DESCRIBED = {
    "thoughts": "most unlike: {}",
    "layers_by_positions": "largest: {}",
    "iterative_or_parallel": "largest at {}",
    "accuracy": "most at {}",
    "hops": "largest: {}",
    "sums": "furthest off at {}",
    "sums_of_logits": "furthest off at {}",
    "increments": "largest: {}",
    "below_ceiling": "the best is {}",
    "layers_from_positions": "predicted in held-out pairs",
    "leading": "by rank",
    "disruption": "most at {}",
    "edges": "most: {}",
}
"""Of what is described, what its estimate is of."""

UNTOLD = {
    "thoughts": "none told from the others",
    "layers_by_positions": "no difference shown",
    "iterative_or_parallel": "nothing shown",
    "accuracy": "hardly ever",
    "hops": "no change shown",
    "sums": "no difference shown",
    "sums_of_logits": "no difference shown",
    "increments": "nothing shown",
}
"""The same where the largest may be nothing: noise has a largest too."""
