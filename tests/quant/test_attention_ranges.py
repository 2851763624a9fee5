"""Integers inside attentions: attached, saved and loaded as they were."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch
from diffusers import DiTTransformer2DModel

from quant.attention_ranges import AttentionRange, Range, RangedAttention, attach, inside, put_in
from quant.checkpoint import read_config, save_checkpoint
from quant.errors import BadCheckpoint, BadInput
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits
from quant.swapping import shallow_copy

NAME = "transformer_blocks.1.attn1"
ARGUMENTS = {"timestep": torch.tensor([500.0, 500.0]), "class_labels": torch.tensor([0, 1])}


def ranges(scale: float = 0.05) -> AttentionRange:
    both = Range(scale=scale, zero=128)
    return AttentionRange(q=both, k=both, v=both, probabilities=Range(scale=1 / 255, zero=0))


def output(transformer, x=None):
    x = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0)) if x is None else x
    with torch.no_grad():
        return transformer(x, **ARGUMENTS).sample


def test_fine_ranges_leave_the_attention_and_coarse_ones_do_not(model):
    exact = output(model.transformer)
    errors = []
    for scale in (0.05, 1.5):
        changed = shallow_copy(model.transformer)
        attach(changed, {NAME: ranges(scale)})
        errors.append(float((output(changed) - exact).norm() / exact.norm()))
    assert 0 < 5 * errors[0] < errors[1]
    assert torch.equal(output(model.transformer), exact), "the model's own is another"


def test_without_quantizers_inside_the_attention_is_the_ordinary_one(model):
    changed = shallow_copy(model.transformer)
    put_in(
        changed.get_submodule(NAME), dict.fromkeys(("q", "k", "v", "probabilities"), lambda x: x)
    )
    assert torch.allclose(output(changed), output(model.transformer), atol=1e-5)


def test_what_is_multiplied_is_seen_and_the_processor_comes_back(model):
    attention = model.transformer.get_submodule(NAME)
    held = attention.processor
    seen = inside(attention, lambda: output(model.transformer))
    assert seen["q"][0].shape == (2, 2, 16, 32)
    assert torch.allclose(seen["probabilities"][0].sum(-1), torch.ones(2, 2, 16), atol=1e-5)
    assert attention.processor is held


def test_ranges_are_saved_and_load_in_plain_diffusers_bit_for_bit(model, tmp_path):
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w8a8")))
    attach(made.transformer, {NAME: ranges(0.1)})
    save_checkpoint(replace(made, attention={NAME: ranges(0.1)}), model, tmp_path / "c")
    assert read_config(tmp_path / "c").attention == {NAME: ranges(0.1)}
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    assert isinstance(loaded.get_submodule(NAME).processor, RangedAttention)
    assert torch.equal(output(loaded), output(made.transformer))


def test_what_does_not_fit_is_named(model):
    changed = shallow_copy(model.transformer)
    with pytest.raises(BadCheckpoint, match="attention 'nowhere'"):
        attach(changed, {"nowhere": ranges()})
    attention = changed.get_submodule(NAME)
    attention.set_processor(object.__new__(type("Other", (), {})))
    with pytest.raises(BadInput, match="the processor Other"):
        put_in(attention, {})
