"""What a request takes is said before the start, with numbers; what does not fit is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from dqviz import machine, preflight
from dqviz.cli import app
from dqviz.export import quantize_to
from dqviz.machine import MIB
from dqviz.preflight import Preflight, of_request, outlined
from dqviz.request import CompareRequest
from quant.errors import BadInput, EnvironmentFault
from quant.loading import load_model
from quant.models import CARD_NAME, embedded_models
from quant.sources import locate


def asked(model: Path | str, **more: Any) -> CompareRequest:
    """A small request."""
    fields = {"methods": ["rtn"], "bits": "w4a8", "steps": 2, "calibration_seeds": "100", **more}
    return CompareRequest.parse({"model": str(model), **fields})


def free(monkeypatch: pytest.MonkeyPatch, memory: float) -> None:
    """Let a machine have so many bytes free."""
    monkeypatch.setattr(machine, "available_memory", lambda: int(memory))


def look(model: Path | str, folder: Path, low: bool | None = None, **more: Any) -> Preflight:
    """Of quantizing."""
    return of_request(asked(model, **more), "quantize", folder / "out", low)


def test_all_in_memory_where_it_fits(tiny_dit: Path, tmp_path: Path) -> None:
    found = look(tiny_dit, tmp_path)
    assert found.fits
    assert not found.low_memory
    assert found.why == "everything is in memory"
    assert found.seconds is not None
    assert found.drawing_known
    assert "without what drawing takes" in replace(found, drawing_known=False).sentence()
    assert found.low_memory_bytes is not None
    assert "--low-memory" in found.sentence()
    assert json.loads(json.dumps(found.to_json(), allow_nan=False))["evidence"] == "predicted"


def test_blocks_lie_on_disk_where_only_that_fits(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plain = look(tiny_dit, tmp_path, methods=["viditq"])
    assert plain.low_memory_bytes is not None
    assert plain.low_memory_bytes < plain.memory_bytes
    free(monkeypatch, (plain.low_memory_bytes + plain.memory_bytes) / 2)
    found = look(tiny_dit, tmp_path, methods=["viditq"])
    assert found.fits
    assert found.low_memory
    assert "chosen because" in found.why
    assert "until the end" in found.sentence()
    assert "reading" in found.sentence()

    refused = look(tiny_dit, tmp_path, low=False, methods=["viditq"])
    assert not refused.fits
    assert "--low-memory takes" in refused.refusal


def test_a_refusal_says_the_numbers_and_what_would_fit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = "dit-emoji"
    large = look(model, tmp_path, methods=["viditq"], batch_size=64)
    small = look(model, tmp_path, methods=["viditq"], batch_size=1)
    assert small.low_memory_bytes is not None
    free(monkeypatch, small.memory_bytes + MIB)
    found = look(model, tmp_path, methods=["viditq"], batch_size=64, low=False)
    assert f"{machine.mib(large.memory_bytes)} of memory" in found.refusal
    assert f"--batch-size 1 takes {machine.mib(small.memory_bytes)}" in found.refusal
    free(monkeypatch, 10 * MIB)
    with pytest.raises(EnvironmentFault, match="of memory and 10 MiB are free; use a smaller"):
        preflight.require(look(model, tmp_path))


def test_disk_is_looked_at_too(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "free_disk", lambda folder: 1000)
    with pytest.raises(EnvironmentFault, match="on disk and 0 MiB are free"):
        quantize_to(asked(tiny_dit), tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"methods": ["adaround"]}, "learns over the whole network"),
        ({"methods": ["viditq"], "options": {"fold": "all"}}, "fold=all"),
        ({"outliers": {"kind": "static", "factor": 8}}, "synthetic outliers"),
    ],
)
def test_what_cannot_lie_on_disk_says_why(
    more: dict[str, Any], said: str, tiny_dit: Path, tmp_path: Path
) -> None:
    assert look(tiny_dit, tmp_path, **more).low_memory_bytes is None
    with pytest.raises(BadInput, match=said):
        look(tiny_dit, tmp_path, low=True, **more)


def test_quantizing_either_way_writes_the_same_and_leaves_nothing(
    tiny_dit: Path, tmp_path: Path
) -> None:
    made = {}
    for low in (False, True):
        out = tmp_path / f"low-{low}"
        said: list[str] = []
        request = asked(tiny_dit, methods=["viditq"], batch_size=4)
        result = quantize_to(
            request,
            out,
            low_memory=low,
            on_event=lambda e, to=said: to.append(getattr(e, "text", "")),
        )
        assert result["preflight"]["low_memory"] is low
        assert any("predicted, at most" in text for text in said)
        made[low] = {file.name: file.read_bytes() for file in out.iterdir()}
    assert made[False] == made[True]
    assert sorted(p.name for p in tmp_path.iterdir() if p.name.startswith(".")) == []


def test_larger_batches_and_comparisons_take_more(tmp_path: Path) -> None:
    sizes = [look("dit-emoji", tmp_path, methods=["viditq"], batch_size=b) for b in (1, 64)]
    assert sizes[0].memory_bytes < sizes[1].memory_bytes
    both = of_request(asked("dit-emoji"), "compare", tmp_path)
    assert both.low_memory_bytes is None
    assert both.memory_bytes > look("dit-emoji", tmp_path).memory_bytes


def test_the_command_line_says_it_and_stops(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [str(tiny_dit), "--method", "rtn", "--bits", "w4a8", "--preflight"]
    run = CliRunner()
    found = run.invoke(app, ["quantize", *words, "--out", str(tmp_path / "out"), "--json"])
    assert found.exit_code == 0, found.output
    assert json.loads(found.stdout)["fits"]
    assert not (tmp_path / "out").exists()
    assert run.invoke(app, ["compare", *words]).stdout.startswith("predicted, at most")
    assert run.invoke(app, ["capture", str(tiny_dit), "--preflight"]).exit_code == 0
    free(monkeypatch, 10 * MIB)
    assert run.invoke(app, ["compare", *words]).exit_code == 3


def test_nothing_is_loaded_for_it(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import diffusers

    def no(*_: Any, **__: Any) -> None:
        raise AssertionError("a pipeline was loaded")

    monkeypatch.setattr(diffusers.DiffusionPipeline, "from_pretrained", no)
    assert look(tiny_dit, tmp_path).fits


def test_a_clip_is_as_large_as_it_is_asked_for(pipelines: dict[str, Path], tmp_path: Path) -> None:
    card = look(pipelines["wan"], tmp_path, methods=["viditq"])  # 16x16, 5 frames
    small = {"methods": ["viditq"], "size": "16x16", "frames": 5}
    large = {"methods": ["viditq"], "size": "480x832", "frames": 81}
    assert card.memory_bytes == look(pipelines["wan"], tmp_path, **small).memory_bytes
    assert look(pipelines["wan"], tmp_path, **large).memory_bytes > 3 * card.memory_bytes


def test_what_cannot_be_drawn_is_refused_before_it_is_loaded(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    with pytest.raises(BadInput, match="draws clips of 3 frames"):
        look(pipelines["latte"], tmp_path, frames=7)


@pytest.mark.parametrize(
    ("more", "says"),
    [
        ({"classes": "7"}, "class 7 was never trained"),
        ({"classes": "catt"}, "unknown class 'catt'; nearest: cat"),
        ({"prompts": ["a cat"]}, "draws classes, not prompts"),
    ],
)
def test_classes_and_prompts_are_looked_at(
    more: dict[str, Any], says: str, tiny_dit: Path, tmp_path: Path
) -> None:
    """As when the model is there: the folder's card tells which classes were trained."""
    request = asked(tiny_dit, **more)
    for work in ("capture", "compare"):
        with pytest.raises(BadInput, match=says):
            of_request(request, work, tmp_path)
    assert look(tiny_dit, tmp_path, **more).fits, "quantizing by rounding draws nothing"
    with pytest.raises(BadInput, match=says):
        look(tiny_dit, tmp_path, **more, methods=["viditq"])


def test_classes_are_those_of_the_pipeline_where_its_folder_has_no_card(tmp_path: Path) -> None:
    """Ids have several names; the shortest is what a loaded model calls them by."""
    bare = Path(shutil.copytree(embedded_models()["dit-emoji"], tmp_path / "bare"))
    (bare / CARD_NAME).unlink()
    index = json.loads((bare / "model_index.json").read_text())
    index["id2label"] = {"0": "apple, red apple", "5": "tabby cat, cat"}
    (bare / "model_index.json").write_text(json.dumps(index))
    subjects = outlined(locate(asked(bare).source), asked(bare)).subjects
    assert subjects is not None
    assert subjects.classes == load_model(str(bare)).classes == {0: "apple", 5: "cat"}


def test_rows_and_decoding_grow_with_the_picture_of_this_vae(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    """Tiny VAEs enlarge by 2 and not by 8: pictures have more rows than those of the published model."""
    small, large = (
        look(pipelines["flux"], tmp_path, methods=["viditq"], size=(side, side), batch_size=1)
        for side in (64, 768)
    )
    assert large.seconds is not None
    assert small.seconds is not None
    assert large.seconds > 50 * small.seconds, "144 times the rows"
    assert large.memory_bytes - small.memory_bytes > 4 * 768**2 * 2 * (8 + 16)


def test_one_number_of_a_size_is_told_as_the_square_that_it_means(
    pipelines: dict[str, Path], tmp_path: Path
) -> None:
    found = look(pipelines["flux"], tmp_path, methods=["rtn"], size="64", batch_size=1)
    assert found.sentence().startswith("predicted, at most, 64 pixels high and 64 wide: ")
    assert look(pipelines["flux"], tmp_path).sentence().startswith("predicted, at most: ")


def test_a_device_that_is_not_here_is_said(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(EnvironmentFault, match="torch sees no GPU here; use --device cpu"):
        look(tiny_dit, tmp_path, device="cuda")


def test_methods_that_learn_say_why_there_is_no_time(tiny_dit: Path, tmp_path: Path) -> None:
    found = look(tiny_dit, tmp_path, methods=["vq4dit"], bits="w4a16")
    assert found.seconds is None
    assert "no time yet: how long vq4dit learns is told when it starts" in found.sentence()
