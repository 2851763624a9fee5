"""ComfyUI's mixed-precision layout: one safetensors file, a format for each layer in its metadata.

Layout as documented by ComfyUI (QUANTIZATION.md, comfy/quant_ops.py) and comfy-kitchen's int8 layout, read
there; the program itself was not run. A quantized layer NAME has

    NAME.weight         int8 or float8_e4m3fn [o, i]
    NAME.weight_scale   float32 [o, 1] (int8) or a scalar (fp8); never in 16 bit
    NAME.comfy_quant    uint8: JSON {"format": ..} as UTF-8, which is also in the header under
                        "_quantization_metadata" {"format_version": "1.0", "layers": {NAME: {"format": ..}}}

    int8_tensorwise     W = (q - z) d    where q - z fits int8: always up to 7 bits, and for symmetric 8 bits;
                                         else W is rounded again, on a symmetric grid of 8 bits per row
    float8_e4m3fn       W = e4m3 d       with one d for the tensor

comfy-kitchen rounds the inputs of int8 layers to int8, one scale per row as they come, and those of fp8
layers by its own rules. ComfyUI knows a model by the names of its release: tensors of Flux and Stable
Diffusion 3 get those, with q, k and v in one tensor (`quant.exports.reference_names`); such layers share a
format, and where they do not, all of them are written dequantized. Other families keep diffusers' names.
"""

from __future__ import annotations

import functools
import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

import kernels

from ..layers import QuantLinear
from ..rounding import round_to_nearest
from ..schema import Format, SitePlan
from . import ExportCard, Exported, Lossy
from .opened import Opened, Part, activations, takes, write_parts
from .reference_names import Reference, reference_names

CARD = ExportCard(
    key="comfyui",
    title="ComfyUI mixed precision",
    writes="file",
    suffix=".safetensors",
    holds="integers of 2 to 7 bits and symmetric int8, per row; folded scales; int8 dynamic activations per row",
    loses="asymmetric 8 bits and groups (rounded again to symmetric int8 per row), input transforms, low-rank branches, codebooks, block formats, all but one scale of fp8 (rounded again), other activations, formats per window; codes under 8 bits take a byte; fused q, k, v that do not share a format",
    source="ComfyUI's QUANTIZATION.md and quant_ops, comfy-kitchen, read",
    checked="a reader in the tests, written from that page; untested against the program itself",
)

FORMAT_VERSION = "1.0"
INT8, FP8 = "int8_tensorwise", "float8_e4m3fn"
_E4M3_MAX = 448.0
ROW_INT8 = Format()


def write(checkpoint: Opened, out: Path) -> Exported:
    """One file; layers that the layout cannot hold are ordinary ones in it."""
    others = dict(checkpoint.others())
    sites = list(checkpoint.sites)
    weights = [*(n for n in others if n.endswith(".weight")), *(f"{n}.weight" for n in sites)]
    place = reference_names(checkpoint.described.get("_class_name", ""), weights)
    beside: dict[str, list[str]] = {}  # modules by the tensor that their weights lie in
    for weight in weights:
        beside.setdefault(place(weight).name, []).append(weight.removesuffix(".weight"))
    coded = {name: _coded(checkpoint, name, beside[place(f"{name}.weight").name]) for name in sites}
    parts, layers = others, {}
    lossy = checkpoint.outside_layers()
    for name, (made, lost) in coded.items():
        of = place(f"{name}.weight").name
        apart = [m for m in beside[of] if m not in coded or coded[m][0] != made] if made else []
        if apart:
            lost = [
                checkpoint.instead(name, f"{made}, in one tensor with {apart[0]}, which is not")
            ]
        lossy += lost
        if made is None or apart:
            parts |= checkpoint.dequantized(name)
            continue
        said = {"format": made}
        layers[of.removesuffix(".weight")] = said
        held = _held(checkpoint, name, made, beside[of])
        held["comfy_quant"] = Part.of(
            torch.tensor(list(json.dumps(said).encode()), dtype=torch.uint8)
        )
        parts |= {f"{name}.{last}": part for last, part in held.items()} | checkpoint.bias(name)
    described = json.dumps({"format_version": FORMAT_VERSION, "layers": layers})
    header = {"format": "pt", "_quantization_metadata": described}
    write_parts(out, _placed(parts, place), header)
    return Exported((out,), tuple(lossy))


def _coded(checkpoint: Opened, name: str, beside: list[str]) -> tuple[str | None, list[Lossy]]:
    """The layout's format for one site, or None where it is written dequantized, and what is lost.

    `beside` are the modules of one tensor with it, itself among them.
    """
    beyond, site = checkpoint.beyond_codes(name), checkpoint.sites[name]
    weight = site.weight
    if beyond or weight is None:
        return None, [checkpoint.instead(name, beyond)]
    if weight.kind == "fp8":
        lost = [] if takes(site, None) else [_other(name, site, "fp8")]
        if weight.granularity == "row" or len(beside) > 1:
            lost.insert(0, Lossy(name, f"{weight}", f"{FP8} with one scale, rounded again"))
        return FP8, lost
    lost = [] if takes(site, ROW_INT8) else [_other(name, site, "int8 per row")]
    if not _fits(checkpoint.layer(name)):
        lost.insert(0, Lossy(name, f"{weight}", f"{INT8}, symmetric per row, rounded again"))
    return INT8, lost


def _held(checkpoint: Opened, name: str, made: str, beside: list[str]) -> dict[str, Part]:
    """Weight and scale of one site, in one tensor with those `beside` it."""
    linear = checkpoint.linear(name)
    shape, rows = (linear.out_features, linear.in_features), (linear.out_features, 1)

    def scale() -> Tensor:
        return torch.stack([checkpoint.layer(other).scale.max() for other in beside]).max()

    if made == FP8:
        return {
            "weight": Part(
                shape, torch.float8_e4m3fn, lambda: _on_scale(checkpoint.layer(name), scale())
            ),
            "weight_scale": Part((), torch.float32, scale),
        }
    return {
        "weight": Part(
            shape, torch.int8, lambda: _signed(checkpoint.layer(name))[0].to(torch.int8)
        ),
        "weight_scale": Part(rows, torch.float32, lambda: _signed(checkpoint.layer(name))[1]),
    }


def _placed(parts: Mapping[str, Part], place: Callable[[str], Reference]) -> dict[str, Part]:
    """Parts under the names of the release: those of one name below one another."""
    rows: dict[str, dict[int, Part]] = {}
    for name, part in parts.items():
        at = place(name)
        whole = not part.shape or name.endswith(".comfy_quant")  # said once, of all rows
        if at.swapped and not whole:
            part = Part(part.shape, part.dtype, lambda part=part: _swapped(part.make()))
        rows.setdefault(at.name, {})[0 if whole else at.position] = part
    return {name: _joined([found[i] for i in sorted(found)]) for name, found in rows.items()}


def _swapped(tensor: Tensor) -> Tensor:
    return torch.cat(tensor.chunk(2)[::-1])


def _joined(parts: list[Part]) -> Part:
    """Parts below one another, in the widest of their dtypes."""
    if len(parts) == 1:
        return parts[0]
    dtype = functools.reduce(torch.promote_types, [part.dtype for part in parts])
    shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
    return Part(shape, dtype, lambda: torch.cat([part.make().to(dtype) for part in parts]))


def _other(name: str, site: SitePlan, instead: str) -> Lossy:
    return Lossy(name, activations(site), f"activations as ComfyUI takes them, {instead}")


def _signed(layer: QuantLinear) -> tuple[Tensor, Tensor]:
    """W = q d of whole numbers q in int8, int16 [o, i], and d [o, 1]: our codes where they fit."""
    weight = layer.plan.weight
    assert weight is not None
    if not _fits(layer):
        made = round_to_nearest(layer.dequantized_weight(), ROW_INT8)
        return made.codes.short() - 128, made.scale
    return _about_zero(layer, weight), layer.scale


def _about_zero(layer: QuantLinear, weight: Format) -> Tensor:
    """q - z, int16 [o, i], of codes with one zero per row."""
    codes = kernels.bitpack.unpack(layer.codes, weight.bits, layer.in_features).short()
    return codes - (
        2 ** (weight.bits - 1) if weight.symmetric else layer.get_buffer("zero").short()
    )


def _fits(layer: QuantLinear) -> bool:
    """Whether the codes minus their zeros are in int8, a scale per row; for up to 7 bits they always are."""
    weight = layer.plan.weight
    if weight is None or weight.group_size is not None:
        return False
    low, high = _about_zero(layer, weight).aminmax()
    return int(low) >= -128 and int(high) <= 127


def _on_scale(layer: QuantLinear, scale: Tensor) -> Tensor:
    """Codes of an fp8 weight on one scale: as they are where its rows have it, else rounded again."""
    if bool((layer.scale == scale).all()):
        return layer.codes
    rounded = (layer.dequantized_weight() / scale).clamp(-_E4M3_MAX, _E4M3_MAX)
    return rounded.to(torch.float8_e4m3fn)
