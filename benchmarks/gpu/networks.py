"""A whole denoising step of DiT-XL/2, from random weights: in bfloat16, ours, and torchao's.

A step is one evaluation of the transformer on 2 n latents: n samples, each with and without its class. Weights are drawn, not
trained; times do not depend on them.
"""

from __future__ import annotations

import copy
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property, partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal, NamedTuple

import torch
from torch import Tensor, nn

from .peak import known_device
from .place import Place
from .wheels import APART

CLASSES = 1000
SHAPE = "dit-xl-2"
INT_ATTENTION = "w8a8, int8 attention"
TINY = {"num_layers": 1, "num_attention_heads": 2, "attention_head_dim": 16, "sample_size": 4}


class Scene(NamedTuple):
    """What is drawn."""

    pixels: int
    samples: int

    @property
    def name(self) -> str:
        """As rows are named."""
        return f"{self.pixels} px, {self.samples} samples"


@dataclass(frozen=True)
class Built:
    """A way to evaluate the network, and what it holds."""

    call: Callable[[], Tensor]
    weight_bytes: int  # of the transformer, what is packed for the kernels included
    said: str = ""  # which backend runs, and why


class Network:
    """DiT-XL/2 on one device at one size and batch; a dry run's is tiny."""

    def __init__(self, place: Place, scene: Scene) -> None:
        self.place, self.scene = place, scene

    @cached_property
    def transformer(self) -> nn.Module:
        """Random weights in bfloat16."""
        from diffusers import DiTTransformer2DModel

        from quant.sizes import known_shapes

        config = json.loads(known_shapes()[SHAPE].read_text(encoding="utf-8"))
        config.pop("_class_name")
        config |= TINY if self.place.dry else {"sample_size": self.scene.pixels // 8}
        torch.manual_seed(0)
        with torch.device(self.place.device):
            made = DiTTransformer2DModel(**config)
        return made.bfloat16().eval().requires_grad_(False)

    @cached_property
    def inputs(self) -> dict[str, Tensor]:
        """Of the transformer: latents [2 n, c, h, w], one timestep, classes [2 n]."""
        config: Any = self.transformer.config
        count, side = 2 * self.scene.samples, config.sample_size
        classes = self.place.integers(0, CLASSES, count, dtype=torch.long)
        classes[count // 2 :] = CLASSES  # no class
        return {
            "hidden_states": self.place.normal(count, config.in_channels, side, side),
            "timestep": torch.full((count,), 500, device=self.place.device),
            "class_labels": classes,
        }

    def step(self, transformer: nn.Module) -> Callable[[], Tensor]:
        """One evaluation."""
        return lambda: transformer(**self.inputs, return_dict=False)[0]

    def eager(self) -> Built:
        """Launch by launch."""
        return Built(self.step(self.transformer), bytes_of(self.transformer))

    def compiled(self, mode: str | None = None) -> Built:
        """Block by block, each whole: blocks are alike, so that one is compiled and all use it."""
        from quant.swapping import shallow_copy

        return self._by_block(shallow_copy(self.transformer), mode)

    def ours(self, bits: str, attention: Literal["int8"] | None = None) -> Built:
        """Nearest rounding, symmetric, a scale for each output and each row, on the GPU's kernels; `attention` as of plans."""
        from dqviz.benching.subject import alone
        from quant.backend_report import backend_report
        from quant.plans import uniform_plan
        from quant.quantization import quantize
        from quant.schema import parse_bits

        model = alone(self.transformer, SHAPE, "DiT-XL/2, random")
        plan = uniform_plan(model, parse_bits(bits), weight_symmetric=True, attention=attention)
        backend = "simulate" if self.place.dry else "triton"
        made = quantize(model, "rtn", plan, backend=backend).transformer
        call = self.step(made)
        call()  # packs the weights
        report = backend_report(made, self.rows)
        return Built(call, bytes_of(made), f"{report.backend}: {report.why}")

    def torchao(self, config: Callable[[Any], Any]) -> Built:
        """torchao's quantization of the same sites, compiled by block as its documentation says."""
        from torchao import quantization

        from quant.adapters import adapter_for

        made = copy.deepcopy(self.transformer)
        sites = {s.name for s in adapter_for(made).sites(made) if s.kept_reason is None}
        quantization.quantize_(made, config(quantization), filter_fn=lambda _, name: name in sites)
        return self._by_block(made, None, f"torchao {version('torchao')}")

    def _by_block(self, transformer: nn.Module, mode: str | None, said: str = "") -> Built:
        for block in transformer.get_submodule("transformer_blocks").children():
            self.place.compile_in_place(block, mode)
        return Built(self.step(transformer), bytes_of(transformer), said)

    @property
    def rows(self) -> int:
        """Of a site's input."""
        config: Any = self.transformer.config
        return 2 * self.scene.samples * (config.sample_size // config.patch_size) ** 2

    def floor_seconds(self, bits: str | None) -> float | None:
        """The least time on this device (`quant.roofline`); None where its peaks are not known."""
        device = known_device(self.place)
        if device is None:
            return None
        from quant import effort, roofline
        from quant.adapters import adapter_for
        from quant.schema import parse_bits

        adapter = adapter_for(self.transformer)
        sites = adapter.sites(self.transformer)
        shapes, frames = effort.shapes_of(self.transformer, sites)
        formats = {}
        if bits is not None:
            formats = {s.name: parse_bits(bits) for s in sites if s.kept_reason is None}
        batch = 2 * self.scene.samples
        network = effort.Network(sites, adapter)
        return roofline.floor(device, network, shapes, frames, batch=batch, formats=formats).seconds


def bytes_of(transformer: nn.Module) -> int:
    """Of every tensor that it holds, those that kernels compute with included, each storage once."""
    seen: dict[int, int] = {}
    for tensor in held(transformer):
        storage = tensor.untyped_storage()
        seen[storage.data_ptr()] = storage.nbytes()
    return sum(seen.values())


def held(transformer: nn.Module) -> list[Tensor]:
    """Parameters and buffers; tensors of packed weights; the parts of a tensor subclass."""
    from benchmarks.peer_libraries import leaves

    found = [leaf for tensor in (*transformer.parameters(), *transformer.buffers()) for _, leaf in leaves(tensor)]  # fmt: skip
    for module in transformer.modules():
        for made in getattr(module, "prepared", {}).values():
            for form in getattr(made, "forms", {}).values():
                found += [part for part in form if isinstance(part, Tensor)] if isinstance(form, tuple) else []  # fmt: skip
    return found


def torchao_is_here() -> bool:
    """Whether torchao can be imported, also from where `wheels.py` put it apart."""
    folders = [Path(entry) / APART for entry in sys.path]
    sys.path += [str(f) for f in folders if (f / "torchao").is_dir() and str(f) not in sys.path]
    return find_spec("torchao") is not None


PEERS: Mapping[str, Callable[[Any], Any]] = {
    "torchao int8dq": lambda q: q.Int8DynamicActivationInt8WeightConfig(),
    "torchao fp8 row-wise": lambda q: q.Float8DynamicActivationFloat8WeightConfig(granularity=q.PerRow()),
}  # fmt: skip


def builders(network: Network) -> dict[str, Callable[[], Built]]:
    """Every way to evaluate it, by name."""
    return {
        "bf16": network.eager,
        "bf16 compiled": network.compiled,
        "bf16 compiled, max-autotune": partial(network.compiled, "max-autotune-no-cudagraphs"),
        "w8a8": partial(network.ours, "w8a8"),
        "w4a8": partial(network.ours, "w4a8"),
        INT_ATTENTION: partial(network.ours, "w8a8", "int8"),
        **{name: partial(network.torchao, config) for name, config in PEERS.items()},
    }
