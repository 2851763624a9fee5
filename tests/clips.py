"""A study of clips without a model: a ball that crosses a sky, and the errors of two methods."""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from dqviz.study import NewRun, Study
from quant.evaluate import evaluate, evaluate_alone
from quant.generation import Generation
from quant.schema import Sample, Sampler

STORED = Path(__file__).parent / "app" / "result.json"
PROMPTS = (
    ("a red ball rolls over a green hill under a wide evening sky, seen from far away", "blurry"),
    ("a lamp swings", None),
)
SAMPLER = Sampler(scheduler="DDIMScheduler", steps=4, guidance=3.0)


def clip(seed: int, frames: int, height: int, width: int) -> np.ndarray:
    """A ball on a gradient, float64 [f, h, w, 3] in [0, 1]."""
    y, x = _grid(height, width)
    rng = np.random.default_rng(seed)
    sky, ball = rng.random((2, 3)) * 0.6 + 0.2
    shown = []
    for t in np.linspace(0, 1, frames):
        inside = (x - 0.15 - 0.7 * t) ** 2 + (y - 0.6 + 0.3 * np.sin(np.pi * t)) ** 2 < 0.02
        picture = sky * (1 - 0.5 * y[..., None]) + 0.08 * np.sin(12 * x + seed)[..., None]
        shown.append(np.where(inside[..., None], ball, picture))
    return np.clip(np.stack(shown), 0, 1)


def _grid(height: int, width: int) -> tuple[np.ndarray, np.ndarray]:
    y, x = np.mgrid[0:height, 0:width]
    return y / height, x / width


def generation(seeds: tuple[int, ...], shape: tuple[int, int, int], noise: float) -> Generation:
    """Clips of these seeds; `noise` adds some that is new in every frame and grows towards the end."""
    samples = tuple(
        Sample(seed=s, prompt=PROMPTS[i % 2][0], negative=PROMPTS[i % 2][1])
        for i, s in enumerate(seeds)
    )
    images = np.stack([clip(seed, *shape) for seed in seeds])
    grown = np.linspace(0.3, 1.6, shape[0]).reshape(1, -1, 1, 1, 1)
    images = images + noise * grown * np.random.default_rng(9).standard_normal(images.shape)
    latents = torch.from_numpy(images).float().mean((2, 3)).reshape(len(seeds), 3, shape[0], 1, 1)
    drawn = torch.from_numpy(np.clip(images, 0, 1)).float()
    return Generation(samples, SAMPLER, drawn, latents, 0.0)


def write_clip_study(
    folder: Path, seeds: tuple[int, ...] = (0, 1, 2), shape: tuple[int, int, int] = (6, 24, 36)
) -> Study:
    """A finished comparison of full precision, RTN and ViDiT-Q on clips [f, h, w]."""
    stored: dict[str, Any] = json.loads(STORED.read_text(encoding="utf-8"))
    model = {**stored["result"]["model"], "title": "Tiny video DiT", "task": "text-to-video"}
    model["classes"] = {}
    study = Study.create(folder, model, {"dqviz": "0"})
    request = {
        **copy.deepcopy(stored["result"]["request"]),
        "seeds": list(seeds),
        "prompts": [text if not no else f"{text} ||| {no}" for text, no in PROMPTS],
        "frames": shape[0],
        "size": list(shape[1:]),
    }
    number = study.begin(request, {})
    reference = generation(seeds, shape, 0.0)
    for template, noise in zip(stored["result"]["runs"], (0.0, 0.06, 0.02)):
        drawn = generation(seeds, shape, noise)
        metrics = evaluate(reference, drawn) if noise else evaluate_alone(drawn)
        record = {**template, **metrics.to_json()}
        record.pop("drift", None)
        study.add_run(
            number,
            NewRun(
                name=record["name"],
                record=record,
                recipe={
                    "samples": [s.to_json() for s in drawn.samples],
                    "sampler": SAMPLER.to_json(),
                },
                seeds=seeds,
                images=(drawn.images * 255).round().byte().numpy(),
            ),
        )
    study.finish(number, "done", [], stored["result"]["ladder"])
    return study
