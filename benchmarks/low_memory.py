"""Peak memory of quantizing a full-width DiT-XL/2 whose blocks stay on disk, beside its size in float32.

    .venv/bin/python -m benchmarks.low_memory                  (depth 24; 2.6 GB of disk, about 10 minutes)
    .venv/bin/python -m benchmarks.low_memory --depth 28 --methods viditq --out /tmp/low-memory

Weights are random and lie in shards; there is no VAE worth the name, since nothing is decoded but the last
latents. Each method runs in a process of its own: baseline is what it holds with everything imported and no
model, peak the largest resident memory since then (the system's own mark). Mapped pages of files count where
they are resident; the cache of files, which the system gives up when memory is asked for, does not. Writes
low-memory.json and low-memory.md into --out (docs/results).
"""

from __future__ import annotations

import argparse
import datetime
import json
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from dqviz.files import write_json, write_text
from dqviz.machine import MIB, PeakMemory, cores, processor, with_threads

ROOT = Path(__file__).resolve().parent.parent
PARAMETERS = 4  # bytes of a float32
SHARD = 2**29  # bytes of a file


def write_model(folder: Path, *, depth: int, heads: int = 16, size: int = 32) -> int:
    """A pipeline folder of a random DiT with heads of 72 channels, in shards; returns parameters.

    Tensors are made one by one, so that the whole is never in memory.
    """
    import torch
    from diffusers import AutoencoderKL, DDIMScheduler, DiTTransformer2DModel

    from quant.tensor_files import write_in_turn

    with torch.device("meta"):
        network = DiTTransformer2DModel(
            num_attention_heads=heads,
            attention_head_dim=72,
            num_layers=depth,
            in_channels=4,
            out_channels=8,
            sample_size=size,
            patch_size=2,
            num_embeds_ada_norm=1000,
        )
    place = folder / "transformer"
    place.mkdir(parents=True)
    shards: list[dict[str, Any]] = [{}]
    for name, tensor in network.state_dict().items():
        if sum(t.numel() * PARAMETERS for t in shards[-1].values()) > SHARD:
            shards.append({})
        shards[-1][name] = tensor
    files = {}
    for number, held in enumerate(shards, 1):
        file = f"diffusion_pytorch_model-{number:05}-of-{len(shards):05}.safetensors"
        shapes = {name: (tuple(t.shape), torch.float32) for name, t in held.items()}
        write_in_turn(place / file, shapes, lambda name: _drawn(network, name), {"format": "pt"})
        files |= dict.fromkeys(held, file)
    network.save_config(place)
    total = sum(t.numel() for t in network.state_dict().values())
    index = {"metadata": {"total_size": PARAMETERS * total}, "weight_map": files}
    write_json(place / "diffusion_pytorch_model.safetensors.index.json", index)
    torch.manual_seed(1)
    decoder: dict[str, Any] = {
        "down_block_types": ("DownEncoderBlock2D",) * 2,
        "up_block_types": ("UpDecoderBlock2D",) * 2,
        "block_out_channels": (8, 16),
        "norm_num_groups": 4,
        "mid_block_add_attention": False,
    }
    AutoencoderKL(**decoder, layers_per_block=1, latent_channels=4).save_pretrained(folder / "vae")
    DDIMScheduler().save_pretrained(folder / "scheduler")
    described = {
        "_class_name": "DiTPipeline",
        "id2label": {"0": "any"},
        "scheduler": ["diffusers", "DDIMScheduler"],
        "transformer": ["diffusers", "DiTTransformer2DModel"],
        "vae": ["diffusers", "AutoencoderKL"],
    }
    write_json(folder / "model_index.json", described)
    return total


def _drawn(network: Any, name: str) -> Any:
    """Random numbers under which all parts matter."""
    import torch

    shape = network.state_dict()[name].shape
    generator = torch.Generator().manual_seed(len(name) + sum(name.encode()))
    if name == "pos_embed.pos_embed":
        return torch.randn(shape, generator=generator)
    std = 0.3 if "class_embedder" in name else 0.8 / shape[-1] ** 0.5
    return torch.randn(shape, generator=generator) * (std if len(shape) > 1 else 0.02)


def measure_one(given: argparse.Namespace) -> dict[str, Any]:
    """One method in this process."""
    import psutil
    import torch
    from diffusers import DiTPipeline

    import quant.adapters
    import quant.diffusers_quantizer  # all that is imported belongs to the baseline
    from quant.calibration import calibrate
    from quant.cards import load_method, methods
    from quant.checkpoint import save_checkpoint
    from quant.loading import load_model
    from quant.plans import uniform_plan
    from quant.quantization import quantize
    from quant.schema import parse_bits

    quant.adapters.load_all()
    load_method(given.method)
    DiTPipeline.from_pretrained(given.model, transformer=None, use_safetensors=True)
    torch.ones(512, 512) @ torch.ones(512, 512)
    baseline = psutil.Process().memory_info().rss
    seconds: dict[str, float] = {}
    peaks: dict[str, int] = {}

    @contextmanager
    def stage(what: str) -> Iterator[None]:
        began = time.perf_counter()
        with PeakMemory() as memory:
            yield
        assert memory.peak_bytes is not None
        seconds[what] = time.perf_counter() - began
        peaks[what] = memory.peak_bytes - baseline

    out = given.out / given.method
    with tempfile.TemporaryDirectory(dir=given.out) as scratch:
        with stage("open"):
            model = load_model(
                str(given.model), device="cpu", scratch=None if given.whole else Path(scratch)
            )
        seen, sampler = None, model.sampler(given.steps, 1.5, "DDIMScheduler")
        if methods()[given.method].needs:
            samples = model.samples(range(100_000, 100_000 + given.samples), ["0"])
            with stage("calibrate"):
                seen = calibrate(model, samples, sampler, batch_size=given.batch_size)
        plan = uniform_plan(model, parse_bits(given.bits), sampler=sampler)
        with stage("quantize"):
            quantized = quantize(model, given.method, plan, {}, seen)
        with stage("write"):
            size = save_checkpoint(quantized, model, out)
    shutil.rmtree(out)
    return {
        "method": given.method,
        "bits": given.bits,
        "baseline_bytes": baseline,
        "above_baseline_bytes": max(peaks.values()),
        "stages_above_baseline_bytes": peaks,
        "seconds": seconds,
        "size_bytes": size.total_bytes,
    }


def measure(given: argparse.Namespace) -> dict[str, Any]:
    """Every method, each in a process of its own."""
    with tempfile.TemporaryDirectory(dir=given.work) as work:
        folder = Path(work) / "dit-xl-2"
        parameters = write_model(folder, depth=given.depth)
        rows = []
        for method in given.methods.split(","):
            words = ["--model", str(folder), "--method", method, "--out", work]
            for name in ("bits", "samples", "steps", "batch_size"):
                words += [f"--{name.replace('_', '-')}", str(getattr(given, name))]
            run = subprocess.run(
                [sys.executable, "-m", "benchmarks.low_memory", *words],
                cwd=ROOT,
                check=True,
                stdout=subprocess.PIPE,
                text=True,
            )
            rows.append(json.loads(run.stdout.splitlines()[-1]))
            print(rows[-1], file=sys.stderr)
    import torch

    full = PARAMETERS * parameters
    for row in rows:
        row["of_float32"] = row["above_baseline_bytes"] / full
    return {
        "format": 1,
        "model": f"DiT-XL/2 at full width, depth {given.depth}, random weights",
        "parameters": parameters,
        "float32_bytes": full,
        "limit": 0.25,
        "samples": given.samples,
        "steps": given.steps,
        "batch_size": given.batch_size,
        "rows": rows,
        "device": f"{with_threads(processor(), cores())}, float32",
        "torch": torch.__version__,
        "date": datetime.date.today().isoformat(),
        "evidence": "measured",
    }


def markdown(found: dict[str, Any]) -> str:
    """low-memory.md from low-memory.json."""
    lines = [
        "# Peak memory of quantizing a model whose blocks stay on disk",
        "",
        "Written by `python -m benchmarks.low_memory` from `docs/results/low-memory.json`; do not edit.",
        "",
        f"{found['model']}: {found['parameters'] / 1e6:.0f} M parameters, {found['float32_bytes'] / MIB:.0f} MiB in float32, in shards.",
        f"Calibrated on {found['samples']} samples in batches of {found['batch_size']}, {found['steps']} steps, with guidance.",
        f"Measured, once each, on {found['device']}; torch {found['torch']}; {found['date']}. Peak: resident memory above",
        "what the interpreter with all imports holds. Seconds are of the wall, with whatever else ran on the machine.",
        "",
        "| method | peak above baseline, MiB | of float32 | open | calibrate | quantize | write |",
        "|---|---:|---:|---:|---:|---:|---:|",
    ]
    for row in found["rows"]:
        times = [row["seconds"].get(k) for k in ("open", "calibrate", "quantize", "write")]
        told = " | ".join("" if t is None else f"{t:.0f} s" for t in times)
        lines.append(
            f"| {row['method']} {row['bits']} | {row['above_baseline_bytes'] / MIB:.0f} | {100 * row['of_float32']:.1f} % | {told} |"
        )
    most = max(row["of_float32"] for row in found["rows"])
    kept = "within" if most <= found["limit"] else "beyond"
    lines += ["", f"{kept.capitalize()} the limit of {100 * found['limit']:.0f} %.", ""]
    return "\n".join(lines)


def main() -> int:
    """Measure and write; with --model one method, in this process."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--depth", type=int, default=24)
    parser.add_argument("--methods", default="rtn,viditq")
    parser.add_argument("--bits", default="w4a8")
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=8)
    parser.add_argument("--work", type=Path, help="where the model is written; not in memory")
    parser.add_argument("--out", type=Path, default=ROOT / "docs" / "results")
    parser.add_argument("--model", type=Path, help=argparse.SUPPRESS)
    parser.add_argument("--method", help=argparse.SUPPRESS)
    parser.add_argument("--whole", action="store_true", help="with --model: all in memory")
    given = parser.parse_args()
    if given.model is not None:
        print(json.dumps(measure_one(given)))
        return 0
    given.out.mkdir(parents=True, exist_ok=True)
    found = measure(given)
    write_json(given.out / "low-memory.json", found)
    write_text(given.out / "low-memory.md", markdown(found))
    return 0


if __name__ == "__main__":
    sys.exit(main())
