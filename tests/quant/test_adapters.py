"""Every family lists each linear layer exactly once, with a role that the table knows."""

from __future__ import annotations

import pytest
from torch import nn

from quant.adapters import GROUP_OF_ROLE
from quant.sizes import known_shapes, load_shape

BLOCKS = {
    "dit-xl-2": 28,
    "pixart-xl-2": 28,
    "latte-1": 56,
    "sd3-medium": 24,
    "flux-dev": 57,
    "cogvideox-2b": 30,
    "wan2.1-1.3b": 30,
    "sana-1.6b": 20,
}
QUANTIZED = {
    "dit-xl-2": 28 * 6,
    "pixart-xl-2": 28 * 10,
    "latte-1": 28 * 16,
    "sd3-medium": 24 * 12 - 3,
    "flux-dev": 19 * 12 + 38 * 5,
    "cogvideox-2b": 30 * 6,
    "wan2.1-1.3b": 30 * 10,
    "sana-1.6b": 20 * 8,
}


@pytest.fixture(scope="module", params=sorted(known_shapes()))
def shape(request):
    transformer, adapter = load_shape(request.param)
    return request.param, transformer, adapter.sites(transformer)


def test_every_linear_once(shape):
    _, transformer, sites = shape
    linears = [
        name for name, module in transformer.named_modules() if isinstance(module, nn.Linear)
    ]
    assert [site.name for site in sites] == linears
    for site in sites:
        module = transformer.get_submodule(site.name)
        assert (site.in_features, site.out_features) == (module.in_features, module.out_features)


def test_no_role_is_unknown(shape):
    _, _, sites = shape
    assert {site.role for site in sites} <= set(GROUP_OF_ROLE) - {"unknown"}


def test_blocks_are_counted_and_kept_sites_have_a_reason(shape):
    key, _, sites = shape
    blocks = {site.block for site in sites if site.block is not None}
    assert blocks == set(range(BLOCKS[key]))
    free = [site for site in sites if site.kept_reason is None]
    assert len(free) == QUANTIZED[key]
    assert all(site.block is not None for site in free), "nothing outside the blocks is quantized"


def test_sites_that_share_an_input_have_its_width(shape):
    _, _, sites = shape
    widths: dict[str, set[int]] = {}
    for site in sites:
        widths.setdefault(site.input_of, set()).add(site.in_features)
    assert all(len(w) == 1 for w in widths.values())


def test_shared_inputs_are_really_shared(model):
    """Hooks on the tiny DiT: sites with one `input_of` get the very same tensor."""
    import torch

    got: dict[str, list[torch.Tensor]] = {}
    handles = [
        model.transformer.get_submodule(s.name).register_forward_pre_hook(
            lambda _, args, key=s.input_of: got.setdefault(key, []).append(args[0])
        )
        for s in model.sites
        if s.kept_reason is None
    ]
    with torch.no_grad():
        model.transformer(
            torch.randn(1, 4, 8, 8), timestep=torch.tensor([9]), class_labels=torch.tensor([0])
        )
    for handle in handles:
        handle.remove()
    assert sum(len(v) for v in got.values()) == 12
    assert len(got) == 8
    for tensors in got.values():
        assert all(torch.equal(t, tensors[0]) for t in tensors)
