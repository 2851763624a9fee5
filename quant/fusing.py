"""Blocks whose quantized sites run in one pass with what stands before and after them.

Shapes: x [b, t, c]; modulation [b, k, c].

    entry   norm(x) (1 + scale) + shift, channel scale, rotation, codes     before q, k, v, and before fc1
    gelu    tanh-GELU, shift and migration, codes                           before fc2
    gate    x + gate (product + bias)                                       after the output projection, and fc2

Each is one operation of `kernels` (`adaln_quantize`, `gelu_quantize`, `int_linear` or `fp8_linear` with a `GatedResidual`),
and is fused for itself where its sites allow it; around it the block runs as it is. diffusers' own forward
stays the definition: it runs where nothing is fused, and always in simulation, because only products of
integers, or of 8-bit floats, take codes. On the CPU the operations are their definitions, one after the other: in float32 the same
numbers as unfused. In half precision what lies between two fused operations is not rounded to it.

The adapter names the branches and the modulation (`adapters/residuals.py`); what a block does not fuse, and
why, `links` says.
"""

from __future__ import annotations

import inspect
from collections import Counter
from collections.abc import Sequence
from typing import Any, NamedTuple

import torch
from diffusers.models.activations import GELU
from diffusers.models.attention import FeedForward
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.adaln_quantize import adaln_quantize
from kernels.gelu_quantize import gelu_quantize
from kernels.hadamard.box import rotation_obstacle
from kernels.int_linear import Branch, GatedResidual
from kernels.quantize_rows import RowCodes

from .adapters import Adapter
from .adapters.residuals import Residual
from .int_attention import IntAttention
from .layers import QuantLinear
from .schema import Format
from .step import NOISIEST, at, current_window

UNUSUAL = ("attention_mask", "cross_attention_kwargs", "added_cond_kwargs")
PARTS = ("spatial_norm", "group_norm", "norm_cross", "add_k_proj", "residual_connection")
BRANCH = "a branch in 16 bit reads rows, which an operation that makes codes never writes"
WATCHED = "inputs or outputs of single layers are watched or changed by hooks"
FLOATS = "codes in 8-bit floats have no operation with LayerNorm or GELU"


class Link(NamedTuple):
    """One operation of a branch: the backend that takes it, or the reason why none does."""

    backend: str | None
    why: str = ""


class Links(NamedTuple):
    """Those of one residual branch."""

    entry: Link
    gelu: Link | None  # None in an attention
    gate: Link


def attach(transformer: nn.Module, adapter: Adapter) -> None:
    """Let the blocks of a quantized transformer fuse what they can, each time they are called."""
    if not adapter.residuals:
        return
    for name in adapter.blocks(transformer):
        block = transformer.get_submodule(name)
        if fused_of(block) is None:
            block.forward = FusedForward(adapter, block).forward


def fused_of(block: nn.Module) -> FusedForward | None:
    """What stands in for the forward of a block; None where nothing does."""
    owner = getattr(block.forward, "__self__", None)
    return owner if isinstance(owner, FusedForward) else None


def said(transformer: nn.Module, rows: int) -> str:
    """How many operations are fused when each site gets `rows` rows, and why others are not.

    Empty for a family whose blocks fuse nothing.
    """
    blocks = [fused_of(module) for module in transformer.modules()]
    links = [link for block in blocks if block is not None for link in block.every_link(rows)]
    if not links:
        return ""
    fused = [link for link in links if link.backend]
    reasons = Counter(link.why for link in links if not link.backend)
    sentence = f"fused: {len(fused)} of {len(links)} operations between layers"
    if not reasons:
        return sentence
    listed = (f"{why} ({count})" for why, count in reasons.most_common(2))
    return f"{sentence}; not fused: {', '.join(listed)}"


class FusedForward:
    """The forward of one block; `definition` is the one that it stands for."""

    def __init__(self, adapter: Adapter, block: Any) -> None:
        self.adapter, self.block, self.definition = adapter, block, block.forward
        self.names = tuple(inspect.signature(block.forward).parameters)
        self.around_norms = {r.norm.rpartition(".")[0] for r in adapter.residuals} - {""}

    def forward(self, *args: Any, **kwargs: Any) -> Tensor:
        """As the definition: x [b, t, c] -> x [b, t, c]."""
        call = {**dict(zip(self.names, args)), **kwargs}
        x = call["hidden_states"]
        usual = x.dim() == 3 and all(call.get(name) is None for name in UNUSUAL)
        links = [self.links(residual, x) for residual in self.adapter.residuals] if usual else []
        if not any(link and link.backend for each in links for link in each):
            return self.definition(*args, **kwargs)
        rows = self.adapter.modulation(self.block, x, call)  # [b, k, c]
        first, *rest = zip(self.adapter.residuals, links, strict=True)
        x = self._added(*first, x, rows)
        x = self.adapter.between(self.block, x, call)
        for residual, own in rest:
            x = self._added(residual, own, x, rows)
        return x

    def every_link(self, rows: int) -> list[Link]:
        """Of all branches, in the first window of steps, when each site gets so many rows."""
        x = torch.empty(1, rows, 1, device=next(self.block.parameters()).device)
        with at(NOISIEST):
            found = [self.links(residual, x) for residual in self.adapter.residuals]
        return [link for links in found for link in links if link is not None]

    def links(self, residual: Residual, x: Tensor) -> Links:
        """What of a branch is fused for x [b, t, c], whose number of rows alone counts."""
        norm, layer = (self.block.get_submodule(n) for n in (residual.norm, residual.layer))
        around = [self.block.get_submodule(name) for name in self.around_norms]
        reason = WATCHED if any(_watched(m) for m in around) else _unlike(self.block, residual)
        if reason:
            nothing = Link(None, reason)
            return Links(nothing, nothing if isinstance(layer, FeedForward) else None, nothing)
        last = _last(layer)
        gelu = _gelu(layer.net[0], last, x) if isinstance(layer, FeedForward) else None
        return Links(_entry(norm, _readers(layer), x), gelu, _common([last], x))

    def _added(self, residual: Residual, links: Links, x: Tensor, rows: Tensor) -> Tensor:
        """x + gate f(norm(x) (1 + scale) + shift)."""
        norm, layer = (self.block.get_submodule(n) for n in (residual.norm, residual.layer))
        shift, scale = rows[:, residual.shift], rows[:, residual.scale]  # [b, c]
        gate = rows[:, residual.gate]
        if not any(link and link.backend for link in links):
            return gate[:, None] * layer(norm(x) * (1 + scale[:, None]) + shift[:, None]) + x
        readers, last = _readers(layer), _last(layer)
        if links.entry.backend:
            codes = _modulated_codes(readers[0], x, shift, scale, norm.eps, links.entry.backend)
            read = [_product(site, codes, x, links.entry.backend) for site in readers]
        else:
            y = norm(x) * (1 + scale[:, None]) + shift[:, None]
            read = [site(y) for site in readers]
        branch = None
        if links.gelu is not None and links.gelu.backend:
            codes = _gelu_codes(last, read[0], links.gelu.backend)
        else:
            h = _attended(layer, *read) if links.gelu is None else layer.net[0].gelu(read[0])
            if not links.gate.backend:
                return gate[:, None] * last(h) + x
            window = current_window(last.windows)
            codes, branch = last.operands(h, window, links.gate.backend)
        assert links.gate.backend is not None, "what takes codes of GELU takes them before a gate"
        gated = GatedResidual(gate, x.flatten(0, 1))
        return _product(last, codes, x, links.gate.backend, gated, branch)


def _readers(layer: Any) -> list[Any]:
    """Of a branch's input."""
    if isinstance(layer, FeedForward):
        first: Any = layer.net[0]
        return [first.proj]
    return [layer.to_q, layer.to_k, layer.to_v]


def _last(layer: Any) -> Any:
    """Whose product the gate takes."""
    return layer.net[2] if isinstance(layer, FeedForward) else layer.to_out[0]


def _attended(attn: Attention, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V of q, k, v [b, t, h d], as the attention's processor computes it."""
    q, k, v = (y.unflatten(-1, (attn.heads, -1)).transpose(1, 2) for y in (q, k, v))  # [b, h, t, d]
    q = q if attn.norm_q is None else attn.norm_q(q)
    k = k if attn.norm_k is None else attn.norm_k(k)
    processor: Any = attn.processor
    integer = isinstance(processor, IntAttention)
    attend = processor.attend if integer else F.scaled_dot_product_attention
    return attend(q, k, v).transpose(1, 2).flatten(2)


def _product(
    site: QuantLinear,
    codes: RowCodes,
    x: Tensor,
    backend: str,
    after: GatedResidual | None = None,
    branch: Branch | None = None,
) -> Tensor:
    """Of codes [b t, i], for x [b, t, c]: [b, t, o] in x's dtype."""
    y = site.product(codes, current_window(site.windows), backend, after, x.dtype, branch)
    return y.unflatten(0, x.shape[:2])


def _modulated_codes(
    site: QuantLinear, x: Tensor, shift: Tensor, scale: Tensor, eps: float, backend: str
) -> RowCodes:
    """Codes of norm(x) (1 + scale) + shift in the change of basis of a site."""
    fmt, (divisor, signs, _) = _format(site), site.basis(current_window(site.windows))
    return adaln_quantize(
        x, shift, scale, fmt.bits, fmt.symmetric,
        channel_scale=divisor, signs=signs, eps=eps, backend=_version(backend),
    )  # fmt: skip


def _gelu_codes(site: QuantLinear, x: Tensor, backend: str) -> RowCodes:
    """Codes of gelu(x), x [b, t, c], on the ranges of its rows or on static ones."""
    fmt, window = _format(site), current_window(site.windows)
    divisor, signs, _ = site.basis(window)
    ranges = {}
    if fmt.static:
        zero = None if fmt.symmetric else site.act_zero[window].float()
        ranges = {"scale": site.act_scale[window], "zero": zero}
    return gelu_quantize(
        x.flatten(0, 1), fmt.bits, fmt.symmetric,
        shift=site.shift if site.transform.shift else None, migration=divisor, signs=signs,
        backend=_version(backend), **ranges,
    )  # fmt: skip


def _version(backend: str) -> str:
    """Of the operations that make codes: on the CPU their definition."""
    return "triton" if backend == "triton" else "simulate"


def _entry(norm: nn.Module, readers: Sequence[Any], x: Tensor) -> Link:
    """Of LayerNorm and modulation with the sites that read it."""
    if type(norm) is not nn.LayerNorm or norm.elementwise_affine:
        return Link(None, "the norm has weights of its own, or is no LayerNorm")
    link = _makes_codes(readers, x)
    if link.backend is None:
        return link
    first = readers[0]
    if _format(first).kind == "fp8":
        return Link(None, FLOATS)
    if any(not site.makes_codes_with(first) for site in readers):
        return Link(None, "sites that read one tensor differ in format or change of basis")
    if _format(first).static:
        return Link(None, "static ranges stand before an operation that finds its own")
    if first.transform.block:
        return Link(None, "block rotations have no operation with LayerNorm")
    return Link(None, reason) if (reason := _unrotatable(first, link)) else link


def _gelu(activation: Any, site: Any, x: Tensor) -> Link:
    """Of the activation with the site that reads it."""
    if activation.approximate != "tanh":
        return Link(None, "the activation is GELU by the error function, not by tanh")
    link = _makes_codes([site], x)
    if link.backend is None:
        return link
    if _format(site).kind == "fp8":
        return Link(None, FLOATS)
    if site.transform.block:
        return Link(None, "block rotations have no operation with GELU")
    if site.transform.rotate and _format(site).static:
        return Link(None, "static ranges have no operation with a rotation")
    if site.transform.shift and not _format(site).static:
        return Link(None, "a shift belongs to static ranges")
    if site.transform.shift and site.transform.scale:
        return Link(None, "a shift and a channel scale have no operation with GELU")
    return Link(None, reason) if (reason := _unrotatable(site, link)) else link


def _unrotatable(site: Any, link: Link) -> str | None:
    """Why a kernel cannot rotate a site's input on the way, or None."""
    inside = site.transform.rotate and link.backend == "triton"
    return rotation_obstacle(site.in_features) if inside else None


def _makes_codes(sites: Sequence[Any], x: Tensor) -> Link:
    """`_common` for operations that give codes and nothing else."""
    link = _common(sites, x)
    if link.backend and any(site.transform.rank for site in sites):
        return Link(None, BRANCH)
    return link


def _common(sites: Sequence[nn.Module], x: Tensor) -> Link:
    """The backend that takes codes of all sites for as many rows as x [b, t, any] has, or why none does."""
    backends = set()
    for site in sites:
        if not isinstance(site, QuantLinear):
            return Link(None, f"{type(site).__name__} stands where a quantized layer would")
        if _watched(site):
            return Link(None, WATCHED)
        window = current_window(site.windows)
        if not site.multiplies_codes(window):
            return Link(None, "products that are not of codes take no codes")
        backends.add(site.backend_for(x, window))
    if len(backends) > 1:
        return Link(None, "sites that read one tensor run on several backends")
    (backend,) = backends
    return Link(None, "simulation is the definition") if backend == "simulate" else Link(backend)


def _unlike(block: Any, residual: Residual) -> str:
    """Why nothing of a branch is fused, whatever its sites; empty where something may be."""
    layer: Any = block.get_submodule(residual.layer)
    if block.training:
        return "a block in training"
    if isinstance(layer, FeedForward):
        passed_over = [layer, *layer.net[:2]]
        if type(layer.net[0]) is not GELU:
            return f"the activation is {type(layer.net[0]).__name__}"
        if block._chunk_size is not None or len(layer.net) != 3:
            return "the feed-forward runs in chunks, or ends in a dropout"
    else:
        passed_over = [layer, layer.to_out[1]]
        if type(layer.processor) not in (AttnProcessor2_0, IntAttention):
            return f"attention runs as {type(layer.processor).__name__}"
        if any(getattr(layer, part, None) for part in PARTS) or layer.rescale_output_factor != 1:
            return "attention has parts of its own"
    passed_over.append(block.get_submodule(residual.norm))
    return WATCHED if any(_watched(module) for module in passed_over) else ""


def _watched(module: nn.Module) -> bool:
    return bool(module._forward_hooks or module._forward_pre_hooks)


def _format(site: QuantLinear) -> Format:
    fmt = site.plan.activations[current_window(site.windows)]
    assert fmt is not None
    return fmt
