"""Blocks on disk: the same numbers to the bit, and little in memory."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file
from torch import Tensor

from benchmarks.low_memory import write_model
from quant import streaming, tensor_files
from quant.backend_report import backend_report
from quant.calibration import calibrate
from quant.cards import methods
from quant.checkpoint import save_checkpoint
from quant.errors import BadCheckpoint, BadInput
from quant.generation import generate
from quant.loading import load_model
from quant.models import Model
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits
from tests.kernels.linears import needs_onednn

ROOT = Path(__file__).parents[2]


@pytest.fixture
def scratch(tmp_path: Path) -> Path:
    """An empty folder."""
    folder = tmp_path / "scratch"
    folder.mkdir()
    return folder


def checkpoint(model: Model, method: str, out: Path, **options: Any) -> dict[str, bytes]:
    """Calibrate on one sample, quantize and save; the bytes of every file."""
    seen, sampler = None, model.sampler(2)
    if methods()[method].needs:
        seen = calibrate(model, model.samples([100_000]), sampler)
    made = quantize(model, method, uniform_plan(model, parse_bits("w4a8")), options, seen)
    save_checkpoint(made, model, out)
    return {file.name: file.read_bytes() for file in out.iterdir()}


@pytest.mark.parametrize("family", ["dit", "pixart-sigma", "latte", "sd3", "flux"])
def test_a_checkpoint_is_the_same_to_the_bit(
    family: str, tiny_dit: Path, pipelines: Mapping[str, Path], scratch: Path, tmp_path: Path
) -> None:
    folder = tiny_dit if family == "dit" else pipelines[family]
    whole, streamed = load_model(str(folder)), load_model(str(folder), scratch=scratch)
    assert not streaming.is_streamed(whole.transformer)
    assert streaming.is_streamed(streamed.transformer)
    for method in ("rtn", "viditq") if family == "dit" else ("viditq",):
        one = checkpoint(whole, method, tmp_path / f"{method}-whole")
        other = checkpoint(streamed, method, tmp_path / f"{method}-streamed")
        assert one == other


@pytest.mark.parametrize("method", ["gptq", "svdquant", "ptq4dit", "static-step", "trdq"])
def test_other_methods_too(method: str, tiny_dit: Path, scratch: Path, tmp_path: Path) -> None:
    whole = checkpoint(load_model(str(tiny_dit)), method, tmp_path / "whole")
    streamed = load_model(str(tiny_dit), scratch=scratch)
    assert checkpoint(streamed, method, tmp_path / "streamed") == whole


def test_pictures_of_either_transformer_are_the_same(tiny_dit: Path, scratch: Path) -> None:
    drawn = []
    for model in (load_model(str(tiny_dit)), load_model(str(tiny_dit), scratch=scratch)):
        sampler, samples = model.sampler(2), model.samples([0, 1])
        plan = uniform_plan(model, parse_bits("w4a8"))
        made = quantize(model, "rtn", plan)
        for transformer in (None, made.transformer):
            found = generate(model, samples, sampler, transformer=transformer, record=True)
            drawn.append(found)
    for one, other in zip(drawn[:2], drawn[2:], strict=True):
        assert torch.equal(one.images, other.images)
        assert torch.equal(one.latents, other.latents)
    assert not torch.equal(drawn[0].latents, drawn[1].latents)


def test_one_layer_at_a_time_is_in_memory(
    tiny_dit: Path, scratch: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = load_model(str(tiny_dit), scratch=scratch)
    inside = model.transformer.get_submodule("transformer_blocks")
    held: list[int] = []

    def read(place: tensor_files.Place) -> Tensor:
        held.append(sum(p.nbytes for p in inside.parameters() if not p.is_meta))
        return tensor_files.read(place)

    monkeypatch.setattr(streaming, "read", read)
    generate(model, model.samples([0]), model.sampler(2))
    whole = sum(p.nbytes for p in inside.parameters())
    largest = max(p.nbytes for p in inside.parameters())
    assert len(held) >= 2 * sum(1 for _ in inside.parameters())  # once for each step
    assert max(held) <= largest < whole / 4
    assert all(p.is_meta for p in inside.parameters())


@needs_onednn
@pytest.mark.parametrize("backend", ["auto", "integer", "simulate"])
def test_a_report_says_what_runs_and_changes_nothing(
    backend: str, tiny_dit: Path, scratch: Path
) -> None:
    """It was made of tensors without data, said so, and kept what the next pass then failed with."""
    reports, drawn = [], []
    for model in (load_model(str(tiny_dit)), load_model(str(tiny_dit), scratch=scratch)):
        plan = uniform_plan(model, parse_bits("w4a7"), attention="int8")
        made = quantize(model, "rtn", plan, backend=backend).transformer
        for _ in range(2):
            report = backend_report(made, 32)
            reports.append((report.backend, report.evidence, report.sites))
            assert "meta" not in report.why
            drawn.append(generate(model, model.samples([0]), model.sampler(1), transformer=made))
    assert all(report == reports[0] for report in reports)
    assert all(torch.equal(one.latents, drawn[0].latents) for one in drawn)
    assert all(b.is_meta for b in made.get_submodule("transformer_blocks").buffers())


@needs_onednn
def test_what_is_asked_of_a_layer_on_disk_does_not_outlive_the_question(
    tiny_dit: Path, scratch: Path
) -> None:
    model = load_model(str(tiny_dit), scratch=scratch)
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a7")), backend="integer")
    layer: Any = made.transformer.get_submodule("transformer_blocks.0.attn1.to_q")
    x = torch.randn(2, layer.in_features, generator=torch.Generator().manual_seed(0))
    expected = layer(x)
    layer._ready(0)
    assert torch.equal(layer(x), expected)


@pytest.mark.parametrize("backend", ["auto", "simulate"])
def test_a_layer_on_disk_says_what_runs_once_it_is_read(
    backend: str, tiny_dit: Path, scratch: Path
) -> None:
    """It said that it could not run with tensors on "meta"."""
    answers = []
    for model in (load_model(str(tiny_dit)), load_model(str(tiny_dit), scratch=scratch)):
        made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a7")), backend=backend)
        layer: Any = made.transformer.get_submodule("transformer_blocks.0.attn1.to_q")
        answers.append(layer.why(32))
    (name, why), asked = answers[0], answers[1]
    assert asked == (name, f"{why}; the layer lies on disk and is read when it runs")
    assert streaming.is_on_disk(layer)
    assert layer.device.type == "meta", "what was read for the answer is let go"
    with streaming.present(layer):
        assert layer.why(32) == (name, why)


def test_what_was_made_of_a_layer_on_disk_is_forgotten_when_it_is_read(
    tiny_dit: Path, scratch: Path
) -> None:
    model = load_model(str(tiny_dit), scratch=scratch)
    made = quantize(model, "rtn", uniform_plan(model, parse_bits("w4a8")), backend="simulate")
    layer: Any = made.transformer.get_submodule("transformer_blocks.0.attn1.to_q")
    with streaming.present(layer):
        expected = layer.dequantized_weight().clone()
    assert layer.dequantized_weight().is_meta, "nothing is there to make it of"
    assert layer.prepared
    with streaming.present(layer):
        assert not layer.prepared
        assert torch.equal(layer.dequantized_weight(), expected)


def test_what_a_lora_changes_lies_on_disk_too(tiny_dit: Path, scratch: Path) -> None:
    model = load_model(str(tiny_dit), scratch=scratch)
    names = ["transformer_blocks.1.ff.net.2.weight", "proj_out_2.weight"]
    before = {name: streaming.value(model.transformer, name) for name in names}
    streaming.rewrite(model.transformer, names, lambda _, weight: 2 * weight, scratch)
    for name in names:
        assert torch.equal(streaming.value(model.transformer, name), 2 * before[name])
    assert streaming.value(model.transformer, names[0]).dtype == model.dtype
    assert model.transformer.get_parameter(names[0]).is_meta


@pytest.mark.parametrize(
    ("method", "options", "said"),
    [
        ("adaround", {}, "learns over the whole network"),
        ("viditq", {"fold": "all"}, "fold=all changes weights of other layers"),
    ],
)
def test_what_needs_the_whole_network_is_refused(
    method: str, options: dict[str, Any], said: str, tiny_dit: Path, scratch: Path
) -> None:
    model = load_model(str(tiny_dit), scratch=scratch)
    with pytest.raises(BadInput, match=said):
        quantize(model, method, uniform_plan(model, parse_bits("w4a8")), options)


@pytest.mark.parametrize("fault", ["missing", "extra", "shape", "nan", "shard"])
def test_damaged_files_are_one_line(
    fault: str, tiny_dit: Path, scratch: Path, tmp_path: Path
) -> None:
    folder = tmp_path / "model"
    shutil.copytree(tiny_dit, folder)
    file = folder / "transformer" / streaming.WHOLE
    tensors = load_file(file)
    name = "transformer_blocks.0.ff.net.2.weight"
    if fault == "missing":
        del tensors[name]
    elif fault == "extra":
        tensors["more"] = torch.ones(1)
    elif fault == "shape":
        tensors[name] = tensors[name].T.contiguous()
    elif fault == "nan":
        tensors[name][0, 0] = torch.nan
    save_file(tensors, file, metadata={"format": "pt"})
    if fault == "shard":
        index = {"weight_map": dict.fromkeys(tensors, "diffusion_pytorch_model-2.safetensors")}
        (file.parent / streaming.INDEX).write_text(json.dumps(index))
    kind = BadInput if fault == "nan" else BadCheckpoint
    with pytest.raises(kind, match=name if fault != "extra" and fault != "shard" else "more|-2"):
        load_model(str(folder), scratch=scratch)


def test_files_written_in_turn_are_those_of_safetensors(tmp_path: Path) -> None:
    tensors = {
        "b": torch.randn(3, 5),
        "a": torch.arange(7, dtype=torch.uint8),
        "c.ö": torch.randn(2).half(),
        "empty": torch.empty(0, 4),
        "d": torch.tensor(1.5, dtype=torch.float64),
        "e": torch.tensor([True, False]),
        "f": torch.arange(3),
    }
    save_file(tensors, tmp_path / "theirs", metadata={"format": "pt"})
    shapes = {name: (tuple(t.shape), t.dtype) for name, t in tensors.items()}
    ours = tmp_path / "ours"
    tensor_files.write_in_turn(ours, shapes, tensors.__getitem__, {"format": "pt"})
    assert ours.read_bytes() == (tmp_path / "theirs").read_bytes()
    for name, place in tensor_files.places(ours).items():
        assert torch.equal(tensor_files.read(place), tensors[name])


def test_peak_memory_is_a_quarter_of_the_model(tmp_path: Path) -> None:
    """The small sister of `benchmarks.low_memory`, which measures the full width."""
    folder = tmp_path / "model"
    parameters = write_model(folder, depth=16, heads=8, size=8)
    words = ["--model", str(folder), "--method", "smoothquant", "--out", str(tmp_path)]
    words += ["--samples", "1", "--steps", "1"]
    run = subprocess.run(
        [sys.executable, "-m", "benchmarks.low_memory", *words],
        cwd=ROOT,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    found = json.loads(run.stdout.splitlines()[-1])
    assert found["above_baseline_bytes"] <= 4 * parameters / 4, found
