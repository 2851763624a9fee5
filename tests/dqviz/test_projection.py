"""What a calibration will take is said before it starts: in events, on stderr, and for shapes alone."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dqviz import projection
from dqviz.cli import main
from dqviz.comparison import compare
from dqviz.events import Progress, Stage
from dqviz.planning import load
from dqviz.request import CompareRequest
from quant.adapters.flux import Flux
from quant.effort import Rates
from quant.footprint import input_shapes

ASKED = [("rtn", {}), ("trdq", {"alpha": 0.3})]


@pytest.fixture
def known_rates(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine that does not change between two runs."""
    monkeypatch.setattr(projection, "rates", lambda: Rates(1e9, 1e8, 1e5))


def of(model: Any, samples: int, steps: int) -> dict[str, Any]:
    sampler = model.sampler(steps)
    shapes = input_shapes(model, model.samples([1])[0], sampler)
    return projection.projected(model, shapes, sampler, samples, ASKED)


@pytest.mark.usefixtures("known_rates")
def test_more_samples_steps_and_windows_take_longer(tiny_dit: Path) -> None:
    model = load(str(tiny_dit), "cpu")
    one, two, longer = of(model, 8, 4), of(model, 16, 4), of(model, 8, 8)
    assert two["macs"] == 2 * one["macs"]
    assert longer["macs"] == 2 * one["macs"]
    assert two["memory_bytes"] == one["memory_bytes"], "totals do not grow with the samples"
    assert one["methods"]["trdq"]["seconds"] > 10 * one["methods"]["rtn"]["seconds"]
    assert (one["branches"], one["evidence"]) == (2, "predicted")
    assert "then TR-DQ about" in projection.sentence(one)
    assert "of memory" not in projection.sentence(one, recorded=True)


def test_it_is_said_before_the_first_step_and_after_the_last(
    tiny_dit: Path, tmp_path: Path
) -> None:
    events: list[Any] = []
    request = {
        "model": str(tiny_dit), "methods": ["viditq"], "bits": "w4a8", "seeds": "0-1", "ladder": False,
        "calibration_seeds": "100-101", "options": {"alpha": 0.3}, "out": tmp_path / "s",
    }  # fmt: skip
    compare(CompareRequest.parse(request), events.append)
    at = next(i for i, e in enumerate(events) if isinstance(e, Stage) and e.name == "calibrate")
    before = [e.done for e in events[:at] if isinstance(e, Progress)]
    assert "calibrating on 2 samples; predicted for this machine: about" in events[at].text
    assert "of memory, then ViDiT-Q about" in events[at].text
    assert max(before) == 2 * 4, "full precision alone was drawn"
    events.clear()
    compare(CompareRequest.parse(request), events.append)
    (text,) = [e.text for e in events if isinstance(e, Stage) and e.name == "calibrate"]
    assert text.startswith("statistics are there already; predicted for this machine: ViDiT-Q")


def test_the_command_line_says_it_where_no_terminal_watches(
    tiny_dit: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    asked = ("--method", "trdq", "--bits", "w4a8", "--option", "alpha=0.3", "--steps", "2")
    out = ("--calibration-seeds", "50", "--out", str(tmp_path / "c"))
    assert main(["quantize", str(tiny_dit), *asked, *out, "--json"]) == 0
    said = capsys.readouterr().err
    assert "calibrating on 1 sample; predicted" in said
    assert "then TR-DQ about" in said


def test_the_rates_of_a_machine_are_positive() -> None:
    found = vars(projection.rates())
    assert all(value > 1000 for value in found.values())
    assert found["macs"] > found["calls"]


def test_a_known_shape_tells_bytes_of_every_tier_and_the_work_until_then(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    assert main(["size", "dit-xl-2", "--method", "trdq", "--bits", "w4a8", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    tiers = {way["options"]["tier"]: way for way in told["alternatives"]}
    assert list(tiers) == ["A", "B", "C"]
    assert tiers["B"]["size_bytes"] < told["fp16_bytes"] < tiers["A"]["size_bytes"]
    assert tiers["C"]["size_bytes"] == told["size_bytes"]
    assert tiers["A"]["memory"]["stored_bytes"] < tiers["A"]["size_bytes"]
    work = told["work"]
    assert (work["samples"], work["steps"], work["evidence"]) == (8, 20, "predicted")
    assert work["macs"] == pytest.approx(8 * 20 * 2 * 118.6e9, rel=0.03)
    assert work["methods"]["trdq"]["seconds"] > 0
    monkeypatch.setattr(Flux, "tokens", lambda *_: None)
    assert main(["size", "flux-dev", "--method", "smoothquant", "--bits", "w4a8"]) == 0
    said = capsys.readouterr().out
    assert "no picture size" in said
    assert "stored with" not in said
    assert main(["size", "dit-xl-2", "--method", "vq4dit", "--bits", "w2a16"]) == 0
    said = capsys.readouterr().out
    assert "calibration" not in said, "it needs none"
    assert "\nvq4dit " in said
