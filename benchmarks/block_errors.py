"""Error of every block's output along full precision's trajectories, on samples that nothing was learned from.

    e_l = mean over steps, samples, branches, tokens and channels of (h_l - h_l')^2

h_l is the output of block l in full precision and h_l' in the quantized network, which keeps its own hidden
states between blocks and sees full precision's latents: what VQ4DiT minimises (arXiv 2408.17131, eq. 8; the
released code takes the mean over the blocks).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from torch import nn

from quant.generation import generate, predict
from quant.models import Model
from quant.schema import Sample, Sampler
from quant.walks import distance, outputs_of


@torch.no_grad()
def block_errors(
    model: Model, transformer: nn.Module, samples: Sequence[Sample], sampler: Sampler
) -> dict[str, Any]:
    """By block: `mse`, and `power`, the mean square of full precision's output."""
    drawn = generate(model, samples, sampler, record=True)
    assert drawn.trajectory is not None
    blocks = list(model.adapter.blocks(model.transformer))
    squares, powers = dict.fromkeys(blocks, 0.0), dict.fromkeys(blocks, 0.0)
    for timestep, latents in zip(drawn.trajectory.timesteps, drawn.trajectory.inputs, strict=True):
        found = []
        for network in (model.transformer, transformer):
            with outputs_of(network, blocks) as outputs:
                predict(model, latents, timestep, samples, sampler, network)
            found.append(outputs)
        exact, made = found
        for name in blocks:
            nothing = [torch.zeros_like(t) for t in exact[name]]
            squares[name] += float(distance(made[name], exact[name])) / sampler.steps
            powers[name] += float(distance(nothing, exact[name])) / sampler.steps
    return {"blocks": blocks, "mse": list(squares.values()), "power": list(powers.values())}
