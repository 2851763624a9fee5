"""The trainer: goes on to the same result, logs, stops at what is no number."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import Tensor

from quant.cards import load_method, methods
from quant.errors import Cancelled
from quant.learning import Diverged, Learning, check_finite, generator, learn
from quant.learning_log import read_log

STEPS = 12


class Walk:
    """A weight that takes noisy steps with momentum: its end depends on every step and on the state."""

    steps = STEPS

    def __init__(self, bad_at: int | None = None, growth: float = 1.0) -> None:
        self.x, self.momentum, self.bad_at, self.growth = (
            torch.ones(3),
            torch.zeros(3),
            bad_at,
            growth,
        )
        self.done: list[int] = []

    @property
    def stage(self) -> str:
        return "walk" if len(self.done) < STEPS // 2 else "run"

    def step(self, k: int) -> Mapping[str, float]:
        self.done.append(k)
        if k == self.bad_at:
            self.x = self.x * math.nan
            check_finite({"blocks.1.fc2": self.x})
        self.momentum = 0.9 * self.momentum + torch.randn(3, generator=generator(7, "walk", k))
        self.x = self.x + self.momentum
        return {"loss": self.growth**k, "norm": float(self.x.norm())}

    def state(self) -> dict[str, Tensor]:
        return {"x": self.x, "momentum": self.momentum}

    def restore(self, state: Mapping[str, Tensor]) -> None:
        self.x, self.momentum = state["x"], state["momentum"]

    def measures(self) -> dict[str, Any]:
        return {"x": self.x.tolist()}

    def rounded(self) -> Any:
        return SimpleNamespace(x=self.x)


@pytest.mark.parametrize("key", sorted(methods()))
def test_a_method_that_learns_says_so(key: str) -> None:
    module = load_method(key)
    assert module.CARD.learns == hasattr(module, "learner")


def test_interrupted_inside_a_step_the_last_whole_state_stays(tmp_path: Path) -> None:
    """Half a step must not be taken for none: it would be taken again on top."""

    class Half(Walk):
        def step(self, k: int) -> Mapping[str, float]:
            if k == 7:
                self.x = self.x + 1
                raise KeyboardInterrupt
            return super().step(k)

    whole, again = Walk(), Walk()
    learn(whole, "walk", "key", Learning(tmp_path / "whole"))
    to = Learning(tmp_path / "parts", every=0.0)
    with pytest.raises(KeyboardInterrupt):
        learn(Half(), "walk", "key", to)
    learn(again, "walk", "key", to)
    assert torch.equal(again.x, whole.x)
    assert again.done[0] == 7


def stopping_after(count: int):
    def told(progress):
        if progress.step == count:
            raise Cancelled("enough")

    return told


@pytest.mark.parametrize("count", [1, 5, STEPS - 1])
def test_a_stopped_learning_goes_on_to_the_same_result_and_log(tmp_path: Path, count: int) -> None:
    whole = Walk()
    learn(whole, "walk", "key", Learning(tmp_path / "whole"))
    first, second = Walk(), Walk()
    to = Learning(tmp_path / "parts", on_step=stopping_after(count))
    with pytest.raises(Cancelled):
        learn(first, "walk", "key", to)
    learn(second, "walk", "key", Learning(tmp_path / "parts"))
    assert second.done == list(range(count, STEPS)), "what was done is not done again"
    assert torch.equal(second.x, whole.x)
    logs = [read_log(tmp_path / part / "learning.jsonl") for part in ("whole", "parts")]
    assert [line for line in logs[0] if "losses" in line] == [
        line | {"stage": other["stage"]}
        for line, other in zip(
            (line for line in logs[1] if "losses" in line),
            (line for line in logs[0] if "losses" in line),
            strict=True,
        )
    ]


def test_a_killed_learning_goes_on_from_the_last_state_on_disk(tmp_path: Path) -> None:
    """Killed, so that nothing is written at the end: the log is ahead of the state and is cut back."""
    whole = Walk()
    learn(whole, "walk", "key")
    to = Learning(tmp_path, every=0.0, on_step=stopping_after(7))
    with pytest.raises(Cancelled):
        learn(Walk(), "walk", "key", to)
    log = tmp_path / "learning.jsonl"
    log.write_text(
        log.read_text() + '{"step": 7, "stage": "walk", "losses": {"loss": 1}}\n{"step": 8, "st'
    )
    again = Walk()
    learn(again, "walk", "key", Learning(tmp_path))
    assert torch.equal(again.x, whole.x)
    assert [line["step"] for line in read_log(log) if "losses" in line] == list(range(STEPS))


def test_another_key_or_a_damaged_state_starts_anew(tmp_path: Path) -> None:
    with pytest.raises(Cancelled):
        learn(Walk(), "walk", "key", Learning(tmp_path, on_step=stopping_after(5)))
    other = Walk()
    learn(other, "walk", "another key", Learning(tmp_path))
    assert other.done == list(range(STEPS))
    (tmp_path / "learning.safetensors").write_bytes(b"damaged")
    third = Walk()
    learn(third, "walk", "another key", Learning(tmp_path))
    assert third.done == list(range(STEPS))


def test_what_is_no_number_stops_with_the_layer_and_keeps_the_last_good_state(
    tmp_path: Path,
) -> None:
    with pytest.raises(Diverged, match=r"step 6 of 12 \(run\): blocks.1.fc2 holds NaN"):
        learn(Walk(bad_at=6), "walk", "key", Learning(tmp_path, every=0.0))
    good = Walk()
    learn(good, "walk", "key", Learning(tmp_path))
    assert good.done == list(range(6, STEPS))
    whole = Walk()
    learn(whole, "walk", "key")
    assert torch.equal(good.x, whole.x)


def test_a_loss_that_runs_away_stops() -> None:
    with pytest.raises(Diverged, match="the loss grew from 1 to"):
        learn(Walk(growth=50.0), "walk", "key")
