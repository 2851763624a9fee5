"""Windows are total and half-open, and the transformer announces its own timestep."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from quant.errors import BadInput
from quant.schema import Plan, Window
from quant.step import attach, current_window, window_of

WINDOWS = (Window(low=750, high=1e9), Window(low=249.5, high=750), Window(low=-1e9, high=249.5))


@given(st.floats(0, 1000, allow_nan=False))
def test_every_float_timestep_is_in_exactly_one_window(t):
    inside = [i for i, w in enumerate(WINDOWS) if t in w]
    assert inside == [window_of(WINDOWS, t)]


@pytest.mark.parametrize(
    ("t", "index"),
    [(1000, 0), (750, 0), (749.99, 1), (249.5, 1), (249.4, 2), (0, 2), (2e9, 0), (-2e9, 2)],
)
def test_borders_belong_to_the_noisier_side(t, index):
    assert window_of(WINDOWS, t) == index


class Inner(nn.Module):
    """Stands for a transformer: reports the window that its layers would see."""

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor | None = None) -> int:
        return current_window(WINDOWS)


def test_the_transformer_announces_its_timestep_by_keyword_and_by_position():
    model = Inner()
    attach(model, WINDOWS)
    x = torch.zeros(2, 1)
    assert model(x, timestep=torch.tensor([999, 999])) == 0
    assert model(x, torch.tensor(500.0)) == 1
    assert model(x, timestep=3) == 2


def test_the_context_ends_with_the_call_even_when_it_fails():
    model = Inner()
    attach(model, WINDOWS)
    model(torch.zeros(1), timestep=torch.tensor([10.0]))
    with pytest.raises(RuntimeError, match="timestep is unknown"):
        current_window(WINDOWS)


def test_one_batch_in_two_windows_is_refused():
    model = Inner()
    attach(model, WINDOWS)
    with pytest.raises(BadInput, match="different step windows"):
        model(torch.zeros(2, 1), timestep=torch.tensor([10.0, 999.0]))
    assert model(torch.zeros(2, 1), timestep=torch.tensor([999.0, 800.0])) == 0


def test_windows_with_a_gap_are_refused():
    broken = {
        "model": "x",
        "windows": [{"low": 500, "high": 1000}, {"low": 0, "high": 499}],
        "sites": {},
    }
    with pytest.raises(BadInput, match="without a gap"):
        Plan.parse(broken, "plan")
