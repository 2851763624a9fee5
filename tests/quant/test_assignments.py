"""Soft assignments of vectors to codewords (`quant/assignments.py`): what is mixed, decided and pushed where."""

from __future__ import annotations

import pytest
import torch
from torch.nn import functional as F

from quant.assignments import DECIDED, Assignment, Rates, coherence
from quant.schema import Format
from quant.vectors import kmeans, vectors_of


def assignment(n=3, o=16, i=24, ratios="inverse_distance", bias=True, seed=0):
    """One open assignment of a small random weight."""
    linear = torch.nn.Linear(i, o, bias=bias)
    torch.nn.init.normal_(linear.weight, std=0.1, generator=torch.Generator().manual_seed(seed))
    draw = torch.Generator().manual_seed(seed)
    start = kmeans(linear.weight.detach(), Format.of_codebook(2), draw, 10)
    site = Assignment("a layer", linear, start, torch.device("cpu"))
    site.open(linear.weight.detach(), n, ratios)
    return linear, site


@pytest.mark.parametrize("ratios", ["inverse_distance", "uniform"])
def test_soft_weights_are_mixtures_of_candidates(ratios):
    """P3: in the candidates' hull, ratios that sum to 1, and the hard weight where one has it all."""
    _, site = assignment(ratios=ratios)
    soft = vectors_of(site.weight_of(site.z, site.codebook, None), 4)
    words = site.codebook[site.ids.long()]  # [n, S, d]
    assert bool((soft >= words.amin(0) - 1e-6).all())
    assert bool((soft <= words.amax(0) + 1e-6).all())
    r = site.z.softmax(0)
    assert torch.allclose(r.sum(0), torch.ones(r.shape[1]))
    assert torch.allclose((r[..., None] * words).sum(0), soft, atol=1e-6)
    decided = torch.full_like(site.z, 0)
    decided[1] = DECIDED
    hard = site.weight_of(None, site.codebook, site.ids[1])
    assert torch.equal(site.weight_of(decided, site.codebook, None), hard)
    outside = vectors_of(site.weight_of(site.z, site.codebook * 1.5, None), 4)
    assert not bool((outside <= words.amax(0) + 1e-6).all()), "the check can fail"


def test_first_ratios_follow_the_distances():
    linear, site = assignment()
    vectors = vectors_of(linear.weight.detach(), 4)
    gaps = (vectors - site.codebook[site.ids.long()]).square().sum(2).sqrt()  # [n, S]
    r = site.z.detach().softmax(0)
    open_ = ~site.frozen
    expected = 1 / (gaps + 1e-5)
    expected[-1] = 1 / gaps[-1]
    assert torch.allclose(r[:, open_], (expected / expected.sum(0))[:, open_], atol=1e-4)
    _, even = assignment(ratios="uniform")
    assert torch.allclose(even.z.detach().softmax(0), torch.full_like(even.z, 1 / 3))


def test_gradients_are_those_of_the_formula_written_out():
    _, site = assignment(n=3)
    x = torch.randn(2, 5, 24, generator=torch.Generator().manual_seed(1))
    target = torch.randn(2, 5, 16, generator=torch.Generator().manual_seed(2))
    z, book = site.z.detach().clone().requires_grad_(), site.codebook.detach().clone()
    book, bias = book.requires_grad_(), site.bias.detach().clone().requires_grad_()
    own, other = x.clone().requires_grad_(), x.clone().requires_grad_()
    mixed = (z.softmax(0)[..., None] * book[site.ids.long()]).sum(0)
    (F.linear(other, mixed.reshape(16, 24), bias) - target).square().mean().backward()
    (site(own) - target).square().mean().backward()
    for found, exact in ((own, other), (site.z, z), (site.codebook, book), (site.bias, bias)):
        assert torch.allclose(found.grad, exact.grad, atol=1e-7)


def test_the_penalty_pushes_apart_and_its_gradient_is_its_own():
    _, site = assignment(n=3, ratios="uniform")
    z = (torch.randn(site.z.shape, generator=torch.Generator().manual_seed(3))).requires_grad_()
    r = z.softmax(0)
    (r * (1 - r)).sum(0).mean().backward()
    site.z, grad = z, torch.zeros_like(z)
    site._add_penalty(grad, 1.0)
    assert torch.allclose(grad, z.grad, atol=1e-7)


def test_frozen_vectors_stay():
    """Whatever the gradients say from then on."""
    _, site = assignment(n=2)
    with torch.no_grad():
        site.z[:, :10] = torch.tensor([[9.0], [0.0]])
    site._freeze()
    assert bool(site.frozen[:10].all())
    open_ = ~site.frozen
    before = site.z.detach().clone()
    for _ in range(5):
        site.z.grad = torch.ones_like(site.z) * torch.tensor([[5.0], [-5.0]])
        site.update(Rates(0.05, 0, 0), 1.0)
    assert bool((site.z[0, :10] == DECIDED).all())
    assert bool((site.z[0, open_] != before[0, open_]).all())


def test_coherence_of_what_agrees_and_of_what_does_not():
    codes = torch.tensor([0, 0, 1, 1], dtype=torch.uint8)
    g = torch.tensor([[1.0, 0], [2.0, 0], [0, 1.0], [0, 3.0]])
    assert coherence(g, codes, 2) == pytest.approx(1)
    assert coherence(g * torch.tensor([[1.0], [-1], [1], [-1]]), codes, 2) == pytest.approx(-1)
    assert coherence(g[:, [0, 1]].roll(1, 0), codes, 2) == pytest.approx(0)
