"""The statistics of one calibration, in memory and as one safetensors file."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import safe_open
from torch import Tensor

from . import seen_layout as layout
from .atomic import write_tensors
from .recording import FIELDS, InputStatistics
from .schema import Window
from .stages import WeightStatistics
from .summaries import STATISTICS, summarize

_SUMMARIZED = (
    *("minimum", "maximum", "mean", "second_moment"),
    *("mean_abs", "histogram", "moments", "row_absmax"),
)


@dataclass(frozen=True)
class Seen:
    """The statistics of one calibration, by input name."""

    inputs: Mapping[str, InputStatistics]
    timesteps: tuple[float, ...]
    manifest: dict[str, Any]  # samples, sampler, options, model: what it was recorded from
    entries: tuple[dict[str, Any], ...]  # of every input: its sites, roles, block, width, tokens
    stages: Mapping[str, Mapping[str, InputStatistics]] = field(
        default_factory=dict
    )  # after "input"
    weights: dict[str, dict[str, WeightStatistics]] = field(default_factory=dict)  # by stage, site
    windows: tuple[Window, ...] = ()  # in which the transforms of the stages differ

    def save(self, path: Path) -> None:
        """Write one safetensors file, atomically; see `quant.seen_layout`."""
        by_stage: dict[str, Mapping[str, InputStatistics]] = {
            layout.INPUT: self.inputs,
            **self.stages,
        }
        tensors: dict[str, Tensor] = {}
        for stage, inputs in by_stage.items():
            for name, statistics in inputs.items():
                for f in FIELDS:
                    tensors[layout.activation(stage, name, f)] = getattr(statistics, f).contiguous()
            tensors |= self._summaries(stage, inputs)
        for stage, sites in self.weights.items():
            for site, statistics in sites.items():
                for f, value in vars(statistics).items():
                    tensors[layout.weight(stage, site, f)] = value.contiguous()
        first = next(iter(self.inputs.values()))
        described = {
            "manifest": self.manifest,
            "timesteps": self.timesteps,
            "branches": first.count.shape[1],
            "stages": list(by_stage),
            "inputs": [
                {**entry, "stages": [s for s in by_stage if entry["name"] in by_stage[s]]}
                for entry in self.entries
            ],
            "weights": {
                site: [s for s, sites in self.weights.items() if site in sites]
                for site in self.weights.get(layout.INPUT, {})
            },
            "windows": [window.to_json() for window in self.windows],
        }
        write_tensors(path, tensors, layout.metadata(described), durable=True)

    def _summaries(self, stage: str, inputs: Mapping[str, InputStatistics]) -> dict[str, Tensor]:
        """The small tensors that heatmaps read, one per statistic."""
        shape = next(iter(inputs.values())).count.shape
        found = {
            key: np.full((len(self.entries), *shape), np.nan, np.float32) for key in STATISTICS
        }
        for index, entry in enumerate(self.entries):
            if entry["name"] in inputs:
                statistics = inputs[entry["name"]]
                values = summarize({f: getattr(statistics, f).numpy() for f in _SUMMARIZED})
                for key, value in values.items():
                    found[key][index] = value
        return {layout.summary(stage, key): torch.from_numpy(v) for key, v in found.items()}

    @classmethod
    def load(cls, path: Path, stages: Sequence[str] | None = None) -> Seen:
        """Read what `save` wrote: every stage, or "input" and those that are named."""
        described = layout.describe(path)
        wanted = [s for s in described["stages"] if stages is None or s in (layout.INPUT, *stages)]
        entries = described["inputs"]
        with safe_open(path, framework="pt") as file:
            by_stage = {
                stage: {
                    entry["name"]: InputStatistics(
                        **{
                            f: file.get_tensor(layout.activation(stage, entry["name"], f))
                            for f in FIELDS
                        }
                    )
                    for entry in entries
                    if stage in entry["stages"]
                }
                for stage in wanted
            }
            weights: dict[str, dict[str, WeightStatistics]] = {}
            for site, its_stages in described["weights"].items():
                for stage in (s for s in its_stages if layout.base_of(s) in wanted):
                    read = {
                        f: file.get_tensor(layout.weight(stage, site, f))
                        for f in WeightStatistics.__dataclass_fields__
                    }
                    weights.setdefault(stage, {})[site] = WeightStatistics(**read)
        return cls(
            inputs=by_stage.pop(layout.INPUT),
            timesteps=tuple(described["timesteps"]),
            manifest=described["manifest"],
            entries=tuple({k: v for k, v in entry.items() if k != "stages"} for entry in entries),
            stages=by_stage,
            weights=weights,
            windows=tuple(Window.parse(w, f"a window of {path}") for w in described["windows"]),
        )
