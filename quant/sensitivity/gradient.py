"""Tier 3: what the change of a layer's output is worth to the final latent, by sketched Gauss-Newton.

    z_0     final latent, a function of every output y_{l,t} of site l at step t
    dy_lt   what rounding changes of y_{l,t}, at full precision's own input
    J_lt    d z_0 / d y_{l,t}
    C       = ||sum over the window's steps t of J_lt dy_lt||^2 / ||z_0||^2
            = E_v (sum_t v . J_lt dy_lt)^2 / ||z_0||^2,            v of signs: E v v^T = 1

so the squared relative latent error of tier 4, to first order. The sum over steps, tokens and guidance
branches is inside the square: a rounded weight errs alike in every step, and its errors add up. With K
directions v the mean has a relative standard deviation of sqrt(2 / K) for a sample at worst, less over samples.

g_lt = J_lt^T v comes from one backward pass per direction and step, with the network evaluated anew at each
step, so memory is that of one step. Through the scheduler, whatever memory it has (DPM-Solver++ multistep):
full precision's outputs e_t are recorded, and the scheduler runs alone over them once, as leaves. From the last
step to the first,

    c_t     = d (v . z_0 + sum_{s>t} gamma_s . x_s) / d e_t        the scheduler's graph alone
    gamma_t, g_lt = the network's vector-Jacobian products of c_t at step t, with respect to its input x_t and y_lt

where gamma_s is what the network itself sends back to what it saw at the later step s. Weights need no gradient.
(HAWQ-V2, arXiv 1911.03852, has the trace of a Hessian; a sketch of the Gauss-Newton form along the error itself
keeps its direction. The adjoint by recorded outputs is ours.)
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from ..learning import generator
from ..schema import Sample
from . import TierCard
from .batches import all_samples
from .cells import Cell, Row
from .sampling import Replay, Run
from .task import Key, Task, tapped

CARD = TierCard(
    key="gradient",
    title="Sketched Gauss-Newton",
    order=3,
    metrics=("latent_error",),
    evidence="predicted",
    passes=2,
    at_once=True,
    backward=True,
    summary="First-order latent error by backward passes through the sampler. Minutes for all cells.",
)


def metrics(task: Task) -> tuple[str, ...]:
    """One."""
    return CARD.metrics


def rows(task: Task) -> Iterator[list[Row]]:
    """All after the last batch."""
    found = all_samples(task, task.cells, costs)
    for cell in task.cells:
        yield [Row.of(cell, "latent_error", found[cell][:, 0])]


def costs(task: Task, index: int) -> dict[Cell, np.ndarray]:
    """C of every cell for the samples of one batch, float64[n, 1]."""
    products, norm = inner_products(task, index)
    found = {}
    for cell in task.cells:
        of = products[cell.site, cell.operand, cell.bits][list(task.steps_in(cell.window))]
        found[cell] = cost(of.numpy(), norm.numpy())[:, None]
    return found


def cost(products: np.ndarray, norm: np.ndarray) -> np.ndarray:
    """C per sample from v . J_lt dy_lt [steps, K, n] and ||z_0||^2 [n]: the sum over steps is squared."""
    own = np.ascontiguousarray(products.T)  # [n, K, steps]: added up alike however many samples
    return np.square(own.sum(2)).mean(1) / norm


def directions(sample: Sample, shape: tuple[int, ...], count: int, seed: int) -> Tensor:
    """v [K, *shape] of signs; a sample's own, whatever batch it is in."""
    draw = generator(seed, "directions", sample.seed)
    return torch.randint(0, 2, (count, *shape), generator=draw).float() * 2 - 1


def inner_products(
    task: Task,
    index: int,
    *,
    network: nn.Module | None = None,
    also: Callable[[Run], Tensor] | None = None,
) -> tuple[dict[Key, Tensor], Tensor]:
    """v . J_lt dy_lt of one batch by key, float64[steps, K, n]; and ||z_0||^2, float64[n].

    `network` draws the trajectory in full precision's place; derivatives stay full precision's, taken along it.
    `also` gives one more direction [n, c, h, w], after the random ones, from the run that was drawn.
    """
    drawer, model, batch = task.drawer, task.model, task.batches[index]
    steps, count = len(drawer.timesteps), task.settings.probes + (also is not None)
    total = 2 * steps * len(task.batches)
    begun = drawer.begin(batch)
    run = drawer.drawn(
        network or model.transformer,
        begun,
        record=True,
        before=lambda step: task.progress(2 * index * steps + step, total),
    )
    replay = Replay(task.sampler, begun.latents, run.guided)
    replay.check(run.latents, task.sampler)
    shape = tuple(run.latents.shape[1:])
    drawn = [directions(s, shape, task.settings.probes, task.settings.seed) for s in batch]
    v = torch.stack(drawn, dim=1).to(run.latents)  # [K, n, c, h, w]
    if also is not None:
        v = torch.cat([v, also(run)[None].to(v)])
    later: list[dict[int, Tensor]] = [{} for _ in range(count)]  # gamma_s by step, of each v
    found = {key: torch.zeros(steps, count, len(batch), dtype=torch.float64) for key in task.keys}
    for step in reversed(range(steps)):
        _one_step(task, run, replay, step, v, later, found)
        task.progress((2 * index + 2) * steps - step, total)
    return found, run.latents.double().flatten(1).square().sum(1).cpu()


def _one_step(
    task: Task,
    run: Run,
    replay: Replay,
    step: int,
    v: Tensor,
    later: list[dict[int, Tensor]],
    found: dict[Key, Tensor],
) -> None:
    """Evaluate the network at one step and send every direction back through it."""
    by_site: dict[str, list[Key]] = {}
    for key in found:
        by_site.setdefault(key[0], []).append(key)
    taps: list[tuple[Any, list[tuple[Key, Tensor]]]] = []  # where g arrives, and dy by key

    def heard(site: str, x: Tensor, y: Tensor) -> Tensor | None:
        with torch.no_grad():
            changes = [(key, task.layers.change(*key, x, y.detach())) for key in by_site[site]]
        # What does not depend on the latents, a text's keys in the first block, still has a gradient.
        out = y if y.requires_grad else y.detach().requires_grad_()
        taps.append((torch.autograd.graph.get_gradient_edge(out), changes))
        return out

    x = replay.seen[step].detach().requires_grad_()
    timestep = replay.timesteps[step]
    with torch.enable_grad(), tapped(task.model, tuple(by_site), heard):
        out = task.drawer.evaluate(task.model.transformer, x, timestep, run.conditions)
    edges = [edge for edge, _ in taps]
    for k in range(len(v)):
        grads = torch.autograd.grad(
            out,
            [x, *edges],
            replay.cotangent(step, v[k], later[k]),
            retain_graph=k + 1 < len(v),
            allow_unused=True,
        )
        task.drawer.counter.backward_calls += 1
        later[k][step] = torch.zeros_like(x) if grads[0] is None else grads[0]
        _add(task, run, step, k, grads[1:], taps, found)


def _add(
    task: Task,
    run: Run,
    step: int,
    k: int,
    grads: tuple[Tensor | None, ...],
    taps: list[tuple[Any, list[tuple[Key, Tensor]]]],
    found: dict[Key, Tensor],
) -> None:
    """g . dy of one direction, summed over branches, tokens and channels."""
    keys, sums = [], []
    for grad, (_, changes) in zip(grads, taps, strict=True):
        for key, change in changes if grad is not None else ():
            assert grad is not None
            keys.append(key)
            sums.append(task.by_sample(grad.float() * change, len(run.samples), key[0]).sum((0, 2)))
    if sums:
        for key, value in zip(keys, torch.stack(sums).double().cpu(), strict=True):
            found[key][step, k] += value
