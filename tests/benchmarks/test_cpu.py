"""The times and bytes of a processor: every figure has its way and its mode."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import pytest
import torch
from torch.nn import functional as F

from benchmarks import cpu, cpu_page
from benchmarks.one_block import one_block


def test_what_is_timed_multiplies_the_weight_that_it_is_held_against() -> None:
    torch.manual_seed(0)
    x, weight = torch.randn(32, 64), torch.randn(48, 64)
    exact = F.linear(x, weight)
    for bits, worst in ((8, 0.02), (4, 0.2)):
        stored = cpu.prepare(cpu._packed(weight, bits))
        made = cpu._ours(x, stored, torch.zeros(48), 8, "simulate")()
        assert isinstance(made, torch.Tensor)
        assert (made - exact).norm() / exact.norm() < worst


def test_every_part_is_written_and_told(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cpu, "one_block", lambda: one_block(heads=2))
    monkeypatch.setattr(torch, "set_num_threads", lambda _: None)
    asked = f"cpu --model {tiny_dit} --samples 1 --runs 1 --shapes 8x32x16 --out {tmp_path}"
    monkeypatch.setattr(sys, "argv", asked.split())
    assert cpu.main() == 0
    found = json.loads((tmp_path / "cpu.json").read_text(encoding="utf-8"))
    page = (tmp_path / "cpu.md").read_text(encoding="utf-8")
    assert page == cpu_page.markdown(found)
    drawn = (tmp_path / "cpu.svg").read_text(encoding="utf-8")
    speed = found["block"]["seconds"]["float32"] / found["block"]["seconds"]["auto w8a8"]
    assert f">{speed:.2f}<" in drawn
    assert ">8 x 32 x 16<" in drawn
    assert {"float32", "simulate w8a8"} <= set(found["linears"][0]["seconds"])
    assert {"float32", "auto w4a8"} <= set(found["block"]["seconds"])
    told = {(row["weights"], row["mode"]): row["ratio"] for row in found["resident"]}
    assert set(told) == {(weights, mode) for weights in cpu.STORED for mode in cpu.MODES}
    for weights in cpu.STORED:
        assert told[weights, "memory"] < told[weights, "speed"]
