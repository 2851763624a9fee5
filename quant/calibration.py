"""Calibration: statistics of every quantizable input, streamed from one pass of the sampler.

Nothing raw is kept. Memory and file depend on the options and the model's widths, not on the number
of samples (`quant/footprint.py` says how much). Sites that read the same tensor record it once; both
guidance branches are kept apart. With `stages`, the same pass also records what a method's transforms
make of each input. With a checkpoint, a pass that was killed goes on after its last finished batch.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import mkdtemp
from typing import Any

import torch
from safetensors import safe_open
from torch import Tensor, nn

from . import seen_layout as layout
from .atomic import write_tensors
from .clock import RecordingClock
from .errors import BadCheckpoint, BadInput
from .footprint import input_shapes, row_choice, surface_steps
from .generation import StepEvent, generate, timesteps_of
from .mapped import Mapped
from .models import Model
from .recording import InputShape, InputStatistics, OnDisk, Recorder
from .row_choice import Chosen
from .schema import Sample, Sampler
from .seen import Seen
from .seen_layout import CalibrationOptions
from .stages import Stages
from .weight_files import safetensors_header

CHECKPOINT_SHARE = 0.1  # of the time goes into writing checkpoints, at most


def calibrate(
    model: Model,
    samples: Sequence[Sample],
    sampler: Sampler,
    options: CalibrationOptions | None = None,
    *,
    batch_size: int = 8,
    on_step: Callable[[StepEvent], None] | None = None,
    stages: Stages | None = None,
    checkpoint: Path | None = None,
    shapes: Mapping[str, InputShape] | None = None,
    clock: RecordingClock | None = None,
    on_resume: Callable[[int], None] | None = None,
) -> Seen:
    """Draw `samples` in full precision once and record the input of every quantizable site.

    Args:
        model: drawn with as it is; hooks are removed at the end.
        samples: what to draw.
        sampler: scheduler, steps and guidance.
        options: what is recorded, and how much of it.
        batch_size: samples per batch; which rows are sampled does not depend on it.
        on_step: called after every step of every batch; may raise `Cancelled`.
        stages: transforms of a quantized copy of the model, to be recorded in the same pass.
        checkpoint: file that holds the totals of finished batches. A call with the same inputs goes
            on from there and ends with the same statistics; lost is what was not written yet: the
            running batch, and batches that took less than ten times a writing. The caller deletes it.
        shapes: what `input_shapes` found, to save looking again.
        clock: told how long drawing and recording take.
        on_resume: told how many samples the checkpoint held, when it held any.

    Raises BadInput for an input that is not finite, with site and step.
    """
    options = options or CalibrationOptions()
    recording = _Pass(model, tuple(samples), sampler, options, stages, shapes, clock)
    store = None if checkpoint is None else _Checkpoint(checkpoint, recording.manifest)
    done = 0 if store is None else store.restore(recording.recorders)
    if done and on_resume is not None:
        on_resume(done)
    with recording.hooks():
        for first in range(done, len(samples), batch_size):
            batch = tuple(samples[first : first + batch_size])
            recording.begin(first, len(batch))
            drawn = generate(
                model,
                batch,
                sampler,
                batch_size=len(batch),
                on_step=lambda event, first=first: recording.after(event, first, on_step),
            )
            recording.clock.total += drawn.seconds
            if store is not None and first + len(batch) < len(samples):
                store.write(recording.recorders, first + len(batch))
    return recording.finish()


class _Pass:
    """One pass of the sampler with a hook on every recorded input."""

    def __init__(
        self,
        model: Model,
        samples: tuple[Sample, ...],
        sampler: Sampler,
        options: CalibrationOptions,
        stages: Stages | None,
        shapes: Mapping[str, InputShape] | None,
        clock: RecordingClock | None,
    ) -> None:
        if not samples:
            raise BadInput("there is nothing to record: no samples were given; e.g. 8 of them")
        self.model, self.samples, self.sampler = model, samples, sampler
        self.clock = clock or RecordingClock()
        self.branches = model.branches(sampler.guidance)
        self.shapes = input_shapes(model, samples[0], sampler) if shapes is None else shapes
        self.stages = stages or Stages({})
        self.choice = row_choice(options, samples, sampler, self.branches)
        kept = surface_steps(options, self.shapes, self.stages, sampler.steps)
        scratch: dict[object, Tensor] = {}
        self.room = None if model.scratch is None else _room(model.scratch)
        self.recorders = {
            (stage, name): Recorder(
                shape, sampler.steps, self.branches, self.choice, kept, scratch, self.room
            )
            for name, shape in self.shapes.items()
            for stage in (layout.INPUT, *(s.name for s in self.stages.by_input.get(name, ())))
        }
        self._let_go()
        self.manifest = manifest_of(model, samples, sampler, options, self.stages)
        self.timesteps = timesteps_of(sampler)
        self._step = self._first = self._count = 0
        self._pending: list[tuple[str, str, Chosen, int, list[Tensor]]] = []
        self._chosen: dict[int, tuple[Chosen, Chosen]] = {}

    @contextmanager
    def hooks(self) -> Iterator[None]:
        """Record while a block of code draws."""
        handles = [
            self.model.transformer.get_submodule(site).register_forward_pre_hook(self._hook(name))
            for name, site in recorded_sites(self.model).items()
        ]
        try:
            yield
        finally:
            for handle in handles:
                handle.remove()

    def begin(self, first: int, count: int) -> None:
        """The next calls belong to samples first .. first + count - 1, at step 0."""
        self._first, self._count, self._step = first, count, 0
        self._chosen.clear()

    def after(
        self, event: StepEvent, first: int, on_step: Callable[[StepEvent], None] | None
    ) -> None:
        """A step has ended: merge what its hooks measured."""
        with self.clock.recording(self.model.device):
            self._merge()
        self._let_go()
        self._step = event.step + 1
        self._chosen.clear()
        if on_step is not None:
            on_step(replace(event, first=first))

    def finish(self) -> Seen:
        """The statistics of the whole pass."""
        by_stage: dict[str, dict[str, Recorder]] = {}
        for (stage, name), recorder in self.recorders.items():
            by_stage.setdefault(stage, {})[name] = recorder
        found = {stage: self._finished(recorders) for stage, recorders in by_stage.items()}
        return Seen(
            inputs=found[layout.INPUT],
            timesteps=self.timesteps,
            manifest=self.manifest,
            entries=entries_of(self.model, self.shapes),
            stages={s: found[s] for s in self.stages.names if s != layout.INPUT},
            windows=self.stages.windows,
        )

    def _let_go(self) -> None:
        if self.room is not None:
            self.room.let_go()

    def _finished(self, recorders: dict[str, Recorder]) -> Mapping[str, InputStatistics]:
        if self.room is not None:
            return OnDisk(recorders, self.room)
        return {name: recorder.finish() for name, recorder in recorders.items()}

    def _hook(self, name: str) -> Callable[..., None]:
        shape, stages = self.shapes[name], self.stages.by_input.get(name, ())

        def hook(_: nn.Module, args: tuple[Tensor, ...]) -> None:
            with self.clock.recording(args[0].device):
                x = args[0].detach().float()
                per_sample = x.numel() // (x.shape[-1] * self.branches * self._count)
                if x.shape[0] % self.branches or per_sample != shape.tokens:
                    raise BadInput(
                        f"site input {name} has shape {list(x.shape)}, which is not {self.branches} "
                        f"guidance branches of {self._count} samples with {shape.tokens} rows each"
                    )
                x = x.reshape(self.branches, -1, x.shape[-1])
                if not self.model.adapter.conditional_first:
                    x = x.flip(0)
                here, there = self._rows(shape.tokens, x.device)
                window = self.stages.window_at(self.timesteps[self._step])
                for stage in (None, *stages):
                    x = x if stage is None else stage.of_input(x, window)
                    key = layout.INPUT if stage is None else stage.name
                    recorder = self.recorders[key, name]
                    parts = recorder.measure(x, there, self._step, self._first == 0)
                    self._pending.append((key, name, here, x.shape[1], parts))
                if (
                    self.room is not None
                ):  # memory counts for more than moving a step's parts at once
                    self._merge()
                    self.room.let_go()

        return hook

    def _rows(self, tokens: int, device: torch.device) -> tuple[Chosen, Chosen]:
        """The rows to look at in this batch and step: indices on the CPU, and on the device."""
        if tokens not in self._chosen:
            here = self.choice.chosen(self._step, self._first, self._count, tokens)
            there = Chosen(*(value.to(device) for value in vars(here).values()))
            self._chosen[tokens] = here, there
        return self._chosen[tokens]

    def _merge(self) -> None:
        pending, self._pending = self._pending, []
        arrived = _to_host([part for *_, parts in pending for part in parts])
        for stage, name, chosen, rows, parts in pending:
            own, arrived = arrived[: len(parts)], arrived[len(parts) :]
            if not self.recorders[stage, name].merge(own, chosen, self._step, rows):
                raise BadInput(
                    f"{self.model.key}: the {stage} of {name} holds NaN or infinity at step "
                    f"{self._step} (timestep {self.timesteps[self._step]:g}) in samples from seed "
                    f"{self.samples[self._first].seed} on; with 16-bit numbers it may be an overflow: "
                    "try --dtype float32"
                )


def _room(scratch: Path) -> Mapped:
    return Mapped(Path(mkdtemp(prefix="statistics-", dir=scratch)))


class _Checkpoint:
    """The totals of an unfinished pass on disk; files appear complete or not at all."""

    def __init__(self, path: Path, manifest: Mapping[str, Any]) -> None:
        self._path = path
        self._manifest = json.dumps(manifest)
        self._next = 0.0

    def restore(self, recorders: Mapping[tuple[str, str], Recorder]) -> int:
        """Fill the recorders; returns how many samples they hold (0 without a usable checkpoint)."""
        try:
            if not self._path.is_file():
                return 0
            described = safetensors_header(self._path).get("__metadata__") or {}
            if described.get("manifest") != self._manifest:
                return 0
            with safe_open(self._path, framework="pt") as file:
                for key, recorder in recorders.items():
                    for name, value in recorder.state.items():
                        value.copy_(file.get_tensor("/".join((*key, name))))
            return int(described["done"])
        except BadCheckpoint:
            return 0

    def write(self, recorders: Mapping[tuple[str, str], Recorder], done: int) -> None:
        """Keep the totals of the first `done` samples, unless that would take too much of the time."""
        began = time.perf_counter()
        if began < self._next:
            return
        tensors = {
            "/".join((*key, name)): value
            for key, recorder in recorders.items()
            for name, value in recorder.state.items()
        }
        write_tensors(self._path, tensors, {"manifest": self._manifest, "done": str(done)})
        ended = time.perf_counter()
        self._next = ended + (ended - began) / CHECKPOINT_SHARE


def _to_host(parts: list[Tensor]) -> list[Tensor]:
    """The same tensors on the CPU, all moved at once: float64 holds every one of them exactly."""
    if not parts or parts[0].device.type == "cpu":
        return parts
    flat = torch.cat([part.reshape(-1).double() for part in parts]).cpu()
    pieces = flat.split([part.numel() for part in parts])
    return [piece.to(part.dtype).reshape(part.shape) for piece, part in zip(pieces, parts)]


def recorded_sites(model: Model) -> dict[str, str]:
    """One site for every tensor that quantizable sites read: {input name: site that hears it}."""
    return {s.input_of: s.name for s in reversed(model.sites) if s.kept_reason is None}


def entries_of(model: Model, shapes: Mapping[str, InputShape]) -> tuple[dict[str, Any], ...]:
    """What pages need to know of every recorded input, in the order of the model's sites."""
    readers: dict[str, list[Any]] = {}
    for site in model.sites:
        if site.kept_reason is None:
            readers.setdefault(site.input_of, []).append(site)
    return tuple(
        {
            "name": name,
            "sites": [s.name for s in sites],
            "roles": [s.role for s in sites],
            "block": sites[0].block,
            "channels": shapes[name].channels,
            "tokens": shapes[name].tokens,
            "group": sites[0].group,
        }
        for name, sites in readers.items()
    )


def manifest_of(
    model: Model,
    samples: Sequence[Sample],
    sampler: Sampler,
    options: CalibrationOptions,
    stages: Stages | None = None,
) -> dict[str, Any]:
    """What a calibration writes down of its inputs: equal manifests mean equal statistics."""
    return {
        "samples": [s.to_json() for s in samples],
        "sampler": sampler.to_json(),
        "options": options.to_json(),
        "model": model.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
        **({} if stages is None else stages.manifest),
    }
