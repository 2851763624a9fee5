"""What work on a model takes of memory and disk, told from its configuration and file headers alone.

Bytes, at most, beside what this process holds already; W weights, O the pipeline's other parts, S statistics:

    in memory   W + O + the larger of (activations + S) and (S + the method at its largest input + integers)
    streamed    the same with the layers outside the blocks and the largest one inside for W, what one
                step touches for S, and no integers: those, and S, are on disk

A comparison holds integers expanded to float32 beside W, and a copy of W in 16 bit for its ladder.
Activations are counted for the widest input: in, out and what attention or an activation function makes.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from math import ceil
from typing import Any, Literal

import torch

from .adapters import adapter_for
from .cards import load_method, methods
from .effort import Network, group_shapes, method_memory, shapes_of
from .footprint import footprint
from .loading import card_of
from .method_options import parse_options, sharing_asked, unstreamed
from .recording import InputShape
from .schema import Bits, Plan, Sampler
from .seen_layout import CalibrationOptions
from .sizes import Target, size_of, stored_forms
from .sources import TRANSFORMER, Located
from .streaming import empty_transformer, resident_bytes
from .subjects import Subjects
from .unloaded import latent_shape, unloaded
from .weight_files import safetensors_header, stored_dtype

Work = Literal["quantize", "compare", "capture"]
MIB = 2**20
_SLACK = 192 * MIB  # code that is loaded on the way, and small things
_DRAWN = 4  # tensors of a layer's widest input that are held at once while it is drawn


@dataclass(frozen=True)
class Outline:
    """A model that was not loaded."""

    target: Target
    weight_bytes: int  # of the transformer, as it is computed with
    resident_bytes: int  # of it, where its blocks lie on disk
    other_bytes: int  # text encoders, VAE
    shapes: Mapping[str, InputShape]  # of its inputs; empty where the configuration does not tell
    frames: int
    decoded_bytes: int = 0  # what decoding one sample takes
    subjects: Subjects | None = None  # what it can be asked to draw; None where there is no card

    @property
    def network(self) -> Network:
        """For what is counted from shapes."""
        return Network(self.target.sites, self.target.adapter)


@dataclass(frozen=True)
class Need:
    """Bytes, at most."""

    memory_bytes: int
    streamed_bytes: int | None  # None: this work has no such way
    disk_bytes: int  # of what is written and stays
    scratch_bytes: int  # and is removed afterwards, where blocks lie on disk
    why_not: str = ""  # why there is no such way
    parts: Mapping[str, int] = field(default_factory=dict)


@dataclass(frozen=True)
class Run:
    """One method as it is asked for."""

    method: str
    options: Mapping[str, Any]
    bits: Bits | None
    plan: Plan | None = None


def outline(
    located: Located,
    dtype: str,
    device: str,
    size: tuple[int, int] | None = None,
    frames: int | None = None,
) -> Outline:
    """Of a pipeline on this machine; `dtype` and `device` as `load_model` takes them.

    `size` and `frames` are what is drawn, where that is not the card's or the configuration's.
    """
    transformer = empty_transformer(located.config)
    adapter = adapter_for(transformer)
    sites = adapter.sites(transformer)
    stored = stored_dtype(located.files)
    computed = torch.float32 if dtype == "auto" else getattr(torch, dtype)
    if dtype == "auto" and (device == "cuda" or (device == "auto" and torch.cuda.is_available())):
        computed = stored
    numbers = sum(t.numel() for t in transformer.state_dict().values())
    pipe = unloaded(located.folder, transformer)
    card = card_of(located, pipe, adapter)
    sampler = Sampler(
        scheduler="unknown",
        steps=card.steps,
        guidance=card.guidance,
        size=card.size if size is None else size,
        frames=card.frames if frames is None else frames,
    )
    latent = latent_shape(pipe, adapter, sampler)
    asked = (sampler.size, sampler.frames) if latent is None else pipe.published(adapter, latent)
    shapes, apart = shapes_of(transformer, sites, *asked)
    folders = {p.parent for p in located.folder.glob("*/*.safetensors")}
    others = [f for f in folders if f.name != TRANSFORMER]
    return Outline(
        target=Target(
            located.source.ref,
            transformer,
            adapter,
            sites,
            stored,
            None,
            sampler,
        ),
        weight_bytes=numbers * computed.itemsize,
        resident_bytes=resident_bytes(transformer, adapter.blocks(transformer), computed),
        other_bytes=sum(_numbers(file) for f in others for file in f.glob("*.safetensors"))
        * computed.itemsize,
        shapes=shapes,
        frames=apart,
        decoded_bytes=0 if latent is None else pipe.decoded_bytes(latent, computed.itemsize),
        subjects=Subjects.of(card, adapter),
    )


def need(
    model: Outline,
    work: Work,
    runs: Sequence[Run],
    *,
    sampler: Sampler,
    batch_size: int,
    record: CalibrationOptions | None = None,
    copies: int = 0,
) -> Need:
    """What one piece of work takes.

    Args:
        model: what it is done with.
        work: its kind.
        runs: its methods; of a capture, the one whose transforms are recorded.
        sampler: steps and guidance.
        batch_size: samples that are drawn together.
        record: what a calibration records.
        copies: changed copies of the whole transformer beside it (synthetic outliers).
    """
    record = record or CalibrationOptions()
    calibrated = work == "capture" or any(methods()[run.method].needs for run in runs)
    branches = model.network.branches(sampler.guidance)
    widest = max((s.tokens * s.channels for s in model.shapes.values()), default=0)
    shared = any(sharing_asked(run.method, run.options) is not None for run in runs)
    draws = calibrated or shared or work == "compare"
    drawn = _DRAWN * 4 * branches * batch_size * widest if draws else 0
    drawn = max(drawn, batch_size * model.decoded_bytes) if draws else 0
    whole = one = 0
    if calibrated and model.shapes:
        whole = footprint(
            model.network, sampler, record, model.shapes, None, batch_size
        ).memory_bytes
        once = record.model_copy(update={"reservoir": ceil(record.reservoir / sampler.steps)})
        step = sampler.model_copy(update={"steps": 1, "sigmas": None})
        one = footprint(model.network, step, once, model.shapes, None, batch_size).memory_bytes
    method = packed = expanded = 0
    for run in runs:
        options = parse_options(run.method, run.options)
        formats, _ = stored_forms(model.target, run.method, run.bits, run.plan, run.options)
        quantized = {name for name, site in formats.items() if site.quantized}
        groups = group_shapes(model.network, quantized, sampler, record, model.shapes)
        method = max(method, method_memory(load_method(run.method), groups, options))
        size = size_of(model.target, run.method, run.bits, plan=run.plan, options=run.options)
        packed = max(packed, size.total_bytes)
        sites = {s.name: s for s in model.target.sites}
        numbers = sum(sites[n].in_features * sites[n].out_features for n in quantized)
        expanded = max(expanded, 4 * numbers)
    parts = {
        "transformer": model.weight_bytes * (1 + copies),
        "other_parts": model.other_bytes,
        "activations": drawn,
        "statistics": whole,
        "method": method,
        "integers": packed,
    }
    memory = _SLACK + parts["transformer"] + model.other_bytes
    memory += max(drawn + whole, whole + method + packed)
    if work == "compare":
        parts["expanded"] = expanded
        parts["ladder"] = model.weight_bytes // 2
        memory += max(expanded, parts["ladder"])
    streamed, why = _streamed(model, work, runs, copies), ""
    if isinstance(streamed, str):
        streamed, why = None, streamed
    else:
        streamed += max(drawn + one, one + method)
    disk = packed if work == "quantize" else 0
    if work == "capture":
        disk = footprint(model.network, sampler, record, model.shapes, None, batch_size).file_bytes
    scratch = 0 if streamed is None else whole + packed
    return Need(memory, streamed, disk, scratch, why, parts)


def _streamed(model: Outline, work: Work, runs: Sequence[Run], copies: int) -> int | str:
    """Bytes of what is there all the time, or the reason why there is no such way."""
    if work != "quantize":
        return "only dqviz quantize works with blocks on disk"
    if copies:
        return "synthetic outliers change weights all over the network"
    for run in runs:
        reason = unstreamed(run.method, parse_options(run.method, run.options))
        if reason:
            return reason
    return _SLACK + model.resident_bytes + model.other_bytes


def _numbers(file: Any) -> int:
    """How many numbers a file of weights holds."""
    header = safetensors_header(file)
    return sum(
        torch.Size(entry["shape"]).numel() for n, entry in header.items() if n != "__metadata__"
    )
