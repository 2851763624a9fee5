"""Where a run takes place: a GPU, or in a dry run the CPU, where every op is its definition."""

from __future__ import annotations

import gc
import subprocess
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch
from torch import Tensor, nn

from .rows import Rows

CODES = 64
CLOCKS = ("clocks.sm", "clocks.mem", "power.draw", "temperature.gpu")


@dataclass(frozen=True)
class Place:
    """A device with the rows that were made on it."""

    device: torch.device
    rows: Rows
    dry: bool = False
    generator: torch.Generator = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "generator", torch.Generator(self.device).manual_seed(0))

    @property
    def architecture(self) -> str:
        """As tables are filed: ``sm_90``; ``dry`` where there is no GPU."""
        from kernels.measured import architecture

        return "dry" if self.dry else architecture(self.device.index or 0)

    @cached_property
    def lacks_floats(self) -> str | None:
        """Why this device, or that of the rows, has no products of 8-bit floats, or None; a dry run has the definition's."""
        if self.dry:
            return None
        for row in self.rows:
            if row["key"].startswith("call "):
                return row.get("lacks_floats")
        from kernels.quantize_rows.custom_op import float8_obstacle

        return float8_obstacle(self.device)

    def normal(self, *shape: int, dtype: torch.dtype = torch.bfloat16) -> Tensor:
        """Gaussian numbers."""
        return torch.randn(shape, generator=self.generator, device=self.device, dtype=dtype)

    def integers(self, low: int, high: int, *shape: int, dtype: torch.dtype = torch.int8) -> Tensor:
        """Whole numbers, `low` to `high` - 1."""
        return torch.randint(
            low, high, shape, generator=self.generator, device=self.device, dtype=dtype
        )

    def synchronize(self) -> None:
        """Wait for the device; raises what went wrong on it."""
        if not self.dry:
            torch.cuda.synchronize()

    def compiled(self, function: Callable[..., Any], mode: str | None = None) -> Callable[..., Any]:
        """By Inductor, whole; a dry run only traces it."""
        return torch.compile(function, **self._compiling(mode))

    def compile_in_place(self, module: nn.Module, mode: str | None = None) -> None:
        """Likewise a module, which keeps its name and weights."""
        module.compile(**self._compiling(mode))

    def _compiling(self, mode: str | None) -> dict[str, Any]:
        torch._dynamo.config.recompile_limit = CODES  # of one function, for all sizes and formats
        if self.dry:
            return {"fullgraph": True, "backend": "eager"}
        return {"fullgraph": True, "dynamic": False, "mode": mode}

    def graphed(self, function: Callable[[], Any]) -> Callable[[], Any]:
        """The same launches as one CUDA graph, which gives what the recorded call gave; a dry run has none."""
        if self.dry:
            return function
        side = torch.cuda.Stream()
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                function()
        torch.cuda.current_stream().wait_stream(side)
        graph = torch.cuda.CUDAGraph()
        with torch.cuda.graph(graph):
            made = function()

        def replay() -> Any:
            graph.replay()
            return made

        return replay

    def forget(self) -> None:
        """What was compiled and what is no longer used."""
        torch._dynamo.reset()
        gc.collect()
        if not self.dry:
            torch.cuda.empty_cache()

    @cached_property
    def _scrub(self) -> Tensor:
        """1 GiB, many times any cache."""
        return torch.zeros(2**28, device=self.device)

    def cool_caches(self) -> None:
        """Read what nobody needs, so that the next call finds no operand in the cache, nor anything to write back.

        It takes long enough for the host to put the next call in line, so that launching is not timed.
        """
        if not self.dry:
            torch.sum(self._scrub)

    def clocks(self) -> dict[str, str]:
        """What the driver says of clocks, power and temperature now; empty where it says nothing."""
        if self.dry:
            return {}
        asked = ["nvidia-smi", f"--query-gpu={','.join(CLOCKS)}", "--format=csv,noheader"]
        try:
            done = subprocess.run(asked, capture_output=True, text=True, check=True, timeout=20)
        except (OSError, subprocess.SubprocessError):
            return {}
        values = done.stdout.splitlines()[self.device.index or 0].split(", ")
        return dict(zip(CLOCKS, values))

    def doubt(self, check: str) -> str | None:
        """Why times of what the row `check` of the first stage tried are not taken, or None."""
        key = f"correctness/{check}"
        row = next((row for row in self.rows if row["key"] == key), None)
        if row is None:
            return "its numbers were not checked"
        return None if row.get("right") else "its numbers are wrong here"
