"""What a plan costs the final latent, drawn: the number that sums of cells are to predict.

loss = ||z' - z||^2 / ||z||^2        z, z' final latents of full precision and of the plan, same seed
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np
import torch

from .metrics.latent_error import measure as relative_error
from .models import Model
from .quantization import Quantized, quantize
from .schema import Plan, Sample, Sampler
from .seen import Seen
from .sensitivity.sampling import Drawer, Run

_LEAST = 1e-12  # smaller losses count as this where a logarithm is taken


class PlanLoss:
    """Plans of one model and method, on the same samples; full precision is drawn once, when it is first needed."""

    def __init__(
        self,
        model: Model,
        method: str,
        options: Mapping[str, Any],
        seen: Seen | None,
        samples: Sequence[Sample],
        sampler: Sampler,
        *,
        batch_size: int = 8,
        before: Callable[[int], None] | None = None,
    ) -> None:
        """As `quantize` and `generate` take them; `before` is called before every step of a batch, and may raise `Cancelled`."""
        self.model, self.method, self.options, self.seen = model, method, dict(options), seen
        self.samples, self.drawer = tuple(samples), Drawer(model, sampler)
        self._batches = [
            self.samples[i : i + batch_size] for i in range(0, len(self.samples), batch_size)
        ]
        self._before = before
        self._reference: list[Run] = []

    @property
    def steps(self) -> int:
        """Times that `before` is called for one plan."""
        return len(self._batches) * len(self.drawer.timesteps)

    @property
    def begun(self) -> bool:
        """Whether full precision was drawn already."""
        return bool(self._reference)

    def quantized(self, plan: Plan) -> Quantized:
        """The transformer of a plan."""
        return quantize(self.model, self.method, plan, self.options, self.seen, share=False)

    def of(self, plan: Plan) -> np.ndarray:
        """Loss of every sample, float64[n]."""
        network = self.quantized(plan).transformer
        drawn = [
            self.drawer.drawn(network, self.drawer.begin(batch), before=self._before)
            for batch in self._batches
        ]
        return relative_error(_latents(self._full()), _latents(drawn)) ** 2

    def _full(self) -> list[Run]:
        if not self._reference:
            self._reference = [
                self.drawer.drawn(
                    self.model.transformer, self.drawer.begin(batch), before=self._before
                )
                for batch in self._batches
            ]
        return self._reference


def typical(losses: np.ndarray) -> float:
    """Geometric mean of the losses of float[n] samples: one whose picture turned into another does not decide it."""
    return float(np.exp(logarithms(losses).mean()))


def logarithms(losses: np.ndarray) -> np.ndarray:
    """Of float[n]; a loss of nothing has one too."""
    return np.log(np.maximum(losses, _LEAST))


def _latents(runs: Sequence[Run]) -> torch.Tensor:
    return torch.cat([run.latents.float().cpu() for run in runs])
