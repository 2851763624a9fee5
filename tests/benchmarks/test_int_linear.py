"""How times are taken where `auto` and the page of a processor get theirs."""

from __future__ import annotations

from types import SimpleNamespace

import pytest

from benchmarks import int_linear


@pytest.mark.parametrize("runs", [1, 7])
def test_the_least_of_interleaved_runs_counts(runs: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """The first run of each is not looked at, and seven are the fewest."""
    called: list[str] = []
    taken = [5, 2, 3, 4, *[9] * 10]  # by a and b in turn
    now = iter([0, 0, *(t for each in taken for t in (0, each))])
    clock = SimpleNamespace(perf_counter=lambda: float(next(now)))
    monkeypatch.setattr(int_linear, "time", clock)
    best = int_linear.fastest({name: lambda name=name: called.append(name) for name in "ab"}, runs)
    assert called == ["a", "b"] * 8
    assert best == {"a": 3.0, "b": 2.0}
