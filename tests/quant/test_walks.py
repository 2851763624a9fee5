"""Trajectories that learning walks along: whose they are, in which order, and how far outputs lie apart."""

from __future__ import annotations

import pytest
import torch

from quant.generation import generate
from quant.walks import FIRST_SEED, ShuffledWalk, Walk, calibration_samples, distance


def test_shuffled_moments_are_those_of_the_trajectories_each_once(model, sampler):
    plain = Walk(model, model.transformer, sampler, 2, 0)
    mixed = ShuffledWalk(model, model.transformer, sampler, 2, 0, 3)
    moments = []
    for k in range(3 * sampler.steps):
        plain.to(k)
        moments.append(plain.inputs)
    order = []
    for k in range(3 * sampler.steps):
        mixed.to(k)
        x, t = mixed.inputs
        alike = [j for j, (y, s) in enumerate(moments) if torch.equal(x, y) and torch.equal(t, s)]
        order += alike[:1]
    assert sorted(order) == list(range(3 * sampler.steps))
    assert order != sorted(order)
    turns = [order[j : j + sampler.steps] for j in range(0, len(order), sampler.steps)]
    assert all({k % sampler.steps for k in turn} == set(range(sampler.steps)) for turn in turns)


def test_a_relative_distance_does_not_depend_on_what_a_block_puts_out():
    """Ten times the outputs: the same relative distance, a hundred times the absolute one."""
    wanted = torch.randn(2, 3, 4, generator=torch.Generator().manual_seed(0))
    lost = wanted * 1.1
    for times in (1, 10):
        relative = distance([times * lost], [times * wanted], relative=True)
        assert float(relative) == pytest.approx(0.01)
    once, tenfold = (float(distance([t * lost], [t * wanted])) for t in (1, 10))
    assert tenfold == pytest.approx(100 * once)


def test_trajectories_have_seeds_and_classes_of_their_own(model, samples, sampler):
    first, second = (calibration_samples(model, j, 2, 0) for j in (0, 1))
    assert [s.seed for s in (*first, *second)] == list(range(FIRST_SEED, FIRST_SEED + 4))
    assert len({s.class_id for s in first}) == 2
    drawn = {tuple(s.class_id for s in calibration_samples(model, j, 2, 0)) for j in range(20)}
    assert len(drawn) > 3
    walk = Walk(model, model.transformer, sampler, 2, 0)
    exact = generate(model, first, sampler, record=True).trajectory
    for k in range(sampler.steps):
        walk.to(k)
        assert torch.allclose(walk.inputs[0], exact.inputs[k], atol=1e-5)
        walk.advance(walk.evaluate(model.transformer).guided)
    walk.to(2)
    assert torch.allclose(walk.inputs[0], exact.inputs[2], atol=1e-5), "back to where it was"
