"""Poison: memory that an op allocates and forgets to fill is found by its nan."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor


def poisoned(allocate: Callable[..., Tensor]) -> Callable[..., Tensor]:
    """The same allocation, filled with nan, or with the largest integer."""

    def allocate_and_fill(*args: Any, **kwargs: Any) -> Tensor:
        t = allocate(*args, **kwargs)
        if t.is_floating_point():
            return t.fill_(float("nan"))
        return t.fill_(True if t.dtype == torch.bool else torch.iinfo(t.dtype).max)

    return allocate_and_fill


@pytest.fixture(autouse=True)
def poison_empty_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Every empty tensor that Python code allocates is full of nan."""
    monkeypatch.setattr(torch, "empty", poisoned(torch.empty))
    monkeypatch.setattr(torch, "empty_like", poisoned(torch.empty_like))
    monkeypatch.setattr(Tensor, "new_empty", poisoned(Tensor.new_empty))


@pytest.fixture(autouse=True)
def default_backend(monkeypatch: pytest.MonkeyPatch) -> None:
    """Tests choose the backend themselves, whatever the shell that starts them has set."""
    monkeypatch.delenv("DQVIZ_BACKEND", raising=False)


@pytest.fixture
def generator() -> torch.Generator:
    """A seeded source of random numbers."""
    return torch.Generator().manual_seed(0)
