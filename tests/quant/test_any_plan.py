"""Any method under any plan: bits of every site, and of every window, are what the layers hold and do."""

from __future__ import annotations

import random
from typing import Any

import pytest
import torch

from quant.cards import Card, methods
from quant.errors import BadInput
from quant.layers import QuantLinear
from quant.models import Model
from quant.plans import steps_of, uniform_plan
from quant.quantization import Quantized, check_options, quantize
from quant.schema import Plan, SitePlan, parse_bits
from quant.step import at, window_of

from .test_support import LITTLE

WINDOWS = 2
ENDS = 8  # weight bits of what reads the first and the last tensor, with taqdit


def mixed_plan(model: Model, card: Card, sampler: Any, seed: int) -> Plan:
    """Weights of 2 to 8 bits, activations of 4 to 8 bits or none: as the method can, site by site."""
    chance = random.Random(f"{card.key} {seed}")
    bits = parse_bits(f"w{card.widths[-1]}a8")
    plan = uniform_plan(model, bits, sampler=sampler, windows=WINDOWS, also=card.also)

    def one(site: SitePlan) -> SitePlan:
        assert site.weight is not None
        weight = site.weight.model_copy(update={"bits": chance.choice(card.widths)})
        activations = tuple(
            None
            if a is None or chance.random() < 0.3
            else a.model_copy(update={"bits": chance.choice((4, 6, 8))})
            for a in site.activations
        )
        return SitePlan(weight=weight, activations=activations)

    return plan.each(one)


def made(model: Model, method: str, plan: Plan, seen: Any) -> Quantized:
    return quantize(model, method, plan, LITTLE.get(method, {}), seen)


def additive(layer: QuantLinear, timestep: float) -> bool:
    """Whether f(x + y) = f(x) + f(y) - f(0) at that timestep: nothing is rounded on the way in."""
    generator = torch.Generator().manual_seed(1)
    x, y = torch.randn(2, 1, 6, layer.in_features, generator=generator)
    with torch.no_grad(), at(timestep):
        nothing = layer(torch.zeros_like(x))
        whole, parts = layer(x + y) - nothing, layer(x) + layer(y) - 2 * nothing
    return bool((whole - parts).norm() <= 1e-4 * whole.norm())


@pytest.mark.parametrize("method", [key for key, card in methods().items() if not card.one_window])
@pytest.mark.parametrize("seed", [0, 1])
def test_every_site_and_window_has_its_bits(method: str, seed: int, model, sampler, seen) -> None:
    plan = mixed_plan(model, methods()[method], sampler, seed)
    holds(made(model, method, plan, seen), plan, seen)


@pytest.mark.parametrize("method", [key for key, card in methods().items() if card.one_window])
def test_one_format_for_all_steps_or_a_refusal(method: str, model, sampler, seen) -> None:
    """Windows that change nothing are one window; a layer whose format changes is named, with the formats."""
    mixed = mixed_plan(model, methods()[method], sampler, 0)
    plan = mixed.each(lambda s: SitePlan(weight=s.weight, activations=s.activations[:1] * WINDOWS))
    holds(made(model, method, plan, seen), plan, seen)
    first = next(n for n, s in mixed.sites.items() if len(set(s.activations)) > 1)
    with pytest.raises(BadInput, match="one activation format for all steps") as refused:
        made(model, method, mixed, seen)
    assert first in str(refused.value)
    with pytest.raises(BadInput, match="one activation format for all steps"):
        check_options(model, method, mixed, LITTLE[method], ())


def holds(found: Quantized, plan: Plan, seen: Any) -> None:
    """Stop where a layer has other bits than the plan, stored or at work in any step."""
    assert set(found.scope.quantized) == set(plan.sites)
    owner = {
        step: k for k, steps in enumerate(steps_of(plan.windows, seen.timesteps)) for step in steps
    }
    for name, asked in plan.sites.items():
        layer = found.transformer.get_submodule(name)
        assert isinstance(layer, QuantLinear)
        weight, wanted = layer.plan.weight, asked.weight
        assert weight is not None
        assert wanted is not None
        assert weight.bits == wanted.bits or (found.method == "taqdit" and weight.bits == ENDS), (
            name
        )
        for step, timestep in enumerate(seen.timesteps):
            activation = asked.activations[owner[step]]
            here = layer.plan.activations[window_of(layer.windows, timestep)]
            assert (here and here.bits) == (activation and activation.bits), (name, step)
            assert additive(layer, timestep) == (activation is None), (name, step)
