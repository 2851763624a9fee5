"""Sites that read one tensor make its codes once: as quantized, and as opened from a checkpoint."""

from __future__ import annotations

import pytest
import torch
from diffusers import DiTTransformer2DModel

from quant.checkpoint import save_checkpoint
from quant.last_input import LastInput
from quant.layers import QuantLinear
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import Format, SitePlan, parse_bits

METHODS = [("rtn", {}), ("quarot", {}), ("viditq", {"transform": "both", "alpha": 0.4})]


def call(transformer: torch.nn.Module) -> torch.Tensor:
    """One call on seeded latents, both guidance branches."""
    x = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(3)).repeat(2, 1, 1, 1)
    with torch.no_grad():
        return transformer(
            x, timestep=torch.tensor([5, 5]), class_labels=torch.tensor([1, 1000])
        ).sample


class CountedCodes:
    """How often codes are made, and how often they are asked for."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.made = self.asked = 0
        right = LastInput.of

        def of(pool, x, key, make):
            def counted(x):
                self.made += isinstance(key, tuple)
                return make(x)

            self.asked += isinstance(key, tuple)
            return right(pool, x, key, counted)

        monkeypatch.setattr(LastInput, "of", of)


@pytest.mark.parametrize(("method", "options"), METHODS, ids=[m for m, _ in METHODS])
def test_an_attention_makes_the_codes_of_q_k_and_v_once(
    method, options, model, seen, tmp_path, monkeypatch
):
    made = quantize(model, method, uniform_plan(model, parse_bits("w4a8")), options, seen)
    save_checkpoint(made, model, tmp_path / "c")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c", dtype=torch.float32).eval()
    with monkeypatch.context() as patched:
        patched.setattr(LastInput, "of", lambda self, x, key, make: make(x))
        expected = call(made.transformer)
    blocks = len(made.transformer.transformer_blocks)
    for transformer in (made.transformer, loaded):
        with monkeypatch.context() as patched:
            counted = CountedCodes(patched)
            got = call(transformer)
        assert (counted.asked, counted.made) == (6 * blocks, 4 * blocks)
        assert torch.equal(got, expected)


def test_branches_in_16_bit_read_the_rows_that_the_codes_are_made_of(model, seen, monkeypatch):
    plan = uniform_plan(model, parse_bits("w4a8"))
    made = quantize(model, "svdquant", plan, {"alpha": 0.5}, seen).transformer
    got = call(made)
    monkeypatch.setattr(LastInput, "of", lambda self, x, key, make: make(x))
    assert torch.equal(got, call(made))


def test_sites_in_other_formats_make_their_own(model, seen):
    plan = uniform_plan(model, parse_bits("w4a8"))
    name = "transformer_blocks.0.attn1.to_k"
    own = SitePlan(weight=plan.sites[name].weight, activations=(Format(bits=5),))
    plan = plan.model_copy(update={"sites": {**plan.sites, name: own}})
    attn = quantize(model, "quarot", plan, {}, seen).transformer.transformer_blocks[0].attn1
    layers = [attn.to_q, attn.to_k, attn.to_v]
    assert all(isinstance(layer, QuantLinear) for layer in layers)
    x = torch.randn(2, 16, attn.to_q.in_features)
    expected = [layer(x.clone()) for layer in layers]
    assert all(torch.equal(a(x), b) for a, b in zip(layers, expected, strict=True))
    assert len({id(layer._codes) for layer in layers}) == 3
