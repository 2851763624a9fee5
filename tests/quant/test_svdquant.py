"""The low-rank branch: optimal, exact with the rest, honest in size, the same after a cast."""

from __future__ import annotations

import pytest
import torch

from quant.conformance import synthetic
from quant.conformance.trial import CHANNELS, OUTS, Trial
from quant.errors import BadInput
from quant.methods.svdquant import Options, branch
from quant.schema import SitePlan
from quant.site_tensors import Transform, buffer_shapes
from quant.sizes import tensor_bytes


@pytest.mark.parametrize("shape", [(96, 192), (192, 96), (64, 64)])
@pytest.mark.parametrize("rank", [1, 8, 500])
def test_the_branch_is_the_best_approximation_of_its_rank(shape, rank):
    w = synthetic.weight(*shape, seed=3)
    made = branch(w, rank)
    assert made.down.shape[0] == made.up.shape[1] == min(rank, *shape)
    u, sigma, v = torch.linalg.svd(w, full_matrices=False)
    best = (u[:, :rank] * sigma[:rank]) @ v[:rank]
    error, least = float((w - made.product()).norm()), float((w - best).norm())
    assert error <= least * (1 + 1e-3) + 1e-3 * float(w.norm())


def test_the_rest_makes_up_for_the_precision_of_the_branch():
    """Without rounding of the rest nothing is lost, though the branch is float16."""
    made = Trial("svdquant", SitePlan(weight=None, activations=(None,)), 0, {"rank": 64})
    assert made.layers["site0"].down.dtype == torch.float16
    assert made.error() < 1e-11


def test_more_rank_is_less_error_and_the_bytes_say_so():
    plan = synthetic.plan(4, 4)
    errors, sizes = [], []
    for rank in (1, 8, 32):
        made = Trial("svdquant", plan, 0, {"rank": rank, "alpha": 0.5})
        errors.append(made.error())
        sizes.append(sum(b.numel() * b.element_size() for b in made.layers["site0"].buffers()))
        shapes = buffer_shapes(
            CHANNELS, OUTS, True, plan, Transform(scale=True, rank=rank), torch.float32
        )
        assert sizes[-1] == sum(tensor_bytes(*value) for value in shapes.values())
    assert errors == sorted(errors, reverse=True)
    assert sizes[2] - sizes[0] == 31 * (CHANNELS + OUTS) * 2


def test_a_branch_beside_codes_of_the_whole_weight_would_count_twice():
    """The rest is what the branch leaves: the check can fail."""
    made = Trial("svdquant", synthetic.plan(8, None), 0)
    right = made.error()
    layer = made.layers["site0"]
    layer.up = 2 * layer.up
    assert made.error() > 100 * right


def test_it_is_better_than_its_scale_alone_and_hessian_rounding_adds_to_it():
    plan = synthetic.plan(4, 4)
    for seed in range(3):
        alone = Trial("viditq", plan, seed, {"transform": "scale"}).error()
        nearest = Trial("svdquant", plan, seed).error()
        guided = Trial("svdquant", plan, seed, {"rounding": "hessian"}).error()
        assert guided < nearest < 0.5 * alone


def test_the_search_is_no_worse_than_any_fixed_alpha_on_calibration_rows():
    plan = synthetic.plan(4, 4)
    best = Trial("svdquant", plan, 0)
    for alpha in (0.0, 0.3, 0.5, 0.9):
        fixed = Trial("svdquant", plan, 0, {"alpha": alpha})
        assert best.error(best.calibrated) <= fixed.error(fixed.calibrated) * (1 + 1e-6)


def test_a_cast_leaves_the_branch_exact():
    layer = Trial("svdquant", synthetic.plan(4, 8), 0).layers["site0"]
    down = layer.down.clone()
    layer.to(torch.bfloat16)
    assert layer.down.dtype == torch.float16
    assert torch.equal(layer.down, down)
    assert "branch of rank 32" in layer.extra_repr()


def test_alpha_is_a_share():
    with pytest.raises(BadInput, match="alpha"):
        Options.parse({"alpha": 1.5}, "options of svdquant")
