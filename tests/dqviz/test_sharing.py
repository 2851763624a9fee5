"""Attention sharing asked for on the command line's way: compare, quantize, generate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from dqviz.capturing import CaptureRequest, capture
from dqviz.comparison import compare
from dqviz.export import draw_to, quantize_to
from dqviz.request import CompareRequest
from dqviz.sharing import sharing_sentence
from dqviz.study import Study
from quant.errors import BadInput
from quant.probes import load_probe
from quant.sharing_choice import Similarity

OPTIONS = {"windows": 1, "alpha": 0.3, "sharing": "map"}


def request(model: Path, **more: Any) -> CompareRequest:
    fields: dict[str, Any] = {
        "model": str(model),
        "methods": ["trdq"],
        "bits": "w8a8",
        "seeds": "0-1",
        "calibration_seeds": "100-101",
        "steps": 2,
        "ladder": False,
        "options": OPTIONS,
    }
    return CompareRequest.parse(fields | more)


def test_compare_measures_once_and_says_what_is_shared(tiny_dit: Path, tmp_path: Path) -> None:
    out = tmp_path / "study"
    options = {**OPTIONS, "sharing_threshold": 0.0}
    stages: list[str] = []
    wanted = request(tiny_dit, options=options, out=out)

    def listen(event: Any) -> None:
        stages.append(getattr(event, "name", ""))

    shared = compare(wanted, listen)["runs"][1]["sharing"]
    assert stages.count("similarity") == 1
    assert shared["mode"] == "map"
    assert shared["saving"]["cells"] == shared["saving"]["of_cells"] == 4
    assert shared["saving"]["qk_rows"] == 0.5
    assert shared["saving"]["evidence"] == "predicted"
    high = compare(request(tiny_dit, options={**OPTIONS, "sharing_threshold": 1.0}, out=out))
    assert "nothing is shared" in high["runs"][1]["sharing"]["why"]
    assert any("nothing is shared" in warning for warning in high["warnings"])
    kept = list(out.glob("similarity-*.json"))
    written = [file.stat().st_mtime_ns for file in kept]
    off = compare(request(tiny_dit, options={**OPTIONS, "sharing": "off"}, out=out))["runs"][1]
    assert off["sharing"] == {"mode": "off", "why": "not asked for (sharing=off)"}
    again = compare(wanted)["runs"][1]
    assert [file.stat().st_mtime_ns for file in kept] == written
    assert again["sharing"] == shared
    assert off["psnr_db"]["mean"] > again["psnr_db"]["mean"]
    # a damaged file is measured anew
    kept[0].write_text("{}")
    assert compare(wanted)["runs"][1]["sharing"] == shared
    assert kept[0].stat().st_size > 100
    assert Study.open(out).result()["status"] == "done"


def test_steps_that_the_sampler_never_takes_stop_before_anything_is_measured(
    tiny_dit: Path, tmp_path: Path
) -> None:
    options = {**OPTIONS, "sharing_steps": [[5000, 6000]]}
    with pytest.raises(BadInput, match=r"sharing_steps hold none of the .* timesteps"):
        quantize_to(request(tiny_dit, options=options), tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_what_is_shared_is_told_in_a_sentence() -> None:
    saved = {"cells": 22, "of_cells": 120, "multiply_adds": 0.016}
    record = {"mode": "map", "saving": saved}
    assert sharing_sentence(record) == (
        "shares the map in 22 of 120 attentions and steps, predicted to save 1.6 % of the multiply-adds"
    )
    assert sharing_sentence({"mode": "off", "why": "not asked for"}) == ""
    assert sharing_sentence({**record, "saving": {**saved, "cells": 0}}) == ""


@pytest.mark.parametrize("make", ["compare", "quantize"])
def test_without_guidance_nothing_is_written(make: str, tiny_dit: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    wanted = request(tiny_dit, guidance=1.0, out=out)
    with pytest.raises(BadInput, match="guidance above 1"):
        compare(wanted) if make == "compare" else quantize_to(wanted, out)
    assert not out.exists()


def test_a_run_without_guidance_says_why_nothing_is_shared(tiny_dit: Path, tmp_path: Path) -> None:
    run = compare(
        request(tiny_dit, methods=["rtn"], options={}, guidance=1.0, out=tmp_path / "study")
    )["runs"][1]
    assert run["sharing"]["mode"] == "off"
    assert "one branch" in run["sharing"]["why"]


def test_checkpoints_share_and_refuse_to_without_guidance(tiny_dit: Path, tmp_path: Path) -> None:
    folder = tmp_path / "checkpoint"
    options = {**OPTIONS, "sharing_set": "similarity", "sharing_threshold": 0.0}
    made = quantize_to(request(tiny_dit, options=options), folder)
    assert made["sharing"]["saving"]["qk_rows"] == 0.5
    drawn = draw_to(str(folder), request(tiny_dit), tmp_path / "drawn", base=str(tiny_dit))
    assert drawn["warnings"] == []
    other = draw_to(str(folder), request(tiny_dit, steps=3), tmp_path / "3", base=str(tiny_dit))
    assert "another sampler" in other["warnings"][0]
    alone = request(tiny_dit, guidance=1.0)
    with pytest.raises(BadInput, match="guidance above 1, or switch sharing off"):
        draw_to(str(folder), alone, tmp_path / "alone", base=str(tiny_dit))
    as_candidate = request(
        tiny_dit,
        methods=[],
        bits=[],
        options={},
        candidates=[folder],
        guidance=1.0,
        out=tmp_path / "s",
    )
    with pytest.raises(BadInput, match="guidance above 1"):
        compare(as_candidate)
    guided = as_candidate.model_copy(update={"guidance": None, "out": tmp_path / "guided"})
    assert compare(guided)["runs"][1]["sharing"]["saving"]["qk_rows"] == 0.5


def test_the_probe_is_the_similarity_or_says_why_not(tiny_dit: Path) -> None:
    from quant.cards import load_method
    from quant.loading import load_model
    from quant.schema import parse_bits

    model = load_model(str(tiny_dit), device="cpu")
    samples, done = model.samples(range(100, 102)), []
    found = [
        load_probe("similarity").measure(
            model,
            None,
            model.sampler(steps=2, guidance=guidance),
            samples,
            method="trdq",
            bits=parse_bits("w4a8"),
            options=load_method("trdq").Options(),
            on_step=lambda at, total: done.append((at, total)),
        )
        for guidance in (3.0, 1.0)
    ]
    assert Similarity.parse(found[0], "probe").samples == 2
    assert done[-1] == (4, 4)
    assert "one branch" in found[1]["off"]


def test_a_capture_looks_at_layers_and_leaves_attention_alone(
    tiny_dit: Path, tmp_path: Path
) -> None:
    wanted = {
        "model": str(tiny_dit),
        "method": "trdq",
        "bits": "w8a8",
        "options": {**OPTIONS, "sharing_set": "similarity"},
        "seeds": "100-101",
        "calibration_seeds": "100-101",
        "steps": 2,
        "out": tmp_path / "study",
    }
    assert len(capture(CaptureRequest.parse(wanted))["stages"]) > 1
