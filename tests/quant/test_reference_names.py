"""Names of releases are the inverse of diffusers' own conversion: every row comes back where it was."""

from __future__ import annotations

from collections import defaultdict

import pytest
import torch
from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES
from torch import Tensor

from quant.exports.reference_names import RENAMED, Reference, reference_names
from quant.sizes import load_shape

from .families import FAMILIES


def released(family: str, tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """Tensors as the release has them, put together by the references alone."""
    place = reference_names(family, tensors)
    rows: dict[str, dict[int, Tensor]] = defaultdict(dict)
    for name, tensor in tensors.items():
        at = place(name)
        assert at.position not in rows[at.name], f"two tensors at {at}"
        rows[at.name][at.position] = torch.cat(tensor.chunk(2)[::-1]) if at.swapped else tensor
    assert all(sorted(parts) == list(range(len(parts))) for parts in rows.values())
    return {name: torch.cat([parts[i] for i in range(len(parts))]) for name, parts in rows.items()}


@pytest.mark.parametrize("shape", ["flux-dev", "sd3-medium"])
def test_diffusers_conversion_takes_every_row_back(shape):
    """Of the published sizes, which Flux's conversion has in it; one column stands for all of them."""
    transformer, _ = load_shape(shape)
    generator = torch.Generator().manual_seed(0)
    tensors = {
        name: torch.randn(len(tensor), *(1,) * (tensor.dim() - 1), generator=generator)
        for name, tensor in transformer.state_dict().items()
    }
    check_way_back(type(transformer).__name__, tensors)


def test_dual_attention_and_normed_queries_go_back_too(pipelines):
    from safetensors.torch import load_file

    folder = pipelines["sd3.5"]
    file = folder / "transformer" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(file)
    assert any("attn2" in name for name in tensors)
    check_way_back("SD3Transformer2DModel", tensors)


def check_way_back(family: str, tensors: dict[str, Tensor]) -> None:
    convert = SINGLE_FILE_LOADABLE_CLASSES[family]["checkpoint_mapping_fn"]
    found = convert(checkpoint=released(family, tensors), config={})
    assert set(found) == set(tensors)
    wrong = [name for name, tensor in tensors.items() if not torch.equal(found[name], tensor)]
    assert not wrong, f"{len(wrong)} of {len(tensors)}: {wrong[:3]}"


def test_the_check_can_fail():
    tensors = {f"transformer_blocks.0.attn.to_{x}.weight": torch.zeros(1, 1) for x in "qk"}
    place = reference_names("SD3Transformer2DModel", tensors)
    places = {place(name) for name in tensors}
    assert places == {Reference("joint_blocks.0.x_block.attn.qkv.weight", i) for i in (0, 1)}


def test_other_families_keep_their_names():
    assert set(RENAMED) < {type(f.make()).__name__ for f in FAMILIES.values()}
    place = reference_names("PixArtTransformer2DModel", ["transformer_blocks.0.attn1.to_q.weight"])
    assert place("transformer_blocks.0.attn1.to_q.weight") == Reference(
        "transformer_blocks.0.attn1.to_q.weight"
    )
