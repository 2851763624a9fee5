"""The rows of measured speeds that say something about a product of this op, and the choice that follows from them.

A table is ``<folder>/<device>/int_linear.json`` (`kernels.tables` says where), written by ``dqviz bench --tune`` or
``benchmarks/int_linear.py --save``: ``{"date", "torch", "cores", "cpu", "rows": [{"m", "k", "n", "weight_bits", "act_bits",
"group", "corrected", "seconds_fp32", "seconds_simulate", "seconds_integer", "ratio"}, ...]}`` with ratio = simulate / integer;
cores are the threads that computed. On a GPU it says the "device", and rows have ``seconds_bf16`` and ``seconds_triton``;
``act_bits`` is null where inputs are not quantized.

On the CPU bits that were not measured take the nearest. A GPU multiplies nibbles up to 4 bits and bytes beyond, two
kernels, and inputs as bytes: rows of 4 and 8 bits with inputs of 8 stand for all. Inputs that are not quantized are
measured in bfloat16, which stands for 16 bits alone: in float32 the same product is many times the work.
"""

from __future__ import annotations

from functools import lru_cache

import torch

from .. import measured
from ..dispatch import Choice
from ..measured import Kind
from . import cpu
from .operand import apart_of, packs
from .weight import PackedWeight

OP = "int_linear"
CPU = torch.device("cpu")


def device_name(device: torch.device = CPU) -> str:
    """Kind of device, as far as it decides: ``cpu-avx2``, ``cpu-avx512-vnni``, ``sm_90``."""
    on_gpu = measured.version(device) == "triton"
    return measured.architecture(device.index or 0) if on_gpu else _processor()


@lru_cache(maxsize=1)
def _processor() -> str:
    name = f"cpu-{torch.backends.cpu.get_cpu_capability().lower()}"
    return name if not cpu.available() or cpu.saturates() else f"{name}-vnni"


def unmeasured(dtype: torch.dtype) -> str | None:
    """Why nothing is known of rows that are not quantized, by their dtype, or None."""
    if dtype.itemsize == 2:
        return None
    return f"{str(dtype).removeprefix('torch.')} rows were not measured, those of 16 bit are"


def kind(version: str, weight: PackedWeight, act_bits: int | None, act_symmetric: bool) -> Kind:
    """Of a product that a version can compute."""
    if version == "integer":
        assert act_bits is not None, "obstacle() comes first"
        corrected = cpu.corrected(weight, act_bits, act_symmetric)
        bits = ("weight_bits", weight.bits), ("act_bits", act_bits)
        return Kind((("corrected", corrected),), bits)
    group = weight.group_size if weight.scale.shape[1] > 1 else None
    corrected = apart_of(weight) is not None or (act_bits is not None and not act_symmetric)
    bits = ("weight_bits", 4 if packs(weight) else 8), ("act_bits", act_bits and 8)
    return Kind((*bits, ("group", group), ("corrected", corrected)))


def choice(device: torch.device, shape: tuple[int, int, int], kind: Kind) -> Choice:
    """The faster version of a device if the nearest measured shape (m, k, n), at the nearest bits, gained enough."""
    sizes = tuple(zip("mkn", shape, strict=True))
    return measured.choice(OP, measured.version(device), device_name(device), sizes, kind)
