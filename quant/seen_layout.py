"""The file of a calibration: names of its tensors, its histogram's bins, and nothing that needs torch.

One safetensors file. `S` steps, `B` guidance branches (conditional first), `c` channels:

    activation/STAGE/INPUT/FIELD    see `quant.calibration.InputStatistics` for the fields
    weight/STAGE/SITE/FIELD         in_absmax [i], out_absmax [o], histogram [BINS], incoherence [1]
    summary/STAGE/STATISTIC         [inputs, S, B] float32, NaN where an input lacks the stage

The header's metadata holds JSON: `format`, `manifest`, `timesteps`, `branches`, `stages`, `inputs`
(name, sites, roles, block, channels, tokens, group, stages), `weights` (site -> stages) and, where
transforms differ between windows of steps, `windows` (low and high of each, the noisiest first).
Stage "input" is what the full-precision model feeds the site; others are named by the transform
that made them.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import Field

from .errors import BadCheckpoint
from .schema import Value
from .weight_files import safetensors_header

FORMAT = 2
INPUT = "input"  # the stage that every input has

BINS_PER_OCTAVE = 4
LOWEST_OCTAVE, HIGHEST_OCTAVE = -16, 12  # |x| below 2^-16 is zero, above 2^12 in the last bin
HALF = (HIGHEST_OCTAVE - LOWEST_OCTAVE) * BINS_PER_OCTAVE
BINS = 2 * HALF + 1  # negative, zero, positive

DESCRIBED = ("manifest", "timesteps", "branches", "stages", "inputs", "weights")
OPTIONAL = ("windows",)


class CalibrationOptions(Value):
    """What is recorded, and how much of it."""

    rows: int = Field(default=16, ge=16)  # per (input, step, branch) and sample, for histograms
    row_absmax: int = Field(
        default=64, ge=1
    )  # rows per (input, step, branch) whose maximum is kept
    reservoir: int = Field(
        default=512, ge=1
    )  # rows kept per input, equally many per step and branch
    surface_mib: int = Field(default=64, ge=0)  # for the surfaces of all inputs and stages together
    seed: int = 0


def bin_edges() -> np.ndarray:
    """Edges of the signed log bins, ascending, [BINS + 1] float64; bin `HALF` lies around zero."""
    octaves = LOWEST_OCTAVE + np.arange(HALF + 1) / BINS_PER_OCTAVE
    positive = 2.0**octaves
    return np.concatenate([-positive[::-1], positive])


def activation(stage: str, name: str, field: str) -> str:
    """Name of the tensor that holds one field of one input at one stage."""
    return f"activation/{stage}/{name}/{field}"


def weight(stage: str, site: str, field: str) -> str:
    """Name of the tensor that holds one field of one site's weight at one stage."""
    return f"weight/{stage}/{site}/{field}"


def of_window(stage: str, window: int) -> str:
    """Stage of a weight in a window of steps with transforms of its own; the first goes by the plain name."""
    return stage if window == 0 else f"{stage}, window {window + 1}"


def base_of(stage: str) -> str:
    """The stage without its window."""
    return stage.partition(", window ")[0]


def summary(stage: str, statistic: str) -> str:
    """Name of the small tensor of one statistic, [inputs, S, B]."""
    return f"summary/{stage}/{statistic}"


def metadata(described: Mapping[str, Any]) -> dict[str, str]:
    """What goes into the header; `described` has the keys of `DESCRIBED`."""
    return {
        "format": str(FORMAT),
        **{
            key: json.dumps(described[key], allow_nan=False)
            for key in (*DESCRIBED, *OPTIONAL)
            if key in DESCRIBED or described.get(key)
        },
    }


def describe(path: Path) -> dict[str, Any]:
    """What the header of a calibration says, without a look at its tensors.

    Raises BadCheckpoint for a file that is damaged, not a calibration, or of another format.
    """
    found = safetensors_header(path).get("__metadata__") or {}
    if "manifest" not in found:
        raise BadCheckpoint(f"{path}: not a calibration of ours (no manifest in its header)")
    if found.get("format") != str(FORMAT):
        raise BadCheckpoint(
            f"{path}: calibration format {found.get('format', '1')}, and this version reads {FORMAT}; "
            "capture again"
        )
    try:
        read = {key: json.loads(found[key]) for key in DESCRIBED}
        return read | {key: json.loads(found.get(key, "[]")) for key in OPTIONAL}
    except (KeyError, ValueError) as error:
        raise BadCheckpoint(f"{path}: its header is damaged ({error}); capture again") from None
