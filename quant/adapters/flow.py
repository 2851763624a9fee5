"""Samplers of flow-matching pipelines: what these work out from the size of the picture.

With T picture tokens, mu is a line through two published points, and the levels s between 1 and 0 are

    s' = e^mu s / (1 + (e^mu - 1) s)        use_dynamic_shifting, "exponential" (with "linear": mu for e^mu)

which is the fixed `shift` of the same scheduler. Written down as one, a sampler needs no picture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from ..schema import Sampler

SCHEDULER = "FlowMatchEulerDiscreteScheduler"


def with_levels(
    sampler: Sampler, tokens: int, levels: Sequence[float], max_shift: float
) -> Sampler:
    """With these noise levels before shifting, and the shift for so many picture tokens.

    `max_shift` is the pipeline's own, for a configuration that does not say.
    """
    config = dict(sampler.config)
    if config.get("use_dynamic_shifting"):
        few, many = config.get("base_image_seq_len", 256), config.get("max_image_seq_len", 4096)
        low, high = config.get("base_shift", 0.5), config.get("max_shift", max_shift)
        mu = low + (tokens - few) * (high - low) / (many - few)
        shift = mu if config.get("time_shift_type") == "linear" else math.exp(mu)
        config |= {"use_dynamic_shifting": False, "shift": shift}
    return sampler.model_copy(update={"config": config, "sigmas": tuple(levels)})


def levels(last: float, steps: int) -> list[float]:
    """Evenly spaced from 1 to `last`."""
    return [float(level) for level in np.linspace(1.0, last, steps)]
