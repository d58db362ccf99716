"""The mean map over pairs, accumulated while they are measured: a torchmetrics class."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor
from torchmetrics import Metric, MetricCollection

from codi_patching.metrics.functional import widest_float


class MeanMap(Metric):
    """Mean over pairs of a value for each cell; NaN values are left out of that cell's mean.

    States are sums, so ranks reduce by themselves.

    Args:
        shape: Of a pair's values, such as `(2, 16, 5)`: own and control, layers, positions.

    Example:
        >>> metric = MeanMap((2,))
        >>> metric.update(torch.tensor([1.0, torch.nan]))
        >>> metric.update(torch.tensor([3.0, 5.0]))
        >>> metric.compute().tolist()
        [2.0, 5.0]
    """

    full_state_update = False
    total: Tensor
    count: Tensor

    def __init__(self, shape: Sequence[int]) -> None:
        super().__init__()
        self.shape = tuple(shape)
        zeros = torch.zeros(self.shape, dtype=torch.float64)
        self.add_state("total", zeros, dist_reduce_fx="sum")
        self.add_state("count", zeros.clone(), dist_reduce_fx="sum")
        self.set_dtype(torch.float64)

    def _apply(self, fn: Callable[..., Any], *args: Any) -> MeanMap:
        """Move, but keep sums as wide as the device allows when a model around is cast to bf16."""
        self._widen(fn(torch.empty(0)).device)  # before the move: MPS takes no float64
        super()._apply(fn, *args)
        self._widen(self.total.device)
        return self

    def _widen(self, device: torch.device) -> None:
        """Make sums as wide as a device allows."""
        dtype = widest_float(device)
        for name in ("total", "count"):
            setattr(self, name, getattr(self, name).to(dtype))
            self._defaults[name] = self._defaults[name].to(dtype)

    def update(self, values: Tensor) -> None:
        """Add a pair.

        Args:
            values: In the map's shape.

        Raises:
            ValueError: They have another shape.
        """
        if tuple(values.shape) != self.shape:
            raise ValueError(f"expected values of shape {self.shape}, got {tuple(values.shape)}")
        values = values.detach().to(self.total)
        self.total = self.total + values.nan_to_num(0.0)
        self.count = self.count + (~values.isnan())

    def compute(self) -> Tensor:
        """The mean map; NaN where no pair had a value."""
        return self.total / self.count


def mean_maps(names: Iterable[str], shape: Sequence[int]) -> MetricCollection:
    """A mean map for each metric. Compute groups would merge metrics that start out equal."""
    return MetricCollection({name: MeanMap(shape) for name in names}, compute_groups=False)
