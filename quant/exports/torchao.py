"""torchao tensors that diffusers loads: `TorchAoConfig(FqnToConfig({..}))` and flattened safetensors.

Layout as read in torchao 0.18 (prototype/safetensors) and diffusers 0.42: a weight NAME.weight is stored as
NAME._weight_qdata, NAME._weight_scale and where there is one NAME._weight_zero_point; the header has for
each tensor by its full name JSON of its class and attributes, and under "tensor_names" the list of all.

Shapes: q, z stored codes and zeros of b bits; W [o, i] in groups g of a row; d [o, g].

    int8, symmetric, per row     Int8Tensor                  (q - 128) d
    other integers               IntxUnpackedToInt8Tensor    ((q - 2^(b-1)) - (z - 2^(b-1))) d
    fp8                          Float8Tensor                e4m3 d

All weights are those of our codes, to the bit in float32. Dynamic activations are scaled by torchao's own
rules: it divides the largest magnitude of a row by 127.5 where we divide it by 127. Codes of less than
8 bits take a byte each.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import kernels

from ..checkpoint import CONFIG, WEIGHTS
from ..layers import QuantLinear
from ..schema import Format, SitePlan
from . import ExportCard, Exported, Lossy
from .opened import Opened, Part, activations, takes, write_parts

CARD = ExportCard(
    key="torchao",
    title="torchao through diffusers",
    writes="folder",
    holds="integers of 2 to 8 bits per row or group, with zero points, and fp8 per row; folded scales; int8 and fp8 dynamic activations per row",
    loses="input transforms, low-rank branches, codebooks, block formats, static and narrower activations, formats per window; codes under 8 bits take a byte",
    source="torchao 0.18 and diffusers 0.42, read",
    checked="diffusers with torchao 0.18, in a test",
)

ROW_INT8 = Format()
ROW_INT8_ASYMMETRIC = Format(symmetric=False)
ROW_FP8 = Format(kind="fp8")
_ROWS = {"_type": "PerRow", "_version": 1, "_data": {"dim": -1}}


@dataclass(frozen=True)
class Written:
    """One site as torchao tensors."""

    kind: str  # class of the tensor
    parts: dict[str, Part]  # by attribute
    attributes: dict[str, Any]
    config: dict[str, Any]  # that quantizes to the same class, in `FqnToConfig`
    lossy: list[Lossy] = field(default_factory=list)


def write(checkpoint: Opened, out: Path) -> Exported:
    """A transformer's folder that `from_pretrained` opens where torchao is installed."""
    parts: dict[str, Part] = {}
    header: dict[str, str] = {}
    configs: dict[str, Any] = {}
    lossy = checkpoint.outside_layers()

    def plain(more: dict[str, Part]) -> None:
        parts.update(more)
        header.update(dict.fromkeys(more, json.dumps({"_type": "Tensor"})))

    plain(dict(checkpoint.others()))
    for name, site in checkpoint.sites.items():
        lost = checkpoint.beyond_codes(name)
        if lost:
            plain(checkpoint.dequantized(name))
            lossy.append(checkpoint.instead(name, lost))
            continue
        made = _written(checkpoint, name, site)
        for attribute, part in made.parts.items():
            parts[f"{name}._weight_{attribute}"] = part
        header[f"{name}.weight"] = json.dumps(
            {
                "_type": made.kind,
                "_data": made.attributes,
                "_tensor_data_names": list(made.parts),
            }
        )
        plain(checkpoint.bias(name))
        configs[name] = made.config
        lossy += made.lossy
    names = list(header)
    write_parts(out / WEIGHTS, parts, {"format": "pt", **header, "tensor_names": json.dumps(names)})
    described = {**checkpoint.described, "quantization_config": quantization_config(configs)}
    (out / CONFIG).write_text(
        json.dumps(described, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    return Exported((out / CONFIG, out / WEIGHTS), tuple(lossy))


def quantization_config(configs: dict[str, Any]) -> dict[str, Any]:
    """What diffusers' `TorchAoConfig` reads: explicit names, no pattern and no default."""
    by_name = {"fqn_to_config": configs, "module_fqn_to_config": configs}
    whole = {"_type": "FqnToConfig", "_version": 1, "_data": by_name}
    return {
        "quant_method": "torchao",
        "quant_type": {"default": whole},
        "modules_to_not_convert": None,
    }


def _written(checkpoint: Opened, name: str, site: SitePlan) -> Written:
    weight = site.weight
    assert weight is not None
    if weight.kind == "fp8":
        return _fp8(checkpoint, name, site)
    if weight == ROW_INT8 and (takes(site, None) or takes(site, ROW_INT8)):
        return _int8(checkpoint, name, site)
    return _integers(checkpoint, name, site, weight)


def _int8(checkpoint: Opened, name: str, site: SitePlan) -> Written:
    """Symmetric int8 per row, on activations alike or in floating point."""
    linear = checkpoint.linear(name)
    dynamic = site.activations[0] is not None
    rows = {"_type": "PerRow", "_data": {"dim": -1}}
    quantized = {
        "_type": "QuantizeTensorToInt8Kwargs",
        "_data": {
            "granularity": rows,
            "mapping_type": _enum("MappingType", "SYMMETRIC"),
            "reduce_range": False,
        },
    }
    parts = _parts(checkpoint, name, 8, 1)
    attributes = {
        "act_quant_kwargs": quantized if dynamic else None,
        "reduce_range": False,
        "block_size": [1, linear.in_features],
        "dtype": _dtype(torch.float32),
    }
    if dynamic:
        config = _config(
            "Int8DynamicActivationInt8WeightConfig",
            act_mapping_type=_enum("MappingType", "SYMMETRIC"),
            granularity=[_ROWS, _ROWS],
        )
    else:
        config = _config("Int8WeightOnlyConfig", granularity=_ROWS)
    return Written("Int8Tensor", parts, attributes, config)


def _integers(checkpoint: Opened, name: str, site: SitePlan, weight: Format) -> Written:
    """Integers of any width with zero points, a byte each."""
    linear = checkpoint.linear(name)
    group = weight.group_size or linear.in_features
    dynamic = not takes(site, None)
    lossy = []
    if dynamic and not takes(site, ROW_INT8_ASYMMETRIC):
        instead = "dynamic int8 asymmetric per row"
        lossy.append(Lossy(name, activations(site), f"activations {instead}"))
    attributes = {
        "target_dtype": {"_type": "torch.dtype", "_data": f"int{weight.bits}"},
        "block_size": [1, group],
        "dtype": _dtype(torch.float32),
        "activation_quantization": "int8_asym_per_token" if dynamic else None,
    }
    one = {"_type": "PerAxis", "_version": 1, "_data": {"axis": 0}}
    if weight.group_size:
        one = {"_type": "PerGroup", "_version": 1, "_data": {"group_size": group}}
    mapping = _enum("MappingType", "SYMMETRIC" if weight.symmetric else "ASYMMETRIC")
    bits = {"_type": "torch.dtype", "_data": f"int{weight.bits}"}
    if dynamic:
        config = _config(
            "Int8DynamicActivationIntxWeightConfig",
            weight_dtype=bits,
            weight_granularity=one,
            weight_mapping_type=mapping,
            act_mapping_type=_enum("MappingType", "ASYMMETRIC"),
        )
    else:
        config = _config(
            "IntxWeightOnlyConfig", weight_dtype=bits, granularity=one, mapping_type=mapping
        )
    parts = _parts(checkpoint, name, weight.bits, linear.in_features // group)
    return Written("IntxUnpackedToInt8Tensor", parts, attributes, config, lossy)


def _fp8(checkpoint: Opened, name: str, site: SitePlan) -> Written:
    linear = checkpoint.linear(name)
    dynamic = takes(site, ROW_FP8)
    lossy = []
    if not dynamic and not takes(site, None):
        lossy.append(Lossy(name, activations(site), "activations in floating point"))
    kernel = _enum("KernelPreference", "AUTO")
    element = _dtype(torch.float8_e4m3fn)
    kwargs = {
        "_type": "QuantizeTensorToFloat8Kwargs",
        "_data": {
            "float8_dtype": element,
            "granularity": {"_type": "PerRow", "_data": {"dim": -1}},
            "mm_config": None,
            "hp_value_lb": None,
            "hp_value_ub": None,
            "kernel_preference": kernel,
        },
    }
    product = {"emulate": False, "use_fast_accum": True, "pad_inner_dim": False}
    attributes = {
        "block_size": [1, linear.in_features],
        "mm_config": {"_type": "Float8MMConfig", "_data": product} if dynamic else None,
        "act_quant_kwargs": kwargs if dynamic else None,
        "kernel_preference": kernel,
        "dtype": _dtype(torch.float32),
    }
    shape = (linear.out_features, linear.in_features)
    parts = {
        "qdata": Part(shape, torch.float8_e4m3fn, lambda: checkpoint.layer(name).codes),
        "scale": Part((shape[0], 1), torch.float32, lambda: checkpoint.layer(name).scale),
    }
    if dynamic:
        config = _config(
            "Float8DynamicActivationFloat8WeightConfig",
            activation_dtype=element,
            weight_dtype=element,
            granularity=[_ROWS, _ROWS],
        )
    else:
        config = _config("Float8WeightOnlyConfig", weight_dtype=element, granularity=_ROWS)
    return Written("Float8Tensor", parts, attributes, config, lossy)


def _parts(checkpoint: Opened, name: str, bits: int, groups: int) -> dict[str, Part]:
    """Codes, scales and zeros of integers about 0, as both integer classes hold them."""
    linear = checkpoint.linear(name)
    shape, of_groups = (linear.out_features, linear.in_features), (linear.out_features, groups)

    def made(make: Callable[[QuantLinear], Tensor]) -> Callable[[], Tensor]:
        return lambda: make(checkpoint.layer(name))

    return {
        "qdata": Part(shape, torch.int8, made(lambda layer: about_zero(_codes(layer, bits), bits))),
        "scale": Part(of_groups, torch.float32, made(lambda layer: layer.scale)),
        "zero_point": Part(of_groups, torch.int8, made(lambda layer: _zeros(layer, bits))),
    }


def about_zero(codes: Tensor, bits: int) -> Tensor:
    """uint8 in [0, 2^b) as int8 in [-2^(b-1), 2^(b-1))."""
    return (codes.short() - 2 ** (bits - 1)).to(torch.int8)


def _codes(layer: QuantLinear, bits: int) -> Tensor:
    return kernels.bitpack.unpack(layer.codes, bits, layer.in_features)


def _zeros(layer: QuantLinear, bits: int) -> Tensor:
    """z [o, g]; 0 where the weight is symmetric."""
    if layer.plan.weight is None or layer.plan.weight.symmetric:
        return torch.zeros_like(layer.scale, dtype=torch.int8)
    return about_zero(layer.get_buffer("zero"), bits)


def _enum(kind: str, value: str) -> dict[str, Any]:
    return {"_type": kind, "_data": value}


def _dtype(dtype: torch.dtype) -> dict[str, Any]:
    return {"_type": "torch.dtype", "_data": str(dtype).removeprefix("torch.")}


def _config(kind: str, **said: Any) -> dict[str, Any]:
    """A torchao configuration; what is not said is its default."""
    return {"_type": kind, "_version": 2, "_data": said}
