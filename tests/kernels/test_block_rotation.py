"""Block rotations with codes, the definition: against matrices that are written out."""

from __future__ import annotations

import pytest
import torch

from kernels.block_rotation import block_rotation, obstacle, reference
from kernels.block_rotation.cases import example
from kernels.quantize_rows import quantize_rows


@pytest.mark.parametrize(("k", "b"), [(48, 16), (40, 8), (6, 2), (7, 7), (5, 1)])
def test_it_is_a_product_with_three_matrices(k: int, b: int) -> None:
    x, s, first, order, second = example(5, k, b)
    blocks = [torch.block_diag(*[m.double()] * (k // b)) for m in (first, second)]
    permutation = torch.eye(k, dtype=torch.float64)[:, order]
    expected = (x / s).double() @ blocks[0] @ permutation @ blocks[1]
    got = reference.values(x, s, first, order, second)
    assert got.dtype == torch.float32
    assert float((got - expected).norm() / expected.norm()) < 1e-6
    alone = reference.values(x, None, first, order, second)
    assert torch.allclose(alone, reference.values(x, torch.ones(k), first, order, second))


def test_its_codes_are_those_of_its_values() -> None:
    x, s, *rotation = example(5, 48, 16)
    for symmetric in (True, False):
        rows = block_rotation(x, *rotation, 6, symmetric, channel_scale=s, backend="simulate")
        expected = quantize_rows(reference.values(x, s, *rotation), 6, symmetric)
        assert torch.equal(rows.codes, expected.codes)
        assert torch.equal(rows.scale, expected.scale)


def test_what_does_not_belong_together_is_named() -> None:
    x, s, first, order, second = example(5, 48, 16)
    for arguments, said in (
        ((x[0], first, order, second), r"shape \(48,\); needs a floating-point matrix"),
        ((x, first[:, 1:], order, second), r"first has shape \(16, 15\); needs \(16, 16\)"),
        ((x, first, order, second[1:]), r"second has shape \(15, 16\); needs \(16, 16\)"),
        ((x, first, order[1:], second), r"order has shape \(47,\); needs \(48,\)"),
        ((x, first, order.float(), second), "order is torch.float32; needs int16, int32 or int64"),
        ((x[:, 1:], first, order[1:], second), "blocks of 16 do not divide 47 channels"),
        ((x, first, order, second, 9), "bits is 9"),
    ):
        with pytest.raises(ValueError, match=said):
            block_rotation(*arguments)
    with pytest.raises(ValueError, match=r"channel_scale has shape \(47,\)"):
        block_rotation(x, first, order, second, channel_scale=s[1:])


def test_what_has_no_triton_version_is_refused_with_its_reason() -> None:
    here = torch.device("cpu")
    assert "blocks of 24 have no Triton version" in str(obstacle(48, 24, here))
    assert "blocks of 256 have no Triton version" in str(obstacle(1024, 256, here))
    assert "rows of 65664 columns" in str(obstacle(65664, 128, here))
    with pytest.raises(RuntimeError, match="block_rotation cannot run with backend triton"):
        block_rotation(*(example(5, 48, 16)[i] for i in (0, 2, 3, 4)), backend="triton")
