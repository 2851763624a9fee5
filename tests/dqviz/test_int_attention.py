"""Attention with int8 scores asked for on the command line's way: compare, quantize, draw."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from dqviz.cli import main
from dqviz.command_lines import as_command
from dqviz.comparison import compare
from dqviz.export import draw_to, quantize_to
from dqviz.request import CompareRequest
from dqviz.tables import compared
from quant.errors import BadInput
from quant.loading import load_model
from quant.plans import uniform_plan
from quant.schema import parse_bits


def request(model: Path, **more: Any) -> CompareRequest:
    fields: dict[str, Any] = {
        "model": str(model),
        "methods": ["rtn"],
        "bits": "w8a8",
        "seeds": "0-1",
        "steps": 2,
        "ladder": False,
    }
    return CompareRequest.parse(fields | more)


def test_a_comparison_says_that_a_run_has_it(tiny_dit: Path, tmp_path: Path) -> None:
    with_it, without = (
        compare(request(tiny_dit, attention=asked, out=tmp_path / str(asked)))["runs"][1]
        for asked in ("int8", None)
    )
    assert (with_it["attention"], without["attention"]) == ("int8", None)
    assert with_it["title"] == f"{without['title']}, int8 attention"
    assert with_it["plan"] != without["plan"]
    said = compared({"runs": [with_it, without], "pairs": [], "ladder": [], "study": "s"})
    assert said.count("int8 attention") == 1
    assert with_it["latent_rel_error"]["mean"] != without["latent_rel_error"]["mean"]
    assert with_it["size_bytes"] == without["size_bytes"]


def test_it_goes_beside_a_plan_into_a_checkpoint_that_is_drawn_and_compared(
    tiny_dit: Path, tmp_path: Path
) -> None:
    plan = uniform_plan(load_model(str(tiny_dit), device="cpu"), parse_bits("w8a8"))
    file = tmp_path / "plan.json"
    file.write_text(json.dumps(plan.to_json()))
    made = quantize_to(request(tiny_dit, bits=[], plan=file, attention="int8"), tmp_path / "c")
    assert made["attention"] == "int8"
    draw_to(str(tmp_path / "c"), request(tiny_dit), tmp_path / "drawn", base=str(tiny_dit))
    candidate = request(tiny_dit, methods=[], bits=[], candidates=[tmp_path / "c"], out=tmp_path / "s")  # fmt: skip
    run = compare(candidate)["runs"][1]
    assert run["attention"] == "int8"
    assert "int8 attention: simulate" in run["backend_why"]


def test_the_command_line_knows_it(tiny_dit: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert "--attention int8" in as_command(request(tiny_dit, attention="int8"))
    assert "--attention" not in as_command(request(tiny_dit))
    words = ["compare", str(tiny_dit), "--method", "rtn", "--bits", "w8a8", "--attention", "int4"]
    assert main(words) == 2
    assert "attention: expected 'int8' (got 'int4')" in capsys.readouterr().err


def test_ranges_inside_attentions_are_refused_before_anything_is_calibrated(
    tiny_dit: Path, tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match=r"--option inside=false, or leave attention int8 away"):
        quantize_to(request(tiny_dit, methods=["taqdit"], attention="int8"), tmp_path / "c")
    assert not (tmp_path / "c").exists()
