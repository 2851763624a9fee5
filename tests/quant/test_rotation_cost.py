"""Multiply-adds of the rotations of a transformer block of width 1152, counted while it runs."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTTransformer2DModel

import kernels
from quant.adapters import adapter_for
from quant.conformance.trial import ONE
from quant.last_input import LastInput
from quant.layer_making import layer_of_codes
from quant.layers import QuantLinear
from quant.plans import uniform_formats
from quant.rounding import round_to_nearest
from quant.schema import parse_bits
from quant.shared_inputs import share_bases
from quant.swapping import shallow_copy, swap
from quant.transforms import random_signs


@pytest.fixture(scope="module")
def block():
    """One block of DiT-XL/2's width on 16 tokens, every site rotated."""
    transformer = DiTTransformer2DModel(
        num_attention_heads=16, attention_head_dim=72, num_layers=1, sample_size=8
    )
    sites = adapter_for(transformer).sites(transformer)
    formats = uniform_formats(sites, parse_bits("w8a8"), windows=1)
    made = shallow_copy(transformer)
    for site in sites:
        if site.name in formats:
            linear = transformer.get_submodule(site.name)
            layer = layer_of_codes(
                round_to_nearest(linear.weight.detach(), formats[site.name].weight),
                linear.bias,
                plan=formats[site.name],
                windows=ONE,
                channel_scale=None,
                signs=random_signs(site.in_features, 0, site.input_of),
                dtype=torch.float32,
            )
            swap(made, site.name, layer)
    share_bases(made, sites)
    return made.eval()


def share_of_rotations(block, monkeypatch) -> float:
    """Multiply-adds of all rotations over those of all matmuls that follow them."""
    counted = {"rotations": 0, "matmuls": 0}
    right = kernels.hadamard

    def rotated(x, *args):
        counted["rotations"] += x.numel() * kernels.hadamard.cost(x.shape[-1])
        return right(x, *args)

    def multiplied(layer, args, _):
        rows = args[0].numel() // layer.in_features
        counted["matmuls"] += rows * layer.in_features * layer.out_features

    monkeypatch.setattr("quant.transforms.hadamard", rotated)
    hooks = [
        layer.register_forward_hook(multiplied)
        for layer in block.modules()
        if isinstance(layer, QuantLinear)
    ]
    with torch.no_grad():
        block(torch.randn(1, 4, 8, 8), timestep=torch.tensor([5]), class_labels=torch.tensor([1]))
    for hook in hooks:
        hook.remove()
    assert counted["matmuls"] == 16 * 12 * 1152**2
    return counted["rotations"] / counted["matmuls"]


def test_rotations_are_at_most_3_percent_of_the_matmuls_that_follow(block, monkeypatch):
    assert 0 < share_of_rotations(block, monkeypatch) <= 0.03


def test_they_would_be_more_if_q_k_and_v_each_rotated(block, monkeypatch):
    """The broken variant: nothing is remembered between sites."""
    shared = share_of_rotations(block, monkeypatch)
    monkeypatch.setattr(LastInput, "of", lambda self, x, key, make: make(x))
    twice = 2 * kernels.hadamard.cost(1152) / (12 * 1152)
    assert share_of_rotations(block, monkeypatch) == pytest.approx(shared + twice)


def test_one_layer_as_wide_as_its_input_pays_at_most_3_percent():
    """Two factors would be fewer passes and too many multiply-adds: the broken variant."""
    assert kernels.hadamard.cost(1152) / 1152 <= 0.03
    assert sum((36, 32)) / 1152 > 0.03
