"""Checkpoints to export, and readers of foreign formats that were written from their documentation alone.

The readers share nothing with `quant.exports`: what they find is what somebody else's program would.
"""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from quant.atomic import write_tensors
from quant.calibration import CalibrationOptions, calibrate
from quant.checkpoint import CheckpointConfig, save_checkpoint
from quant.exports.opened import Opened
from quant.layer_making import layer_of_codes
from quant.layers import QuantLinear
from quant.loading import load_model
from quant.models import Model
from quant.plans import uniform_plan
from quant.quantization import Quantized, quantize
from quant.rounding import round_to_nearest
from quant.schema import HIGHEST, LOWEST, Format, Plan, SitePlan, Window, parse_bits
from quant.tensor_files import places

BRIEF = {"trajectories": 1, "steps": 2, "iterations": 2, "samples": 1}


@dataclass(frozen=True)
class Case:
    """One way to quantize."""

    name: str
    method: str
    bits: str
    options: dict[str, Any]
    symmetric: bool = False  # weights


CASES = (
    Case("rtn-w8a8", "rtn", "w8a8", {}),
    Case("rtn-w8a8-symmetric", "rtn", "w8a8", {}, symmetric=True),
    Case("rtn-w4a4", "rtn", "w4a4", {}),
    Case("rtn-fp8", "rtn", "fp8", {}),
    Case("viditq-w4a8", "viditq", "w4a8", {"transform": "both", "alpha": 0.4}),
    Case("viditq-folded", "viditq", "w6a8", {"transform": "scale", "alpha": 0.4, "fold": "all"}),
    Case("vq4dit-w2a16", "vq4dit", "w2a16", BRIEF),
    Case("svdquant-w4a4", "svdquant", "w4a4", {}),
    Case("trdq-w4a8", "trdq", "w4a8", {"windows": 2}),
    Case("static-step-w8a8", "static-step", "w8a8", {}),
    Case("q-dit-w4a8", "q-dit", "w4a8", {}),
)
# Buffers that no other program's linear layer has.
OURS_ALONE = {"channel_scale", "signs", "rotations", "up", "codebook", "migration", "weight"}
FAMILIES = ("dit", "pixart-sigma")


@dataclass(frozen=True)
class Saved:
    """A checkpoint beside what it was saved from."""

    case: Case
    folder: Path
    model: Model
    made: Quantized

    @property
    def layers(self) -> dict[str, QuantLinear]:
        """Every quantized site."""
        modules = self.made.transformer.named_modules()
        return {name: layer for name, layer in modules if isinstance(layer, QuantLinear)}

    @property
    def ours_alone(self) -> set[str]:
        """Sites that are no ordinary linear of their codes: with a transform at run time, or a codebook."""
        parts = {name: set(layer._buffers) for name, layer in self.layers.items()}
        return {name for name, held in parts.items() if held & OURS_ALONE}


def save_all(pipeline: Path, root: Path, cases: tuple[Case, ...] = CASES) -> dict[str, Saved]:
    """A checkpoint of every case of one model."""
    model = load_model(str(pipeline), device="cpu")
    samples = model.samples(range(1000, 1002))
    seen = calibrate(model, samples, model.sampler(), CalibrationOptions(reservoir=64))
    found = {}
    for case in cases:
        plan = uniform_plan(model, parse_bits(case.bits), weight_symmetric=case.symmetric)
        made = quantize(model, case.method, plan, case.options, seen)
        save_checkpoint(made, model, root / case.name)
        found[case.name] = Saved(case, root / case.name, model, made)
    return found


def one_layer(
    out_features: int,
    in_features: int,
    weight: Format | None,
    activations: tuple[Format | None, ...] = (None,),
    seed: int = 0,
) -> QuantLinear:
    """A seeded layer of these formats, its bias included."""
    generator = torch.Generator().manual_seed(seed)
    original = torch.randn(out_features, in_features, generator=generator)
    held = original if weight is None else round_to_nearest(original, weight)
    return layer_of_codes(
        held,
        torch.randn(out_features, generator=generator),
        plan=SitePlan(weight=weight, activations=activations),
        windows=windows(len(activations)),
        channel_scale=None,
        signs=None,
        dtype=torch.float32,
    )


def windows(count: int) -> tuple[Window, ...]:
    """Ranges of 100 timesteps from 100 * count downwards, the first and last with open ends."""
    edges = [HIGHEST, *(100.0 * k for k in range(count - 1, 0, -1)), LOWEST]
    return tuple(Window(low=low, high=high) for high, low in itertools.pairwise(edges))


@contextmanager
def opened(layers: dict[str, QuantLinear], **more: Any) -> Iterator[Opened]:
    """A checkpoint of these layers alone, on disk as ours are."""
    first = next(iter(layers.values()))
    plans = {name: layer.plan for name, layer in layers.items()}
    config = CheckpointConfig(
        method="rtn",
        options={},
        plan=Plan(model="layers", windows=first.windows, sites=plans),
        transforms={name: layer.transform.to_json() for name, layer in layers.items()},
        shared={},
        tensors={},
    )
    skeleton = nn.ModuleDict()
    tensors = {}
    for name, layer in layers.items():
        has_bias = "bias" in layer._buffers
        skeleton[name] = nn.Linear(layer.in_features, layer.out_features, has_bias, device="meta")
        tensors |= {f"{name}.{last}": buffer for last, buffer in layer.named_buffers()}
    with TemporaryDirectory() as folder:
        file = Path(folder) / "weights.safetensors"
        write_tensors(file, tensors, {})
        yield Opened(Path(folder), config, {}, places(file), skeleton, **more)


# -- readers


def tensors_of(file: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """Tensors and header of a safetensors file."""
    with safe_open(file, framework="pt") as opened_file:
        names = list(opened_file.keys())
        return {name: opened_file.get_tensor(name) for name in names}, opened_file.metadata()


def read_comfyui(file: Path) -> tuple[dict[str, Tensor], set[str]]:
    """Weights and biases by name as ComfyUI's page says, with the names of the quantized layers."""
    tensors, header = tensors_of(file)
    described = json.loads(header["_quantization_metadata"])
    assert described["format_version"] == "1.0"
    found = {}
    for name, said in described["layers"].items():
        marker = bytes(tensors.pop(f"{name}.comfy_quant").tolist())
        assert json.loads(marker.decode()) == said
        weight, scale = tensors.pop(f"{name}.weight"), tensors.pop(f"{name}.weight_scale")
        assert scale.dtype == torch.float32
        if said["format"] == "int8_tensorwise":
            assert weight.dtype == torch.int8
            assert scale.shape in ((), (len(weight), 1))
        else:
            assert said["format"] == "float8_e4m3fn"
            assert weight.dtype == torch.float8_e4m3fn
            assert scale.shape == ()
        found[f"{name}.weight"] = weight.float() * scale
    assert not [name for name in tensors if name.endswith((".comfy_quant", ".weight_scale"))]
    return found | tensors, set(described["layers"])


def read_torchao(file: Path) -> tuple[dict[str, Tensor], dict[str, dict[str, Any]]]:
    """Weights and biases by name as torchao flattens them, with the attributes of its own tensors."""
    tensors, header = tensors_of(file)
    found: dict[str, Tensor] = {}
    classes: dict[str, dict[str, Any]] = {}
    used = set()
    for name in json.loads(header["tensor_names"]):
        said = json.loads(header[name])
        if said["_type"] == "Tensor":
            found[name] = tensors[name]
            used.add(name)
            continue
        module, _, last = name.rpartition(".")
        parts = {p: tensors[f"{module}._{last}_{p}"] for p in said["_tensor_data_names"]}
        used |= {f"{module}._{last}_{p}" for p in parts}
        classes[module] = said
        rows, width = parts["qdata"].shape
        group = said["_data"]["block_size"][1]
        assert said["_data"]["block_size"][0] == 1
        assert parts["scale"].shape == (rows, width // group)
        codes = parts["qdata"].float().reshape(rows, -1, group)
        if "zero_point" in parts:
            codes = codes - parts["zero_point"].float()[..., None]
        found[name] = (codes * parts["scale"][..., None]).reshape(rows, width)
    assert used == set(tensors)
    return found, classes
