"""What quantization saves on a processor: seconds against float32, and memory, each figure with the mode it was taken in.

    make cpu                                                    (one thread, idle cores; a minute)
    .venv/bin/python -m benchmarks.cpu --runs 7 --out /tmp/cpu

Three sizes, in one process, each beside float32 of the same weights:

    linears    one linear layer on random rows: float32, the definition (simulate), integer arithmetic, and peers
    block      one block of DiT-XL/2's width, 2 x 256 tokens
    model      one evaluation of dit-emoji by its sampler's batch

Times are the least of interleaved runs: other work only ever adds. What is quantized is quantized inside the time (rows), what is
kept is prepared before (weights). Sums of integer arithmetic equal those of the definition bit for bit; that is tested, not
timed. Memory is counted in the running layers (`quant.residency.counted`), of quantized sites alone. Writes cpu.json, cpu.md and cpu.svg into --out (docs/results).
"""

from __future__ import annotations

import argparse
import datetime
import sys
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from dqviz.benching.timing import fastest
from dqviz.planning import load
from kernels.int_linear import PackedWeight, Residency, cpu, int_linear, prepare, tuned
from quant.layers import QuantLinear
from quant.models import Model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.residency import counted, hold
from quant.schema import Plan, parse_bits
from quant.sensitivity.sampling import Drawer

from .cpu_page import CAPTION, figure, markdown
from .one_block import one_block
from .peers import versions
from .results import device, written

ROOT = Path(__file__).resolve().parent.parent
SHAPES = (  # rows, inputs, outputs
    (256, 384, 384),
    (256, 1152, 1152),
    (1024, 1152, 1152),
    (1024, 384, 1536),
    (512, 1152, 4608),
    (512, 4608, 1152),
)
WIDTHS = ((8, 8), (8, 7), (4, 8))  # of weights and inputs
TOKENS, BRANCHES = 256, 2
STORED: dict[
    str, tuple[str, str, dict[str, Any]]
] = {  # one iteration: bytes are the same after a hundred
    "int8": ("rtn", "w8a8", {}),
    "int4": ("rtn", "w4a8", {}),
    "2-bit codebook": ("kmeans-vq", "w2a16", {"iterations": 1}),
    "2-bit codebook, int8 entries": ("kmeans-vq", "w2a8", {"iterations": 1, "codebook": "int8"}),
}
MODES: tuple[Residency, ...] = ("memory", "speed")


def linear(m: int, k: int, n: int, runs: int) -> dict[str, Any]:
    """One layer, every way."""
    x, weight, bias = torch.randn(m, k), torch.randn(n, k) / k**0.5, torch.randn(n)
    calls: dict[str, Callable[[], object]] = {"float32": lambda: F.linear(x, weight, bias)}
    for of_weight, of_input in WIDTHS:
        stored = prepare(_packed(weight, of_weight))
        for backend in ("simulate", "integer"):
            if backend == "integer" and cpu.obstacle(stored.weight, of_input, x.device):
                continue
            calls[f"{backend} w{of_weight}a{of_input}"] = _ours(x, stored, bias, of_input, backend)
    calls |= _peers(x, weight, bias)
    return {"m": m, "k": k, "n": n, "seconds": fastest(calls, runs)}


def _ours(x: Tensor, stored: Any, bias: Tensor, bits: int, backend: str) -> Callable[[], object]:
    return lambda: int_linear(x, stored, bias, bits, True, backend)


def _packed(weight: Tensor, bits: int) -> PackedWeight:
    scale = weight.abs().amax(1, keepdim=True) / (2 ** (bits - 1) - 1)
    codes = (weight / scale).round().add(2 ** (bits - 1)).to(torch.uint8)
    return PackedWeight.from_codes(codes, bits, scale)


def _peers(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Callable[[], object]]:
    """torch's own dynamic quantization, per tensor with 7-bit inputs where it must; and torchao, where it is installed."""
    n, k = weight.shape
    plain = nn.Linear(k, n)
    plain.weight.data, plain.bias.data = weight, bias
    with (
        warnings.catch_warnings()
    ):  # it is to go in favour of torchao, which has no such products for processors yet
        warnings.simplefilter("ignore")
        dynamic = torch.ao.quantization.quantize_dynamic(nn.Sequential(plain), {nn.Linear})
    found: dict[str, Callable[[], object]] = {"torch dynamic w8a8": lambda: dynamic(x)}
    try:
        from torchao import quantization
    except ImportError:
        return found
    again = nn.Linear(k, n)
    again.weight.data, again.bias.data = weight.clone(), bias
    other = nn.Sequential(again)
    config = quantization.Int8DynamicActivationInt8WeightConfig()
    quantization.quantize_(other, config)
    return found | {"torchao w8a8": lambda: other(x)}


def block(runs: int) -> dict[str, Any]:
    """One block of DiT-XL/2's width."""
    model = one_block()
    name = model.adapter.blocks(model.transformer)[0]
    plain: Any = model.transformer.get_submodule(name)
    x = torch.randn(BRANCHES, TOKENS, plain.norm1.norm.normalized_shape[0])
    timestep, labels = torch.full((BRANCHES,), 500), torch.tensor([1, 1000])

    def call(of: nn.Module) -> Callable[[], object]:
        return lambda: of(x, timestep=timestep, class_labels=labels)

    calls = {"float32": call(plain)}
    for bits in ("w8a8", "w4a8"):
        for backend in ("simulate", "auto", "integer"):
            made = _quantized(model, bits, backend)
            if made is not None:
                calls[f"{backend} {bits}"] = call(made.get_submodule(name))
    return {"tokens": TOKENS * BRANCHES, "seconds": fastest(calls, runs)}


def evaluation(ref: str, count: int, runs: int) -> dict[str, Any]:
    """One evaluation of a whole model, both guidance branches."""
    model = load(ref, device="cpu")
    sampler = model.sampler(None)
    drawer = Drawer(model, sampler)
    begun = drawer.begin(model.samples(range(count)))
    first = torch.tensor(drawer.timesteps[0])

    def call(of: nn.Module) -> Callable[[], object]:
        return lambda: drawer.evaluate(of, begun.latents, first, begun.conditions)

    calls = {"float32": call(model.transformer)}
    for backend in ("simulate", "auto", "integer"):
        made = _quantized(model, "w8a8", backend)
        if made is not None:
            calls[f"{backend} w8a8"] = call(made)
    return {"model": ref, "samples": count, "seconds": fastest(calls, runs)}


def resident(stored: str, mode: Residency) -> dict[str, Any]:
    """Bytes that the quantized sites of one block hold once they ran, over those of their weights in float32."""
    method, bits, options = STORED[stored]
    model = one_block()
    made = quantize(model, method, _plan(model, bits), options).transformer
    hold(made, mode)
    layers = [layer for layer in made.modules() if isinstance(layer, QuantLinear)]
    for layer in layers:
        layer(torch.randn(TOKENS, layer.in_features))
    held = counted(nn.ModuleList(layers))
    biases = sum(layer.bias.nbytes for layer in layers)
    weights = sum(4 * layer.in_features * layer.out_features for layer in layers)
    return {
        "weights": stored,
        "inputs": bits.partition("a")[2] + " bits",
        "mode": mode,
        "backend": layers[0].why(TOKENS)[0],
        **held.to_json(),
        "ratio": (held.stored_bytes + held.expanded_bytes - biases) / weights,
    }


def _quantized(model: Model, bits: str, backend: str) -> nn.Module | None:
    """Rounded to nearest; None where a backend cannot do it exactly on this processor."""
    made = quantize(model, "rtn", _plan(model, bits), backend=backend).transformer
    layers = (layer for layer in made.modules() if isinstance(layer, QuantLinear))
    try:
        for layer in layers:
            layer.why(TOKENS)
    except RuntimeError:
        return None
    return made


def _plan(model: Model, bits: str) -> Plan:
    return uniform_plan(model, parse_bits(bits), sampler=model.sampler(None))


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Everything."""
    torch.manual_seed(0)
    with torch.inference_mode():
        found = {
            "linears": [linear(m, k, n, given.runs) for m, k, n in given.shapes],
            "block": block(given.runs),
            "model": evaluation(given.model, given.samples, given.runs),
            "resident": [resident(stored, mode) for stored in STORED for mode in MODES],
        }
    return {
        "format": 1,
        "device": device(),
        "kind": tuned.device_name(),
        "versions": versions(),
        "date": datetime.date.today().isoformat(),
        **found,
    }


def _shape(text: str) -> tuple[int, ...]:
    return tuple(map(int, text.split("x")))


def main() -> int:
    """Measure and write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--model", default="dit-emoji")
    parser.add_argument("--samples", type=int, default=8, help="drawn together")
    parser.add_argument("--runs", type=int, default=15, help="timed runs of each way, at least 7")
    parser.add_argument("--shapes", type=_shape, nargs="+", default=SHAPES, metavar="MxKxN")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    given = parser.parse_args()
    torch.set_num_threads(1)
    return written("cpu", given.out, lambda: measure(given), markdown, figure, CAPTION)


if __name__ == "__main__":
    sys.exit(main())
