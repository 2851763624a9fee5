"""Error of every block's output along full precision's trajectories, on samples that nothing was learned from.

    e_l = mean over steps, samples, branches, tokens and channels of (h_l - h_l')^2

h_l is the output of block l in full precision and h_l' in the quantized network, which keeps its own hidden
states between blocks and sees full precision's latents: what VQ4DiT minimises (arXiv 2408.17131, eq. 8; the
released code takes the mean over the blocks).
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, nn

from quant.generation import generate, predict
from quant.models import Model
from quant.schema import Sample, Sampler


def block_errors(
    model: Model, transformer: nn.Module, samples: Sequence[Sample], sampler: Sampler
) -> dict[str, Any]:
    """By block: `mse`, and `power`, the mean square of full precision's output."""
    drawn = generate(model, samples, sampler, record=True)
    assert drawn.trajectory is not None
    blocks = list(model.adapter.blocks(model.transformer))
    squares, powers = torch.zeros(len(blocks)).double(), torch.zeros(len(blocks)).double()
    for timestep, latents in zip(drawn.trajectory.timesteps, drawn.trajectory.inputs, strict=True):
        found = []
        for network in (model.transformer, transformer):
            with _outputs(network, blocks) as outputs:
                predict(model, latents, timestep, samples, sampler.guidance, network)
            found.append(outputs)
        for k, name in enumerate(blocks):
            exact, made = found[0][name].double(), found[1][name].double()
            squares[k] += (exact - made).square().mean() / sampler.steps
            powers[k] += exact.square().mean() / sampler.steps
    return {"blocks": blocks, "mse": squares.tolist(), "power": powers.tolist()}


@contextmanager
def _outputs(network: nn.Module, blocks: Sequence[str]) -> Iterator[dict[str, Tensor]]:
    found: dict[str, Tensor] = {}
    handles = []
    for name in blocks:

        def hook(_: nn.Module, args: Any, out: Any, name: str = name) -> None:
            found[name] = (out[0] if isinstance(out, tuple) else out).detach().float().cpu()

        handles.append(network.get_submodule(name).register_forward_hook(hook))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()
