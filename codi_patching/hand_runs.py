"""What a notebook gets of a run: a question's run, the effect of a patch, a grid of effects.

Each shows itself as a small picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd
import torch
from torch import Tensor

from codi_patching.errors import InputError, brief, whole_number
from codi_patching.models.codi import CodiModel
from codi_patching.models.lens import lens_logits, token_text
from codi_patching.patching.interventions import SiteName
from codi_patching.reporting.notebook import bars_svg, cells_svg, framed

METRIC = "metric"
"""What the value of a callable of one's own is called."""

_DRAWN = ("clean_probability", "recovery", "kl_divergence", METRIC)


@dataclass(frozen=True)
class QuestionRun:
    """A question's run without patches. L layers, K thoughts.

    Attributes:
        question: As it was asked.
        answer: What the model says, as text.
        thoughts: z as fed, `(K, hidden)`.
        activations: By site: `resid_post`, `attn_out`, `mlp_out` of `(L, K, hidden)`, and `kv` of
            `(L, K, 2, heads, size)`, keys before rotation, then values.
        codi: The model that was run.

    Example:
        >>> import codi_patching as cp
        >>> run = cp.load("codi-tiny").run("Raj has 53 stamps. He gives 21. He loses 19. How many?")
        >>> run.answer, tuple(run.thoughts.shape), tuple(run.activations["kv"].shape)
        ('13', (5, 96), (16, 5, 2, 2, 24))
    """

    question: str
    answer: str
    thoughts: Tensor
    activations: dict[SiteName, Tensor]
    codi: CodiModel

    def __repr__(self) -> str:
        return f"QuestionRun({self.question!r}, answer={self.answer!r})"

    def lens(self, k: int = 5) -> pd.DataFrame:
        """The k tokens that each block's output makes most probable, best first.

        Layers × positions. The last layer's row reads the state that thought p + 1 is made from.

        Raises:
            InputError: k is no whole number from 1 to the size of the vocabulary.
        """
        tokens = self.lens_table(k)["token"].unstack("rank")
        return tokens.agg(" ".join, axis=1).unstack("position")

    def lens_table(self, k: int = 5) -> pd.DataFrame:
        """The same tokens with their probabilities: a row for each layer, position and rank.

        Returns:
            By layer, position and rank (from 0), the columns `token` and `probability`.

        Raises:
            InputError: See `lens`.
        """
        most = self.codi.backbone.get_output_embeddings().weight.shape[0]
        k = whole_number(k, "k", 1)
        if k > most:
            raise InputError(f"expected k of at most {most}, the vocabulary, got {k}: set [[k]]")
        logits = lens_logits(self.codi, self.activations["resid_post"].detach())
        best = logits.softmax(-1).topk(k, dim=-1)
        words = [token_text(self.codi, token) for token in best.indices.flatten().tolist()]
        places = [range(size) for size in best.indices.shape]
        index = pd.MultiIndex.from_product(places, names=["layer", "position", "rank"])
        columns = {"token": words, "probability": best.values.flatten().double().cpu().numpy()}
        return pd.DataFrame(columns, index=index)

    def _repr_html_(self) -> str:
        table = self.lens_table(1).droplevel("rank")
        probability, words = table["probability"].unstack(), table["token"].unstack()
        lens = cells_svg(
            probability.to_numpy(), probability.index, probability.columns,
            title="lens: most probable token", texts=words.to_numpy().tolist(),
        )  # fmt: skip
        return framed("QuestionRun", {"question": self.question, "answer": self.answer}, [lens])


@dataclass(frozen=True)
class Effect:
    """What one patched run gave.

    Attributes:
        metrics: By name, as in results, and `metric` for a callable of one's own; the unpatched
            runs' are in `base` and `source`. Within `model.gradients()` tensors, which can be
            differentiated.
        logits: Before each token of the pair's `clean` and `corrupted` answers, each forced on
            itself, `(tokens, vocabulary)`; of a question alone, of its `answer`.
        base: Metrics of the run that was patched, without patches.
        source: Metrics of the source run; none of a question alone.
        say: Gives what the patched run says.

    Example:
        >>> import codi_patching as cp
        >>> model = cp.load("codi-tiny")
        >>> clean = "Raj has 53 stamps. He gives 21 to Zoe. He loses 19. How many stamps are left?"
        >>> pair = cp.Pair.of(clean, clean.replace("21", "20"))
        >>> effect = model.patch(pair, cp.Site("resid_post", layer=3, position=1))
        >>> effect.answer, {name: tuple(logits.shape) for name, logits in effect.logits.items()}
        ('13', {'corrupted': (1, 508), 'clean': (1, 508)})
        >>> [round(run["clean_probability"], 2) for run in (effect.base, effect.metrics)]
        [0.0, 0.99]
    """

    metrics: dict[str, Any]
    logits: dict[str, Tensor]
    base: dict[str, float]
    source: dict[str, float]
    say: Callable[[], str] = field(repr=False)

    @cached_property
    def answer(self) -> str:
        """What the patched run says, as text."""
        return self.say()

    @property
    def numbers(self) -> dict[str, float]:
        """The metrics as numbers, whether they can be differentiated or not."""
        return {name: float(torch.as_tensor(v).detach()) for name, v in self.metrics.items()}

    def __repr__(self) -> str:
        metrics = ", ".join(f"{name}={value:.4g}" for name, value in self.numbers.items())
        return f"Effect(answer={self.answer!r}, {metrics})"

    def _repr_html_(self) -> str:
        numbers = self.numbers
        runs = {"base": self.base, "patched": numbers, "source": self.source}
        names = [name for name in numbers if name.endswith("_probability")]
        bars = {
            name: {run: values[name] for run, values in runs.items() if values} for name in names
        }
        facts = {name: f"{value:.4g}" for name, value in numbers.items() if name not in names}
        return framed("Effect", {"answer": self.answer, **facts}, [bars_svg(bars)])


class Grid(pd.DataFrame):
    """Effects by layer and position, a column for each metric; what is taken of it is plain.

    Example:
        >>> import codi_patching as cp
        >>> grid = cp.load("codi-tiny").grid(cp.read_pairs()[0], site="thought")
        >>> [round(p, 2) for p in grid["clean_probability"].unstack().loc["thought"]]
        [1.0, 1.0, 0.0, 0.0, 0.0]
    """

    @property
    def _constructor(self) -> Callable[..., pd.DataFrame]:
        return pd.DataFrame

    def _repr_html_(self) -> str:
        structural = self["structural_zero"].astype(bool).unstack(sort=False).to_numpy()
        maps = []
        for name in (name for name in _DRAWN if name in self):
            values = self[name].unstack(sort=False)
            numbers = values.to_numpy(dtype=float)
            maps.append(
                cells_svg(numbers, values.index, values.columns, title=name, zeros=structural)
            )
        return framed(f"Grid: {len(self)} cells", {}, maps)


def one_number(value: Any) -> Any:
    """What a callable of one's own gave, as it is.

    Raises:
        InputError: It is not one number.
    """
    kinds = (bool, int, float, Tensor, np.ndarray, np.generic)
    if not isinstance(value, kinds) or np.prod(getattr(value, "shape", ())) != 1:
        raise InputError(
            f"expected a function that gives one number, got {brief(value)}: set [[metric]]"
        )
    return value.reshape(()) if isinstance(value, Tensor | np.ndarray) else value
