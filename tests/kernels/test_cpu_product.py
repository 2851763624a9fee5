"""The integer product of the CPU as an operation of PyTorch: its definition, in graphs, exported."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from kernels.int_linear import cpu, int_linear, prepare
from kernels.int_linear.cases import example_weight
from tests.kernels.linears import needs_onednn, rows_of

pytestmark = needs_onednn


class Linear(torch.nn.Module):
    """An integer linear with a GELU after it, its weight made ready by one call."""

    def __init__(self, x: Tensor, bits: int = 4, symmetric: bool = True) -> None:
        super().__init__()
        self.symmetric = symmetric
        self.weight = prepare(example_weight(24, x.shape[1], bits, symmetric), "integer")
        self(x)

    def forward(self, x: Tensor) -> Tensor:
        return int_linear(x, self.weight, None, 7, self.symmetric, "integer", "gelu")


@pytest.fixture(autouse=True)
def graphs_of_other_tests_are_forgotten() -> None:
    torch._dynamo.reset()


def operands(m: int = 5, k: int = 40, n: int = 24) -> tuple[Tensor, Tensor]:
    """codes u8 [m, k], weight s8 [k, n]."""
    seeded = torch.Generator().manual_seed(0)
    codes = torch.randint(0, 128, (m, k), generator=seeded, dtype=torch.uint8)
    return codes, torch.randint(-128, 128, (k, n), generator=seeded, dtype=torch.int8)


def test_in_mode_memory_a_graph_is_refused_because_it_cannot_make_the_layout() -> None:
    x, module = rows_of(6, 40), Linear(rows_of(6, 40))
    module.weight = prepare(example_weight(24, 40, 4), "integer", "memory")
    module(x)
    with pytest.raises(RuntimeError, match=r"not in oneDNN's layout.*use --backend simulate"):
        torch.export.export(module, (x,))


@pytest.mark.parametrize("m", [0, 1, 5])
def test_the_layout_multiplies_the_same_integers(m: int) -> None:
    codes, weight = operands(m)
    blocked = torch.ops.onednn.qlinear_prepack(weight.t().contiguous(), None)
    expected = (codes.double() - 64) @ weight.double()
    for operand in (weight, blocked):
        y = cpu.u8s8_product(codes, 64, operand)
        assert y.dtype == torch.float32
        assert torch.equal(y.double(), expected)


def test_pytorch_finds_nothing_wrong_with_it() -> None:
    codes, weight = operands()
    torch.library.opcheck(torch.ops.dqviz.u8s8_product.default, (codes, 64, weight))


@pytest.mark.parametrize("symmetric", [True, False])
def test_it_compiles_whole_and_exports(symmetric: bool) -> None:
    x = rows_of(6, 40)
    module = Linear(x, symmetric=symmetric)
    expected = module(x)
    compiled = torch.compile(module, fullgraph=True, backend="aot_eager")
    exported = torch.export.export(module, (x,)).module()
    for graph in (compiled, exported):
        assert torch.equal(graph(x), expected)
        assert torch.equal(graph(x * 2), module(x * 2)), (
            "nothing of a call is a constant of the graph"
        )
