"""One linear layer, every way: ours by bits and backend, and peers, on random numbers in one run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import torch

from kernels.int_linear import OP, PackedWeight, Prepared, choose, int_linear, prepare

from . import peers
from .subject import Layer
from .timing import able, fastest

BITS = (
    (8, 8),
    (8, 7),
    (4, 8),
)  # (weight, activation); 7-bit inputs are for processors that need them
BACKENDS = {"cpu": ("simulate", "integer"), "cuda": ("simulate", "triton")}
AGREE = {
    torch.float32: OP.tolerance,
    torch.bfloat16: 1e-2,
}  # relative, of outputs with the definition's

Way = tuple[str, str]  # bits, backend


@dataclass
class Timed:
    """Seconds of one layer."""

    layer: Layer
    ours: dict[Way, float]
    peers: dict[str, float]
    bytes: dict[str, int]  # that ours reads and writes at least, by bits
    taken: dict[str, str]  # the backend that `auto` takes, by bits
    left_out: dict[str, str] = field(default_factory=dict)  # why


def weight_of(
    k: int,
    n: int,
    bits: int,
    device: torch.device | None = None,
    group: int | None = None,
    zeros: bool = False,
) -> PackedWeight:
    """A random weight; symmetric, or with random `zeros`."""
    codes = torch.randint(0, 2**bits, (n, k), dtype=torch.uint8, device=device)
    shape = n, 1 if group is None else -(-k // group)
    scale = torch.rand(shape, device=device) * 0.01 + 0.001
    zero = torch.randint(0, 2**bits, shape, dtype=torch.int16, device=device) if zeros else None
    return PackedWeight.from_codes(codes, bits, scale, zero, group)


def timed(
    layer: Layer,
    runs: int,
    device: torch.device,
    dtype: torch.dtype,
    pause: Callable[[], None] = lambda: None,
) -> Timed:
    """All ways in turn; quantizing the input, scales and bias are inside, preparing weights is not.

    Weights have zeros and inputs have none, as in `quant.plans.uniform_plan`: `auto` decides by that too.
    """
    x = torch.randn(layer.m, layer.k, device=device, dtype=dtype)
    bias = torch.randn(layer.n, device=device)
    found = Timed(layer, {}, {}, {}, {})
    calls: dict[str, Callable[[], object]] = {}
    ways: dict[str, Way] = {}
    for of_weight, of_input in BITS:
        bits = f"w{of_weight}a{of_input}"
        stored = prepare(weight_of(layer.k, layer.n, of_weight, device, zeros=True))
        found.bytes[bits] = moved(layer, stored.weight, dtype)
        found.taken[bits] = choose(x, stored, of_input).backend
        for backend in BACKENDS[device.type]:
            name = f"{bits} {backend}"
            call = _ours(x, stored, bias, of_input, backend)
            why = doubt(_ours(x, stored, bias, of_input, "simulate"), call, dtype)
            if why is None:
                calls[name], ways[name] = call, (bits, backend)
            else:
                found.left_out[name] = why
    weight = torch.randn(layer.n, layer.k, device=device, dtype=dtype) / layer.k**0.5
    others = able(peers.of_layer(x, weight, bias.to(dtype)), found.left_out)
    taken = fastest(calls | others, runs, device, pause)
    found.ours = {way: taken[name] for name, way in ways.items()}
    found.peers = {name: taken[name] for name in others}
    return found


def moved(layer: Layer, weight: PackedWeight, dtype: torch.dtype) -> int:
    """Bytes of the input, the stored weight with its scales and zeros, and the output."""
    outside = (layer.m * layer.k + layer.m * layer.n) * dtype.itemsize
    return outside + weight.size_bytes


def _ours(
    x: torch.Tensor, stored: Prepared, bias: torch.Tensor, bits: int, backend: str
) -> Callable[[], Any]:
    return lambda: int_linear(x, stored, bias, bits, True, backend)


def doubt(definition: Callable[[], Any], call: Callable[[], Any], dtype: torch.dtype) -> str | None:
    """Why a backend is not timed: it, or the definition, cannot do it here, or its numbers are others than the definition's."""
    found: dict[str, torch.Tensor] = {}
    out: dict[str, str] = {}

    def kept(name: str, way: Callable[[], Any]) -> Callable[[], object]:
        return lambda: found.update({name: way().float()})

    able({"definition": kept("exact", definition), "call": kept("made", call)}, out)
    if out:
        return next(iter(out.values()))
    exact, made = found["exact"], found["made"]
    off = float((made - exact).norm() / exact.norm())
    return None if off <= AGREE[dtype] else f"its numbers are off by {off:.1e}"
