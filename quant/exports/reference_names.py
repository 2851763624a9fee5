"""Names of tensors as Flux and Stable Diffusion 3 were released: what ComfyUI and ggufy know them by.

diffusers splits what the authors keep in one tensor, and swaps halves. Here is the way back, row by row:

    fused      q, k, v (in Flux's single blocks also the MLP) below one another, in the order of `position`
    swapped    the halves of an output's rows change places: (scale, shift) -> (shift, scale)

The way there is diffusers' own conversion, which the tests hold this against.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass


@dataclass(frozen=True)
class Reference:
    """Where the rows of a tensor lie in the release."""

    name: str
    position: int = 0  # among those that share the name
    swapped: bool = False  # its halves


_BLOCK = re.compile(r"^((?:single_)?transformer_blocks)\.(\d+)\.")
_EMBEDDERS = {
    "timestep_embedder": ("time_in", "t_embedder"),
    "text_embedder": ("vector_in", "y_embedder"),
    "guidance_embedder": ("guidance_in", ""),
}
_LAYERS = {"linear_1": ("in_layer", "mlp.0"), "linear_2": ("out_layer", "mlp.2")}

# Modules; # is the number of the block. A tuple lists what lies in one tensor, in its order.
_Names = dict[str | tuple[str, ...], str]
_HEAD: _Names = {"proj_out": "final_layer.linear"}
_SWAPPED = {"norm_out.linear": "final_layer.adaLN_modulation.1"}
_IMAGE_QKV = tuple(f"transformer_blocks.#.attn.to_{x}" for x in "qkv")
_TEXT_QKV = tuple(f"transformer_blocks.#.attn.add_{x}_proj" for x in "qkv")
_FLUX: _Names = {
    **_HEAD,
    **{
        f"time_text_embed.{ours}.{layer}": f"{theirs[0]}.{theirs_layer[0]}"
        for ours, theirs in _EMBEDDERS.items()
        for layer, theirs_layer in _LAYERS.items()
    },
    "context_embedder": "txt_in",
    "x_embedder": "img_in",
    "transformer_blocks.#.norm1.linear": "double_blocks.#.img_mod.lin",
    "transformer_blocks.#.norm1_context.linear": "double_blocks.#.txt_mod.lin",
    _IMAGE_QKV: "double_blocks.#.img_attn.qkv",
    _TEXT_QKV: "double_blocks.#.txt_attn.qkv",
    "transformer_blocks.#.attn.to_out.0": "double_blocks.#.img_attn.proj",
    "transformer_blocks.#.attn.to_add_out": "double_blocks.#.txt_attn.proj",
    "transformer_blocks.#.ff.net.0.proj": "double_blocks.#.img_mlp.0",
    "transformer_blocks.#.ff.net.2": "double_blocks.#.img_mlp.2",
    "transformer_blocks.#.ff_context.net.0.proj": "double_blocks.#.txt_mlp.0",
    "transformer_blocks.#.ff_context.net.2": "double_blocks.#.txt_mlp.2",
    "single_transformer_blocks.#.norm.linear": "single_blocks.#.modulation.lin",
    (
        *(f"single_transformer_blocks.#.attn.to_{x}" for x in "qkv"),
        "single_transformer_blocks.#.proj_mlp",
    ): "single_blocks.#.linear1",
    "single_transformer_blocks.#.proj_out": "single_blocks.#.linear2",
}
_FLUX_NORMS = {
    f"{block}.attn.{ours}.weight": f"{theirs}_norm.scale"
    for block, ours, theirs in (
        ("transformer_blocks.#", "norm_q", "double_blocks.#.img_attn.norm.query"),
        ("transformer_blocks.#", "norm_k", "double_blocks.#.img_attn.norm.key"),
        ("transformer_blocks.#", "norm_added_q", "double_blocks.#.txt_attn.norm.query"),
        ("transformer_blocks.#", "norm_added_k", "double_blocks.#.txt_attn.norm.key"),
        ("single_transformer_blocks.#", "norm_q", "single_blocks.#.norm.query"),
        ("single_transformer_blocks.#", "norm_k", "single_blocks.#.norm.key"),
    )
}
_X, _CONTEXT = "joint_blocks.#.x_block", "joint_blocks.#.context_block"
_SD3: _Names = {
    **_HEAD,
    **{
        f"time_text_embed.{ours}.{layer}": f"{theirs[1]}.{theirs_layer[1]}"
        for ours, theirs in _EMBEDDERS.items()
        for layer, theirs_layer in _LAYERS.items()
    },
    "context_embedder": "context_embedder",
    "pos_embed.proj": "x_embedder.proj",
    _IMAGE_QKV: f"{_X}.attn.qkv",
    _TEXT_QKV: f"{_CONTEXT}.attn.qkv",
    tuple(f"transformer_blocks.#.attn2.to_{x}" for x in "qkv"): f"{_X}.attn2.qkv",
    "transformer_blocks.#.attn.to_out.0": f"{_X}.attn.proj",
    "transformer_blocks.#.attn2.to_out.0": f"{_X}.attn2.proj",
    "transformer_blocks.#.attn.to_add_out": f"{_CONTEXT}.attn.proj",
    "transformer_blocks.#.attn.norm_q": f"{_X}.attn.ln_q",
    "transformer_blocks.#.attn.norm_k": f"{_X}.attn.ln_k",
    "transformer_blocks.#.attn2.norm_q": f"{_X}.attn2.ln_q",
    "transformer_blocks.#.attn2.norm_k": f"{_X}.attn2.ln_k",
    "transformer_blocks.#.attn.norm_added_q": f"{_CONTEXT}.attn.ln_q",
    "transformer_blocks.#.attn.norm_added_k": f"{_CONTEXT}.attn.ln_k",
    "transformer_blocks.#.norm1.linear": f"{_X}.adaLN_modulation.1",
    "transformer_blocks.#.norm1_context.linear": f"{_CONTEXT}.adaLN_modulation.1",
    "transformer_blocks.#.ff.net.0.proj": f"{_X}.mlp.fc1",
    "transformer_blocks.#.ff.net.2": f"{_X}.mlp.fc2",
    "transformer_blocks.#.ff_context.net.0.proj": f"{_CONTEXT}.mlp.fc1",
    "transformer_blocks.#.ff_context.net.2": f"{_CONTEXT}.mlp.fc2",
}
RENAMED = ("FluxTransformer2DModel", "SD3Transformer2DModel")


def reference_names(family: str, tensors: Iterable[str]) -> Callable[[str], Reference]:
    """Gives each tensor of a transformer its place in the release; of other families, its own name.

    Args:
        family: class of the transformer.
        tensors: names of its tensors, by which its last block is known.
    """
    if family not in RENAMED:
        return Reference
    flux = family == RENAMED[0]
    modules = _places(_FLUX if flux else _SD3)
    whole = _FLUX_NORMS if flux else {"pos_embed.pos_embed": "pos_embed"}
    blocks = [int(m[2]) for m in map(_BLOCK.match, tensors) if m and m[1] == "transformer_blocks"]
    last = f"transformer_blocks.{max(blocks, default=0)}.norm1_context.linear"
    swapped = {*_SWAPPED} | (set() if flux else {last})  # SD3's last text block has no more gates

    def of(tensor: str) -> Reference:
        match = _BLOCK.match(tensor)
        number = match[2] if match else ""
        shown = _BLOCK.sub(r"\1.#.", tensor)
        if shown in whole:
            return Reference(whole[shown].replace("#", number))
        module, _, part = shown.rpartition(".")
        place = modules.get(module) or Reference(_SWAPPED.get(module, module))
        name = f"{place.name}.{part}".replace("#", number)
        return Reference(name, place.position, tensor.rpartition(".")[0] in swapped)

    return of


def _places(names: _Names) -> dict[str, Reference]:
    """By module: its name in the release, and its position there."""
    return {
        module: Reference(theirs, position)
        for ours, theirs in names.items()
        for position, module in enumerate((ours,) if isinstance(ours, str) else ours)
    }
