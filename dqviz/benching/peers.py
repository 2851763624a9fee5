"""Other people's ways to compute a linear layer, or a whole transformer."""

from __future__ import annotations

import copy
import warnings
from collections.abc import Callable, Collection
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from kernels.quantize_rows import quantize_rows

FULL = {"cpu": "float32", "cuda": "cuBLAS bf16"}  # what everything is held against
DYNAMIC, TORCHAO, COMPILED = "torch dynamic w8a8", "torchao w8a8", "compiled bf16"

Call = Callable[[], object]


def of_layer(x: Tensor, weight: Tensor, bias: Tensor) -> dict[str, Call]:
    """x [m, k], weight [n, k], bias [n], in full precision; others prepare what they need of the weight here."""
    kind = x.device.type
    found: dict[str, Call] = {FULL[kind]: lambda: F.linear(x, weight, bias)}
    if kind == "cpu":
        n, k = weight.shape
        plain = nn.Linear(k, n)
        plain.weight.data, plain.bias.data = weight, bias
        network = nn.Sequential(plain)
        return found | {name: _calling(made, x) for name, made in quantized(network, {"0"}).items()}
    torch._dynamo.reset()  # a graph for every shape
    found[COMPILED] = _calling(torch.compile(lambda x: F.linear(x, weight, bias)), x)
    scale = weight.float().abs().amax(1) / 127
    codes = (weight.float() / scale[:, None]).round().to(torch.int8).T  # [k, n]
    found["_int_mm, compiled"] = _calling(torch.compile(_int_mm(codes, scale, bias)), x)
    return found


def _calling(made: Callable[[Tensor], object], x: Tensor) -> Call:
    return lambda: made(x)


def _int_mm(codes: Tensor, scale: Tensor, bias: Tensor) -> Callable[[Tensor], Tensor]:
    """Rows quantized as ours are, torch's own product of integers, scales after it."""

    def linear(x: Tensor) -> Tensor:
        rows = quantize_rows(x.float(), 8, True, backend="simulate")
        sums = torch._int_mm(rows.codes.to(torch.int8), codes)
        return (sums * rows.scale * scale + bias).to(x.dtype)

    return linear


def quantized(network: nn.Module, names: Collection[str]) -> dict[str, Any]:
    """Copies of a network whose linears of these names are quantized, per peer; torchao where it is installed."""
    found: dict[str, Any] = {DYNAMIC: _dynamic(network, names)}
    try:
        from torchao import quantization
    except ImportError:
        return found
    made = copy.deepcopy(network)
    config = quantization.Int8DynamicActivationInt8WeightConfig()
    quantization.quantize_(made, config, filter_fn=lambda _, name: name in names)
    return {**found, TORCHAO: made}


def _dynamic(network: nn.Module, names: Collection[str]) -> nn.Module:
    """torch's own dynamic quantization, one scale for a whole input, of 7 bits where it must."""
    with warnings.catch_warnings():  # it is to go in favour of torchao
        warnings.simplefilter("ignore")
        config = dict.fromkeys(names, torch.ao.quantization.default_dynamic_qconfig)
        return torch.ao.quantization.quantize_dynamic(network, config)
