"""A low-rank branch beside the integer product: on every backend of the CPU, before whatever comes after."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from kernels.int_linear import Branch, GatedResidual, int_linear, multiply
from kernels.int_linear.cases import example_weight
from kernels.quantize_rows import quantize_rows
from tests.kernels.linears import exact, needs_onednn, relative, rows_of


@pytest.mark.parametrize(
    ("rows", "up", "said"),
    [
        (
            (3, 4),
            (8, 4),
            r"rows of the branch is torch.float32 of shape \(3, 4\); needs .*\(2, r\)",
        ),
        ((2, 4), (7, 4), r"up of the branch is torch.float32 of shape \(7, 4\); needs .*\(8, r\)"),
        ((2, 5), (8, 4), r"rows of the branch .* \(2, 5\)"),
        ((2, 0), (8, 0), "one rank r > 0 for both"),
    ],
)
def test_a_branch_that_does_not_fit_is_named(rows: Any, up: Any, said: str) -> None:
    branch = Branch(torch.ones(rows), torch.ones(up))
    for product in (int_linear, lambda x, w, **kw: multiply(quantize_rows(x, 8), w, **kw)):
        with pytest.raises(ValueError, match=said):
            product(rows_of(2, 24), example_weight(8, 24, 4), branch=branch)


@needs_onednn
@pytest.mark.parametrize("after", [None, "gelu", "gate"])
@pytest.mark.parametrize("backend", ["simulate", "integer"])
def test_a_branch_is_added_before_what_comes_after(backend: str, after: Any) -> None:
    w, x, bias = example_weight(21, 96, 4, symmetric=False), rows_of(6, 96), rows_of(1, 21)[0]
    branch = Branch(rows_of(6, 5, 1), rows_of(21, 5, 2).half())
    y = exact(x, w, bias, 8, True) + branch.rows.double() @ branch.up.double().T
    gate, residual = rows_of(2, 21, 3), rows_of(6, 21, 4)
    if after == "gelu":
        y = torch.nn.functional.gelu(y, approximate="tanh")
    elif after == "gate":
        y = residual.double() + gate.double().repeat_interleave(3, 0) * y
        after = GatedResidual(gate, residual)
    for got in (
        int_linear(x, w, bias, backend=backend, after=after, branch=branch),
        multiply(quantize_rows(x, 8), w, bias, backend=backend, after=after, branch=branch),
    ):
        assert relative(got, y) < 1e-6
