"""Synthetic probes of any size, as the real ones write them: what tests of the Methods page read.

study_with_probes(root / "mine", similarity=similarity(), windows=windows())
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from dqviz.study import Study
from quant.probes import list_probes


def similarity(attentions: int = 4, steps: int = 6, seed: int = 0) -> dict[str, Any]:
    """Branches that attend less alike with depth, and more alike over the steps."""
    rng = np.random.default_rng(seed)
    depth, time = np.linspace(0, 1, attentions)[:, None], np.linspace(0, 1, steps)
    cosine = np.clip(0.99 - 0.5 * depth + 0.2 * time * depth, 0, 1)
    cosine = (cosine - 0.004 * rng.random(cosine.shape)).round(4)
    error = (1 - cosine).round(4)
    return {
        "model": "f",
        "sampler": "s",
        "samples": 2,
        "queries": 16,
        "attentions": [f"transformer_blocks.{a}.attn1" for a in range(attentions)],
        "timesteps": np.linspace(999, 40, steps).round(1).tolist(),
        "cosine": cosine.tolist(),
        "minimum": (cosine * 0.9).round(4).tolist(),
        "output_error": {"map": error.tolist(), "output": (1.5 * error).round(4).tolist()},
        "work": [{"rows": 128, "query_key": 4096, "scores": 1024, "rest": 5120 + 2 * a} for a in range(attentions)],
        "network": 20_000 * attentions,
    }  # fmt: skip


def windows(blocks: int = 2, steps: int = 8, cuts: int = 4, seed: int = 0) -> dict[str, Any]:
    """Errors that grow with how far a window reaches, and a little for windows of few steps."""
    rng = np.random.default_rng(seed)
    grid = [steps * k // cuts for k in range(cuts + 1)]
    single = [(s, s + 1) for s in range(steps)]
    intervals = sorted({*itertools.combinations(grid, 2), *single} - {(0, steps)})
    intervals = [(0, steps), *intervals]
    inputs = []
    for block in range(blocks):
        for end, sites, roles, wide in (("attn1", ("to_q", "to_k", "to_v"), ("self_q", "self_k", "self_v"), 1), ("ff.net.2", ("",), ("fc2",), 4)):  # fmt: skip
            name = f"transformer_blocks.{block}.{end}"
            inputs.append(
                {"name": name, "sites": [f"{name}.{s}".rstrip(".") for s in sites], "roles": list(roles), "block": block, "channels": 32 * wide}
            )  # fmt: skip
    base = 0.001 * (1 + rng.random(len(inputs)))
    error = [[float(f"{b * (1 + 0.2 * (e - a) + 1 / (e - a)):.5g}") for a, e in intervals] for b in base]  # fmt: skip
    counts = np.arange(1, steps + 1)
    disk = {"A": 1000 + 100 * counts, "B": 500 + 0 * counts, "C": 200 + 300 * counts}
    more = {"A": 250, "B": 0, "C": 0}
    return {
        "timesteps": np.linspace(999, 40, steps).round(1).tolist(),
        "log_snr": np.linspace(-10, 3, steps).round(3).tolist(),
        "intervals": [list(i) for i in intervals],
        "inputs": inputs,
        "of_inputs": len(inputs),
        "error": error,
        "alpha": [[0.3] * len(intervals) for _ in inputs],
        "rows": 24,
        "memory": {
            "full": 1000,
            "tiers": {t: {"disk": disk[t].tolist(), "resident": (disk[t] + more[t]).tolist()} for t in disk},
            "evidence": "predicted",
        },
    }  # fmt: skip


def _inputs(blocks: int) -> list[dict[str, Any]]:
    """q, k and v's and fc2's input of every block."""
    kinds = (("attn1", ("to_q", "to_k", "to_v"), ("self_q", "self_k", "self_v"), 1), ("ff.net.2", ("",), ("fc2",), 4))  # fmt: skip
    return [
        {"name": f"transformer_blocks.{b}.{end}", "sites": [f"transformer_blocks.{b}.{end}.{s}".rstrip(".") for s in sites], "roles": list(roles), "block": b, "channels": 32 * wide}
        for b in range(blocks)
        for end, sites, roles, wide in kinds
    ]  # fmt: skip


def _windows(steps: int, count: int) -> list[dict[str, Any]]:
    cut = [steps * k // count for k in range(count + 1)]
    return [{"steps": list(range(a, b)), "low": -a, "high": 1.0 - a} for a, b in itertools.pairwise(cut)]  # fmt: skip


def _parts(error: float) -> dict[str, float]:
    return {"error": error, "weight": 0.9 * error, "activation": 0.1 * error}


def alpha(blocks: int = 2, steps: int = 8, count: int = 1, rotation: str = "hadamard") -> dict[str, Any]:  # fmt: skip
    """Curves with their least at 0.2 for the scale and at 0.5 for both, where blocks differ by 0.1."""
    alphas = [k / 10 for k in range(11)]

    def curve(best: float, least: float) -> dict[str, list[float]]:
        parts = [_parts(least * (1 + (a - best) ** 2)) for a in alphas]
        return {part: [p[part] for p in parts] for part in ("error", "weight", "activation")}

    def found(block: int, window: int) -> dict[str, Any]:
        level = 0.001 * (1 + block + window)
        return {
            "plain": _parts(2 * level),
            "rotate": _parts(1.5 * level),
            "scale": curve(0.2, 1.4 * level),
            "both": curve(0.5 + 0.1 * block, level),
        }

    inputs = [{**e, "windows": [found(e["block"], w) for w in range(count)]} for e in _inputs(blocks)]  # fmt: skip
    return {"alphas": alphas, "statistic": "max", "rotation": rotation, "windows": _windows(steps, count), "inputs": inputs}  # fmt: skip


def rotation(blocks: int = 2, steps: int = 8, count: int = 2) -> dict[str, Any]:
    """A search that keeps two factors, then one; greedy is better than Hadamard in even windows only."""

    def found(window: int) -> dict[str, Any]:
        way = {"psi": 4.0, "psi_p99": 5.0, "multiply_adds": 0}
        errors = {"plain": 0.04, "scale": 0.02, "first": 0.012, "greedy": 0.008 if window % 2 == 0 else 0.0125, "hadamard": 0.01}  # fmt: skip
        ways = {key: {**way, **_parts(error)} for key, error in errors.items()}
        ways["greedy"]["multiply_adds"], ways["hadamard"]["multiply_adds"] = 64, 20
        return {
            "alpha": 0.5,
            "block": 32,
            "peaks": [[8.0, 6.0, 5.0, 5.5], [5.0, 4.0, 4.5]],
            "kept": [2, 1],
            "block_absmax": {"before": [1.0, 2.0, 3.0], "after": [2.0, 2.0, 2.0]},
            "ways": ways,
        }

    inputs = [{**e, "windows": [found(w) for w in range(count)]} for e in _inputs(blocks)]
    return {"windows": _windows(steps, count), "inputs": inputs}


def _steps(data: Mapping[str, Any]) -> int:
    """Steps of the sampler that a probe looked at."""
    return len(data["timesteps"]) if "timesteps" in data else sum(len(w["steps"]) for w in data["windows"])  # fmt: skip


def study_with_probes(
    folder: Path,
    *,
    method: str = "trdq",
    bits: str = "w4a8",
    options: Mapping[str, Any] | None = None,
    model: Mapping[str, Any] | None = None,
    **probes: Mapping[str, Any],
) -> Study:
    """A study that holds these probes, by key."""
    described = {"key": "dit-emoji", "ref": "dit-emoji", "title": "A model", "fingerprint": "f", "weights": "w"}  # fmt: skip
    study = Study.create(folder, {**described, **(model or {})}, {"dqviz": "0"})
    for key, data in probes.items():
        card = list_probes()[key]
        record = {
            "probe": key, "title": card.title, "method": method, "bits": bits, "samples": 2,
            "steps": _steps(data), "seconds": 1.0, "device": "a processor",
            "evidence": card.evidence, "outliers": None,
        }  # fmt: skip
        manifest = {"method": method, "bits": bits, "method_options": dict(options or {})}
        study.add_probe(f"{method}-{bits}-{key}", data, manifest, probe=key, method=method, bits=bits, record=record)  # fmt: skip
    return study
