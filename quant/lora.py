"""LoRA: low-rank changes of linear layers, fused into their weights (Hu et al. 2021, arXiv 2106.09685).

    W <- W + scale * alpha / r * B A        W [o, i], B [o, r], A [r, i]

in float32, rounded to the weight's dtype once at the end. `alpha` comes from the file: a tensor beside
A and B, or the metadata that peft and diffusers write; without either it is r. Names are read as
diffusers and peft write them, as kohya's tools do for diffusers' layers, and what else the family's
pipeline in diffusers knows how to translate.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import BadInput
from .schema import Lora
from .weight_files import file_digest, safetensors_header

PREFIXES = ("base_model.model.", "transformer.", "diffusion_model.", "model.")
KOHYA = ("lora_transformer_", "lora_unet_", "lora_")
TEXT_ENCODER = re.compile(r"(text_encoder(_\d)?\.|lora_te\d?_)")
FACTOR = re.compile(r"(.+?)\.(lora_A|lora_down|lora\.down|lora_B|lora_up|lora\.up)(\.\w+)?\.weight")
DOWN = ("lora_A", "lora_down", "lora.down")


@dataclass(frozen=True)
class Change:
    """What one LoRA adds to one weight."""

    down: Tensor  # A [r, i]
    up: Tensor  # B [o, r]
    factor: float  # scale * alpha / r


@dataclass(frozen=True)
class Fusion:
    """All LoRAs of a model, by the weight that they change."""

    loras: tuple[Lora, ...] = ()  # as asked, with digests
    changes: Mapping[str, list[Change]] = field(default_factory=dict)
    notes: tuple[str, ...] = ()  # what of the files is not used

    def fused(self, name: str, weight: Tensor) -> Tensor:
        """The weight `name` [o, i] with its changes, in its dtype and on its device."""
        if name not in self.changes:
            return weight
        total = weight.float()
        for change in self.changes[name]:
            up, down = (x.to(weight.device, torch.float32) for x in (change.up, change.down))
            total = total + change.factor * (up @ down)
        return total.to(weight.dtype)

    def fuse(self, transformer: nn.Module) -> None:
        """Change the weights of a transformer in place."""
        with torch.no_grad():
            for name in self.changes:
                weight = transformer.get_parameter(name)
                weight.copy_(self.fused(name, weight))


def read_loras(loras: Iterable[Lora], transformer: nn.Module, pipeline: Any = None) -> Fusion:
    """What these files add to the linear layers of `transformer`, which may be on the meta device.

    `pipeline` is the family's class in diffusers, whose translation of other names is used.
    Raises BadInput for names that fit nothing, for other shapes, and for what is no LoRA.
    """
    linears = {
        name: (module.out_features, module.in_features)
        for name, module in transformer.named_modules()
        if isinstance(module, nn.Linear)
    }
    asked, notes = [], []
    changes: dict[str, list[Change]] = {}
    for lora in loras:
        file = Path(lora.file).expanduser()
        asked.append(lora.model_copy(update={"digest": file_digest(file)}))
        for name, change in _read(file, lora, linears, pipeline, notes).items():
            changes.setdefault(f"{name}.weight", []).append(change)
    return Fusion(tuple(asked), changes, tuple(notes))


def _read(
    file: Path,
    lora: Lora,
    linears: Mapping[str, tuple[int, int]],
    pipeline: Any,
    notes: list[str],
) -> dict[str, Change]:
    """The changes of one file, by layer."""
    from safetensors.torch import load_file

    metadata = safetensors_header(file).get("__metadata__", {})
    tensors = load_file(file)
    encoders = [key for key in tensors if TEXT_ENCODER.match(key)]
    if encoders:
        notes.append(
            f"LoRA {file.name}: {len(encoders)} tensors of a text encoder are not used, only the "
            "transformer is changed"
        )
    tensors = {key: t for key, t in tensors.items() if key not in encoders}
    factors, alphas, strangers = _sorted(tensors, linears)
    if strangers and hasattr(pipeline, "lora_state_dict"):
        try:
            translated = pipeline.lora_state_dict(dict(tensors))
        except (KeyError, ValueError, RuntimeError, IndexError):
            translated = {}  # not a naming that diffusers knows either
        again = _sorted(translated, linears)
        if translated and not again[2]:
            factors, alphas, strangers = again
    if strangers:
        raise BadInput(
            f"LoRA {lora.file}: {len(strangers)} of {len(tensors)} tensors fit no linear layer of this "
            f"transformer, first '{strangers[0]}'; is it a LoRA of this family?"
        )
    if not factors:
        raise BadInput(f"LoRA {lora.file}: there is no low-rank change of the transformer in it")
    alphas = {**_described_alphas(metadata, factors), **alphas}
    return {
        name: _change(lora, name, pair, alphas.get(name), linears[name])
        for name, pair in factors.items()
    }


def _sorted(
    tensors: Mapping[str, Tensor], linears: Mapping[str, tuple[int, int]]
) -> tuple[dict[str, dict[str, Tensor]], dict[str, float], list[str]]:
    """Factors by layer ("down", "up"), alphas by layer, and the names that fit nothing."""
    underscored = {name.replace(".", "_"): name for name in linears}
    factors: dict[str, dict[str, Tensor]] = {}
    alphas: dict[str, float] = {}
    strangers = []
    for key, tensor in tensors.items():
        match = FACTOR.fullmatch(key)
        name = _layer(match[1] if match else key.removesuffix(".alpha"), linears, underscored)
        if name is None or not (match or key.endswith(".alpha")):
            strangers.append(key)
        elif match is None:
            alphas[name] = float(tensor)
        else:
            factors.setdefault(name, {})["down" if match[2] in DOWN else "up"] = tensor
    return factors, alphas, strangers


def _layer(
    written: str, linears: Mapping[str, tuple[int, int]], underscored: Mapping[str, str]
) -> str | None:
    """The linear layer that a name in a file means."""
    for prefix in ("", *PREFIXES):
        name = written.removeprefix(prefix)
        if name in linears:
            return name
    for prefix in KOHYA:
        if written.startswith(prefix) and written.removeprefix(prefix) in underscored:
            return underscored[written.removeprefix(prefix)]
    return None


def _described_alphas(
    metadata: Mapping[str, str], factors: Mapping[str, Mapping[str, Tensor]]
) -> dict[str, float]:
    """Alphas by layer from the adapter's configuration, where the file has one."""
    try:
        said = json.loads(metadata.get("lora_adapter_metadata", "{}"))
    except ValueError:
        return {}
    said = {key.removeprefix("transformer."): value for key, value in said.items()}
    if not isinstance(said.get("lora_alpha"), int | float):
        return {}
    patterns = said.get("alpha_pattern") or {}
    found = {}
    for name, pair in factors.items():
        near = (v for key, v in patterns.items() if name == key or name.endswith(f".{key}"))
        alpha = float(next(near, said["lora_alpha"]))
        rank = len(pair.get("down", ()))
        found[name] = alpha * rank**0.5 if said.get("use_rslora") else alpha
    return found


def _change(
    lora: Lora,
    name: str,
    pair: Mapping[str, Tensor],
    alpha: float | None,
    shape: tuple[int, int],
) -> Change:
    """A change whose shapes fit the layer [o, i]."""
    if len(pair) != 2:
        raise BadInput(f"LoRA {lora.file}: layer {name} has one of its two factors; it is damaged")
    down, up = pair["down"], pair["up"]
    rank = len(down)
    if (up.dim(), down.dim()) != (2, 2) or (len(up), down.shape[1]) != shape or up.shape[1] != rank:
        raise BadInput(
            f"LoRA {lora.file}: factors {list(up.shape)} and {list(down.shape)} of layer {name} do not "
            f"make its [{shape[0]}, {shape[1]}]; is it a LoRA of this size of the model?"
        )
    if not all(bool(torch.isfinite(t).all()) for t in (down, up)):
        raise BadInput(f"LoRA {lora.file}: layer {name} holds NaN or infinity; the file is damaged")
    return Change(down, up, lora.scale * (rank if alpha is None else alpha) / rank)
