"""How alike the two guidance branches attend: what attention sharing chooses its set by.

TR-DQ, https://arxiv.org/abs/2503.06564, observes it; how it is measured is ours.

Shapes: A_c, A_u [n, h, q, t] rows of both branches' maps; V [n, h, t, d]; y [n, q, o] of the module.

    cosine        A_c . A_u / (|A_c| |A_u|) per row, mean over samples, heads and queries
    minimum       the mean over the queries of one sample and head, the least of them all
    output error  |y - y_u| / |y_u| per sample, its mean: y of A_c V_u (map), y_c (output)

One pass of the sampler in full precision, streamed: at each step some queries of every sample, the
same in both branches, are attended anew from what the module gets. No map outlives its module's call.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
from diffusers.models.attention_processor import Attention
from torch import Tensor, nn
from torch.nn import functional as F

from .errors import BadInput
from .generation import StepEvent, generate, timesteps_of
from .models import Model
from .schema import Sample, Sampler
from .sharing import arguments_of, check_guidance
from .sharing_choice import OutputError, Similarity, Work

QUERIES = 64  # per sample and head


def measure_similarity(
    model: Model,
    samples: Sequence[Sample],
    sampler: Sampler,
    *,
    queries: int = QUERIES,
    batch_size: int = 8,
    on_step: Callable[[StepEvent], None] | None = None,
) -> Similarity:
    """Draw `samples` once in full precision and compare the branches of every spatial self-attention.

    Args:
        model: drawn with as it is; hooks are removed at the end.
        samples: what to draw; none of those that results are reported on.
        sampler: scheduler, steps and guidance.
        queries: looked at per sample, head and step; which ones depends on seed and step alone.
        batch_size: samples per batch; results do not depend on it beyond rounding.
        on_step: called after every step of every batch; may raise `Cancelled`.

    Raises BadInput where there is no guidance pair.
    """
    check_guidance(model.adapter, sampler.guidance)
    if not samples:
        raise BadInput("there is nothing to compare: no samples were given; e.g. 8 of them")
    names = model.adapter.spatial_attentions(model.transformer)
    work, network = multiply_adds(model, samples[0], sampler)
    seen = _Pass(model, names, sampler.steps, queries)
    with seen.hooks():
        for first in range(0, len(samples), batch_size):
            batch = tuple(samples[first : first + batch_size])
            seen.begin(batch)

            def after(event: StepEvent, first: int = first) -> None:
                seen.step = event.step + 1
                if on_step is not None:
                    on_step(event)

            generate(model, batch, sampler, batch_size=len(batch), on_step=after)
    total = len(samples)
    return Similarity(
        model=model.fingerprint,
        sampler=sampler.fingerprint,
        samples=total,
        queries=seen.queries,
        attentions=tuple(names),
        timesteps=timesteps_of(sampler),
        cosine=_table(seen.cosine / total),
        minimum=_table(seen.minimum),
        output_error=OutputError(
            map=_table(seen.errors["map"] / total), output=_table(seen.errors["output"] / total)
        ),
        work=tuple(work[name] for name in names),
        network=network,
    )


class _Pass:
    """Totals over samples, [attentions, steps], while a block of code draws."""

    def __init__(self, model: Model, names: Sequence[str], steps: int, queries: int) -> None:
        self.model, self.names = model, list(names)
        self.queries = queries
        self.step = 0
        shape = (len(self.names), steps)
        self.cosine, self.minimum = np.zeros(shape), np.full(shape, np.inf)
        self.errors = {"map": np.zeros(shape), "output": np.zeros(shape)}
        self._batch: tuple[Sample, ...] = ()
        self._conditional = 0

    def begin(self, batch: tuple[Sample, ...]) -> None:
        """The next calls belong to these samples, from the noisiest step on."""
        self._batch, self.step = batch, 0

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Compare while a block of code draws."""
        transformer = self.model.transformer
        handles = [transformer.register_forward_pre_hook(self._enter, with_kwargs=True)]
        for index, name in enumerate(self.names):
            hook = self._compare(index)
            handles.append(
                transformer.get_submodule(name).register_forward_pre_hook(hook, with_kwargs=True)
            )
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def _enter(
        self, transformer: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]
    ) -> None:
        half = self.model.adapter.conditional_half(arguments_of(transformer, args, kwargs))
        if half is None:
            raise BadInput("this sampler's batches hold no guidance pair, so nothing can be shared")
        self._conditional = half

    def _compare(self, index: int) -> Callable[..., None]:
        def hook(attn: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            x = (args[0] if args else kwargs["hidden_states"]).float()  # [2n, t, i]
            half = self._conditional
            c, u = x.chunk(2)[half], x.chunk(2)[1 - half]
            self.queries = min(self.queries, x.shape[1])
            rows = self._rows(len(c), x.shape[1]).to(x.device)  # [n, q]
            assert isinstance(attn, Attention)
            cosine, errors = compared(attn, c, u, rows)
            at, count = (index, self.step), len(self._batch)
            each = cosine.reshape(count, -1).double()  # [n, heads] (and frames)
            self.cosine[at] += float(each.mean(1).sum())
            self.minimum[at] = min(self.minimum[at], float(each.min()))
            for mode, error in errors.items():
                own = error.reshape(count, -1).double()  # [n, 1] (frames)
                self.errors[mode][at] += float(own.mean(1).sum())

        return hook

    def _rows(self, count: int, tokens: int) -> Tensor:
        """Which queries of each sequence: frames of one sample look at the same ones."""
        chosen = [_queries(s.seed, self.step, tokens, self.queries) for s in self._batch]
        return torch.stack(chosen).repeat_interleave(count // len(self._batch), dim=0)


def compared(
    attn: Attention, c: Tensor, u: Tensor, rows: Tensor
) -> tuple[Tensor, dict[str, Tensor]]:
    """Of some queries `rows` [n, q] of both branches' inputs c, u [n, t, i]: similarity and errors.

    Returns the cosine of the maps' rows, mean over the queries, [n, h], and by mode the relative
    error of the unconditional output [n].
    """
    map_c, value_c = _attended(attn, c, rows)
    map_u, value_u = _attended(attn, u, rows)
    cosine = torch.cosine_similarity(map_c, map_u, dim=-1).mean(-1)
    exact = _output(attn, map_u @ value_u)
    shared = {"map": map_c @ value_u, "output": map_c @ value_c}
    norm = exact.flatten(1).norm(dim=1).clamp(min=torch.finfo(exact.dtype).tiny)
    errors = {
        m: (_output(attn, y) - exact).flatten(1).norm(dim=1) / norm for m, y in shared.items()
    }
    return cosine, errors


def _attended(attn: Any, x: Tensor, rows: Tensor) -> tuple[Tensor, Tensor]:
    """Rows of the map [n, h, q, t] and the values [n, h, t, d] of one branch x [n, t, i]."""
    queried = torch.gather(x, 1, rows[..., None].expand(-1, -1, x.shape[-1]))
    q, k, v = (
        _linear(layer, part).unflatten(-1, (attn.heads, -1)).transpose(1, 2)
        for layer, part in ((attn.to_q, queried), (attn.to_k, x), (attn.to_v, x))
    )
    q = q if attn.norm_q is None else attn.norm_q(q)
    k = k if attn.norm_k is None else attn.norm_k(k)
    return torch.softmax(q @ k.transpose(-1, -2) / q.shape[-1] ** 0.5, dim=-1), v


def _output(attn: Any, y: Tensor) -> Tensor:
    """Heads [n, h, q, d] joined, through the output projection, [n, q, o]."""
    return _linear(attn.to_out[0], y.transpose(1, 2).flatten(2))


def _linear(layer: nn.Linear, x: Tensor) -> Tensor:
    """In x's dtype and by the weights alone: hooks on the layer count whole calls, not some rows."""
    bias = None if layer.bias is None else layer.bias.to(x)
    return F.linear(x, layer.weight.to(x), bias)


def _queries(seed: int, step: int, tokens: int, count: int) -> Tensor:
    digest = hashlib.sha256(f"queries/{seed}/{step}".encode()).digest()[:7]
    generator = torch.Generator().manual_seed(int.from_bytes(digest, "little"))
    return torch.randperm(tokens, generator=generator)[:count]


def multiply_adds(model: Model, sample: Sample, sampler: Sampler) -> tuple[dict[str, Work], int]:
    """Of every spatial self-attention, and of the network's linears and attentions together.

    Counted from the shapes of one call for one guidance pair.
    """
    transformer, found = model.transformer, _Counted()
    handles = [
        module.register_forward_pre_hook(found.linear(name))
        if isinstance(module, nn.Linear)
        else module.register_forward_pre_hook(found.attention(name), with_kwargs=True)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear | Attention)
    ]
    try:
        one_step = sampler.model_copy(update={"steps": 1})
        generate(model, (sample,), one_step, batch_size=1)
    finally:
        for handle in handles:
            handle.remove()
    work = {}
    for name in model.adapter.spatial_attentions(transformer):
        q, k, v, out = (found.linears[f"{name}.{p}"] for p in ("to_q", "to_k", "to_v", "to_out.0"))
        scores = found.scores[name]
        work[name] = Work(
            rows=found.rows[f"{name}.to_q"] + found.rows[f"{name}.to_k"],
            query_key=q + k,
            scores=scores,
            rest=v + out + scores,
        )
    return work, sum(found.linears.values()) + 2 * sum(found.scores.values())


class _Counted:
    """Multiply-adds of one call, by name of the linear or the attention."""

    def __init__(self) -> None:
        self.rows: dict[str, int] = {}
        self.linears: dict[str, int] = {}
        self.scores: dict[str, int] = {}  # of Q K^T, and as many of A V

    def linear(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Tensor, ...]) -> None:
            assert isinstance(module, nn.Linear)
            self.rows[name] = args[0].numel() // module.in_features
            self.linears[name] = self.rows[name] * module.in_features * module.out_features

        return hook

    def attention(self, name: str) -> Callable[..., None]:
        def hook(module: nn.Module, args: tuple[Any, ...], kwargs: Mapping[str, Any]) -> None:
            assert isinstance(module, Attention)
            x = args[0] if args else kwargs["hidden_states"]
            other = kwargs.get("encoder_hidden_states")
            keys = x.shape[1] if other is None else other.shape[1]
            self.scores[name] = x.shape[0] * x.shape[1] * keys * module.inner_dim

        return hook


def _table(values: np.ndarray) -> tuple[tuple[float, ...], ...]:
    """Five significant digits."""
    return tuple(tuple(float(f"{v:.5g}") for v in row) for row in values)
