"""Synthetic captures of any size, in the layout that a real one has: what page tests read.

    write_capture(tmp_path / "x.safetensors", blocks=28, steps=50, stages=("input", "scaled", "rotated"))

Numbers are seeded: outlier channels that grow with depth, spread over steps, and calm down from
stage to stage. Inputs per block as in DiT: q, k and v's, the attention's output, fc1, fc2; more on request.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from safetensors.numpy import save_file

from quant import seen_layout as layout
from quant.summaries import STATISTICS, summarize

_INPUTS = (  # end of the input's name, sites as (end of name, role), widening
    ("attn1", (("attn1.to_q", "self_q"), ("attn1.to_k", "self_k"), ("attn1.to_v", "self_v")), 1),
    ("attn1.to_out.0", (("attn1.to_out.0", "self_out"),), 1),
    ("ff.net.0.proj", (("ff.net.0.proj", "fc1"),), 1),
    ("ff.net.2", (("ff.net.2", "fc2"),), 4),
    ("attn2", (("attn2.to_q", "cross_q"),), 1),  # five and six: as where there are prompts
    ("attn2.to_out.0", (("attn2.to_out.0", "cross_out"),), 1),
)


def write_capture(
    path: Path,
    *,
    blocks: int = 2,
    inputs: int = 4,
    steps: int = 5,
    branches: int = 2,
    channels: int = 32,
    tokens: int = 16,
    stages: Sequence[str] = ("input",),
    reservoir: int = 64,
    surface_steps: int | None = None,
    seed: int = 0,
) -> Path:
    """Write a capture of blocks x inputs (1 to 6) tensors; returns its path.

    `stages` beyond "input" are left out for the first input of block 0, as where a method does not
    transform an input. `channels` is the hidden width; fc2's input is four times as wide.
    """
    rng = np.random.default_rng(seed)
    tensors: dict[str, np.ndarray] = {}
    entries: list[dict[str, Any]] = []
    weights: dict[str, list[str]] = {}
    kept = np.unique(np.linspace(0, steps - 1, surface_steps or steps).round()).astype(np.int16)
    summaries = {
        (stage, key): np.full((blocks * inputs, steps, branches), np.nan, np.float32)
        for stage in stages
        for key in STATISTICS
    }
    for index in range(blocks * inputs):
        block, (end, sites, wider) = index // inputs, _INPUTS[index % inputs]
        name, width = f"transformer_blocks.{block}.{end}", channels * wider
        own = list(stages if index else stages[:1])
        names = [f"transformer_blocks.{block}.{site}" for site, _ in sites]
        roles = [role for _, role in sites]
        entries.append(
            {
                "name": name,
                "sites": names,
                "roles": roles,
                "block": block,
                "channels": width,
                "tokens": tokens,
                "group": "content" if roles[0].startswith("cross") else "visual",
                "stages": own,
            }
        )
        for depth, stage in enumerate(own):
            tail = (2 + block) / (1 + 2 * depth)
            fields = _fields(rng, steps, branches, width, tokens, tail, reservoir, kept)
            for field, value in fields.items():
                tensors[layout.activation(stage, name, field)] = value
            for key, value in summarize(fields).items():
                summaries[stage, key][index] = value
            for site in names:
                tensors |= _weight(rng, stage, site, width, channels, tail)
        weights |= dict.fromkeys(names, own)
    tensors |= {layout.summary(*key): value for key, value in summaries.items()}
    described = {
        "manifest": {
            "model": "synthetic",
            "samples": [],
            "options": {},
            "sampler": {"steps": steps},
        },
        "timesteps": [float(t) for t in np.linspace(999, 0, steps).round()],
        "branches": branches,
        "stages": list(stages),
        "inputs": entries,
        "weights": weights,
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    save_file(tensors, path, metadata=layout.metadata(described))
    return path


def _fields(
    rng: np.random.Generator,
    steps: int,
    branches: int,
    width: int,
    tokens: int,
    tail: float,
    reservoir: int,
    kept: np.ndarray,
) -> dict[str, np.ndarray]:
    """The fields of one input at one stage, from `tokens` drawn rows per step and branch."""
    scale = rng.lognormal(0, 0.4, width)
    scale[rng.choice(width, max(1, width // 16), replace=False)] *= tail
    grows = np.linspace(0.5, 1.5, steps)[:, None, None, None]
    rows = min(tokens, 16)
    x = rng.normal(0.1, 1, (steps, branches, rows, width)).astype(np.float32) * scale * grows
    x = x.astype(np.float32)
    counts = np.stack(
        [
            np.histogram(np.clip(part, -4095, 4095), layout.bin_edges())[0]
            for part in x.reshape(steps * branches, -1)
        ]
    )
    each = max(1, reservoir // (steps * branches))
    where = np.stack(
        np.meshgrid(range(steps), range(branches), range(min(each, rows)), indexing="ij")
    )
    at = rng.permutation(where.reshape(3, -1), axis=1)
    tf, cf = -(-rows // 128), -(-width // 128)
    pooled = np.maximum.reduceat(np.abs(x[kept, 0]), np.arange(0, rows, tf), axis=1)
    pooled = np.maximum.reduceat(pooled, np.arange(0, width, cf), axis=2)
    return {
        "minimum": x.min(2),
        "maximum": x.max(2),
        "mean": x.mean(2),
        "second_moment": (x * x).mean(2),
        "mean_abs": np.abs(x).mean((2, 3)),
        "count": np.full((steps, branches), rows, np.int64),
        "histogram": counts.reshape(steps, branches, -1).astype(np.int32),
        "histogram_rows": np.full((steps, branches), rows, np.int64),
        "moments": np.stack([(x.astype(float) ** p).sum((2, 3)) for p in (1, 2, 3, 4)], -1),
        "row_absmax": np.abs(x).max(-1),
        "rows": x[tuple(at)],
        "row_steps": at[0].astype(np.int16),
        "row_branches": at[1].astype(np.int16),
        "surface": pooled.astype(np.float16),
        "surface_steps": kept,
        "surface_factors": np.array([tf, cf], np.int16),
    }


def _weight(
    rng: np.random.Generator, stage: str, site: str, width: int, out: int, tail: float
) -> dict[str, np.ndarray]:
    w = rng.normal(0, 0.05, (out, width)).astype(np.float32)
    w[:, 0] *= tail
    fields = {
        "in_absmax": np.abs(w).max(0),
        "out_absmax": np.abs(w).max(1),
        "histogram": np.histogram(w, layout.bin_edges())[0].astype(np.int64),
        "incoherence": np.array([np.abs(w).max() / np.abs(w).mean()], np.float32),
    }
    return {layout.weight(stage, site, field): value for field, value in fields.items()}
