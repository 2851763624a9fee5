"""Full precision's floating-point results on disk, for as long as a comparison may be resumed.

What a study holds of a run is rounded to 8 bits; metrics, traces and the ladder are computed from
floats. With these kept, a resumed comparison says exactly what an uninterrupted one says.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

from quant.schema import Sample, Sampler, fingerprint

from .files import faults

if TYPE_CHECKING:
    from quant.generation import Generation

_TRAJECTORY = ("inputs", "cond", "uncond", "guided")


def save_generation(file: Path, generation: Generation) -> None:
    """Write images, latents and trajectory to safetensors, atomically."""
    from quant.atomic import write_tensors

    tensors = {"images": generation.images, "latents": generation.latents}
    manifest = {"of": _of(generation.samples, generation.sampler)}
    if generation.trajectory is not None:
        manifest["timesteps"] = json.dumps(generation.trajectory.timesteps)
        for name in _TRAJECTORY:
            tensor = getattr(generation.trajectory, name)
            if tensor is not None:
                tensors[name] = tensor
    with faults(file):
        write_tensors(file, {k: t.contiguous() for k, t in tensors.items()}, manifest)


def load_generation(file: Path, samples: tuple[Sample, ...], sampler: Sampler) -> Generation | None:
    """What was saved for these samples; None where there is nothing, or nothing that fits."""
    from safetensors import SafetensorError, safe_open

    from quant.generation import Generation, Trajectory

    try:
        with safe_open(file, framework="pt") as stored:
            manifest = stored.metadata() or {}
            tensors = {name: stored.get_tensor(name) for name in stored.keys()}  # noqa: SIM118
    except (OSError, SafetensorError):
        return None
    if manifest.get("of") != _of(samples, sampler):
        return None
    trajectory = None
    if "timesteps" in manifest:
        parts = {name: tensors.get(name) for name in _TRAJECTORY}
        trajectory = Trajectory(timesteps=tuple(json.loads(manifest["timesteps"])), **parts)  # pyright: ignore[reportArgumentType]
    return Generation(
        samples=samples,
        sampler=sampler,
        images=tensors["images"],
        latents=tensors["latents"],
        seconds=0.0,
        trajectory=trajectory,
    )


def _of(samples: tuple[Sample, ...], sampler: Sampler) -> str:
    return fingerprint({"samples": [s.to_json() for s in samples], "sampler": sampler.to_json()})
