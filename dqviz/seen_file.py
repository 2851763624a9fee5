"""A capture as pages read it: small things at once, everything else a slice at a time, without torch.

Opening costs the header of the file. `summary` reads one small tensor; channels, histograms and
surfaces are sliced out of the file, so that a capture of hundreds of megabytes opens like a small one.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from safetensors import safe_open

from quant import seen_layout as layout
from quant.errors import BadInput
from quant.summaries import STATISTICS, Statistic

__all__ = ["STATISTICS", "InputEntry", "SeenFile", "Statistic", "Surface"]


@dataclass(frozen=True)
class InputEntry:
    """One recorded tensor: who reads it and how large it is."""

    name: str
    sites: tuple[str, ...]  # linear layers that read it; q, k and v share one
    roles: tuple[str, ...]  # one per site
    block: int | None  # None outside the blocks
    channels: int
    tokens: int  # rows per sample and branch
    group: str  # content, temporal, visual, none
    stages: tuple[str, ...]  # "input", then what the method's transforms made of it

    @property
    def role(self) -> str:
        """Role of the first site that reads it."""
        return self.roles[0]


@dataclass(frozen=True)
class Surface:
    """|x| of one sample at one step, max-pooled."""

    values: np.ndarray  # [tokens', channels'] float32
    step: int  # the step it is of: the nearest that was kept
    token_factor: int  # tokens per cell
    channel_factor: int  # channels per cell


class SeenFile:
    """The statistics of one capture, read lazily; threads may share one.

    Unknown names and stages are KeyErrors that say what there is; a step or branch out of range is
    an IndexError; a damaged file is BadCheckpoint.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not self.path.is_file():
            raise BadInput(f"there is no capture file {self.path}; make one: dqviz capture MODEL")
        found = layout.describe(self.path)
        self.manifest: dict[str, Any] = found["manifest"]
        self.timesteps: tuple[float, ...] = tuple(found["timesteps"])
        self.branches: int = found["branches"]
        self.stages: tuple[str, ...] = tuple(found["stages"])
        self.inputs = tuple(
            InputEntry(**{**entry, **{k: tuple(entry[k]) for k in ("sites", "roles", "stages")}})
            for entry in found["inputs"]
        )
        self.windows: tuple[tuple[float, float], ...] = tuple(
            (w["low"], w["high"]) for w in found["windows"]
        )  # in which transforms differ, the noisiest first; empty where they hold for all steps
        self._weights: dict[str, list[str]] = found["weights"]
        self._inputs = {entry.name: entry for entry in self.inputs}
        self._by_site = {site: entry for entry in self.inputs for site in entry.sites}

    @property
    def steps(self) -> int:
        """Denoising steps; step 0 is the noisiest."""
        return len(self.timesteps)

    def entry(self, name: str) -> InputEntry:
        """The input of that name, or the one that the site of that name reads."""
        found = self._inputs.get(name) or self._by_site.get(name)
        if found is None:
            raise KeyError(f"no input '{name}'; there are {_some(self._inputs)}")
        return found

    def summary(self, statistic: str, stage: str = layout.INPUT) -> np.ndarray:
        """One number per input, step and branch: [inputs, steps, branches] float32.

        NaN where an input lacks the stage, and where the statistic is undefined (the drift of step 0).
        """
        if statistic not in STATISTICS:
            raise KeyError(f"no statistic '{statistic}'; there are {', '.join(STATISTICS)}")
        if stage not in self.stages:
            raise KeyError(f"no stage '{stage}'; this capture has {', '.join(self.stages)}")
        return self._file.get_tensor(layout.summary(stage, statistic))

    def channels(
        self, name: str, step: int, branch: int, stage: str = layout.INPUT
    ) -> dict[str, np.ndarray]:
        """`minimum maximum mean second_moment` per channel, each [c], over all rows."""
        at = self._at(step, branch)
        fields = ("minimum", "maximum", "mean", "second_moment")
        return {field: self._slice(name, stage, field)[at] for field in fields}

    def histogram(
        self, name: str, step: int | None = None, branch: int = 0, stage: str = layout.INPUT
    ) -> tuple[np.ndarray, np.ndarray]:
        """Counts over the sampled rows, [BINS] or [steps, BINS] without a step, and edges [BINS + 1]."""
        counts = self._slice(name, stage, "histogram")
        _, branch = self._at(0 if step is None else step, branch)
        found = counts[:, branch] if step is None else counts[self._at(step, branch)]
        return found, layout.bin_edges()

    def surface(self, name: str, step: int, stage: str = layout.INPUT) -> Surface:
        """Tokens x channels of the first sample, conditional branch, at the nearest kept step."""
        step, _ = self._at(step, 0)
        kept = self._tensor(name, stage, "surface_steps")
        index = int(np.abs(kept.astype(int) - step).argmin())
        tokens, channels = self._tensor(name, stage, "surface_factors")
        values = self._slice(name, stage, "surface")[index]
        return Surface(values.astype(np.float32), int(kept[index]), int(tokens), int(channels))

    def rows(
        self, name: str, stage: str = layout.INPUT
    ) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Sampled rows [r, c] with the step and branch of each, both [r]; any first part is a fair sample."""
        fields = ("rows", "row_steps", "row_branches")
        rows, steps, branches = (self._tensor(name, stage, field) for field in fields)
        return rows, steps, branches

    def row_absmax(self, name: str, stage: str = layout.INPUT) -> np.ndarray:
        """Abs-max of sampled rows, [steps, branches, k]."""
        return self._tensor(name, stage, "row_absmax")

    def sampled(self, name: str) -> np.ndarray:
        """How many rows the histograms, kurtosis and share of negatives look at, [steps, branches]."""
        return self._tensor(name, layout.INPUT, "histogram_rows")

    def window(self, step: int) -> int:
        """The window of steps whose transforms are those of this step; 0 where they hold for all."""
        timestep = self.timesteps[self._at(step, 0)[0]]
        return next(
            (k for k, (low, _) in enumerate(self.windows) if timestep >= low),
            max(0, len(self.windows) - 1),
        )

    def weights(self, site: str, stage: str = layout.INPUT, window: int = 0) -> dict[str, Any]:
        """The site's weight [o, i]: `in_absmax` [i], `out_absmax` [o], `histogram` [BINS], `edges`, `incoherence`.

        After a transform, the weight of one window of steps.
        """
        stage = stage if stage == layout.INPUT else layout.of_window(stage, window)
        stages = self._weights.get(site)
        if stages is None:
            raise KeyError(f"no weight '{site}'; there are {_some(self._weights)}")
        if stage not in stages:
            raise KeyError(f"weight {site} has no stage '{stage}'; it has {', '.join(stages)}")
        read = {
            field: self._file.get_tensor(layout.weight(stage, site, field))
            for field in ("in_absmax", "out_absmax", "histogram", "incoherence")
        }
        return {**read, "edges": layout.bin_edges(), "incoherence": float(read["incoherence"][0])}

    @cached_property
    def _file(self) -> Any:
        return safe_open(self.path, framework="np")

    def _key(self, name: str, stage: str, field: str) -> str:
        entry = self.entry(name)
        if stage not in entry.stages:
            raise KeyError(
                f"input {entry.name} has no stage '{stage}'; it has {', '.join(entry.stages)}"
            )
        return layout.activation(stage, entry.name, field)

    def _slice(self, name: str, stage: str, field: str) -> Any:
        return self._file.get_slice(self._key(name, stage, field))

    def _tensor(self, name: str, stage: str, field: str) -> np.ndarray:
        return self._file.get_tensor(self._key(name, stage, field))

    def _at(self, step: int, branch: int) -> tuple[int, int]:
        """A step and a branch that exist; negative ones count from the end."""
        for what, value, size in (("step", step, self.steps), ("branch", branch, self.branches)):
            if not -size <= value < size:
                raise IndexError(f"{what} {value} is out of range; this capture has {size}")
        return step % self.steps, branch % self.branches


def _some(names: Any) -> str:
    listed = list(names)
    return ", ".join(listed[:4]) + (f", ... ({len(listed)} in all)" if len(listed) > 4 else "")
