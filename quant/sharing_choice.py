"""Which attentions share one map between the guidance branches, at which steps, and what that saves.

TR-DQ's attention sharing (released code) takes a fixed set of blocks at every step. Here the set is
chosen per attention and step by what was measured (ours; DiTFastAttn does it by output error), or
the released set is scaled to the model's depth. Plain values: nothing in this module imports torch.
"""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from pydantic import Field, model_validator

from .errors import BadInput
from .schema import HIGHEST, LOWEST, Value, Window

SharingMode = Literal["map", "output"]
Chooser = Literal["similarity", "error", "released"]
EVERY_STEP = (Window(low=LOWEST, high=HIGHEST),)
RELEASED_DEPTH, RELEASED_FIRST, RELEASED_LAST = 28, 8, 6  # blocks {0..7, 22..27} of 28


class SharingRequest(Value):
    """What is asked of attention sharing before anything was measured."""

    mode: SharingMode
    chosen_by: Chooser
    threshold: float = Field(ge=0, le=1)  # least agreement of the branches; not for `released`
    steps: tuple[Window, ...] = EVERY_STEP  # it may hold in these timesteps only

    @property
    def measured(self) -> bool:
        """Whether the choice needs a measured similarity."""
        return self.chosen_by != "released"


class SharingOptions(Value):
    """Options of a method that can share attention; its card lists them."""

    sharing: Literal["off", "map", "output"] = "off"
    sharing_set: Chooser = "similarity"
    sharing_threshold: float = Field(default=0.9, ge=0, le=1)
    sharing_steps: Literal["all"] | tuple[tuple[float, float], ...] = "all"

    @model_validator(mode="after")
    def _ranges(self) -> SharingOptions:
        ranges = () if self.sharing_steps == "all" else self.sharing_steps
        if self.sharing_steps == () or any(low >= high for low, high in ranges):
            raise ValueError(
                "sharing_steps are timestep ranges with the lower end first, e.g. [[300, 1000]], or 'all'"
            )
        for name in ("sharing_set", "sharing_threshold", "sharing_steps"):
            idle = self.sharing == "off" and getattr(self, name) != type(self).model_fields[name].default  # fmt: skip
            if idle:
                raise ValueError(f"{name} does nothing without sharing=map or sharing=output")
        default = type(self).model_fields["sharing_threshold"].default
        if self.sharing_set == "released" and self.sharing_threshold != default:
            raise ValueError("sharing_threshold does nothing with sharing_set=released")
        return self

    @property
    def sharing_request(self) -> SharingRequest | None:
        """What they ask for; None where sharing is off."""
        if self.sharing == "off":
            return None
        steps = EVERY_STEP
        if self.sharing_steps != "all":
            steps = tuple(Window(low=low, high=high) for low, high in self.sharing_steps)
        return SharingRequest(
            mode=self.sharing,
            chosen_by=self.sharing_set,
            threshold=self.sharing_threshold,
            steps=steps,
        )


class Sharing(Value):
    """Each shared attention by its full name, with the timesteps at which it is shared."""

    mode: SharingMode
    attentions: dict[str, tuple[Window, ...]]
    sampler: str | None = None  # fingerprint of the sampler that the similarity was measured with

    def at(self, timestep: float) -> frozenset[str]:
        """The attentions that are shared at a timestep."""
        return frozenset(
            name for name, windows in self.attentions.items() if any(timestep in w for w in windows)
        )


class OutputError(Value):
    """Relative error of the unconditional output, [attentions][steps], by mode."""

    map: tuple[tuple[float, ...], ...]
    output: tuple[tuple[float, ...], ...]

    def of(self, mode: SharingMode) -> tuple[tuple[float, ...], ...]:
        """Of one mode."""
        return self.map if mode == "map" else self.output


class Work(Value):
    """Multiply-adds of one attention for one guidance pair at one step, both branches together."""

    rows: int  # that the query and the key projection get
    query_key: int  # both projections
    scores: int  # Q K^T
    rest: int  # value and output projections, and A V

    def saved(self, mode: SharingMode) -> int:
        """Multiply-adds that a shared map, or a shared output, does without."""
        half = self.query_key + self.scores
        return (half if mode == "map" else half + self.rest) // 2


class Similarity(Value):
    """How alike the two guidance branches attend, measured in full precision; see `quant.similarity`."""

    model: str  # fingerprint
    sampler: str  # fingerprint
    samples: int
    queries: int  # looked at per sample, head and step
    attentions: tuple[str, ...]
    timesteps: tuple[float, ...]
    cosine: tuple[tuple[float, ...], ...]  # [attentions][steps], mean over samples, heads, queries
    minimum: tuple[tuple[float, ...], ...]  # the same of the least similar head of a sample
    output_error: OutputError
    work: tuple[Work, ...]  # [attentions]
    network: int  # multiply-adds of the whole network for one guidance pair at one step


def chosen_sharing(
    request: SharingRequest, attentions: Sequence[str], similarity: Similarity | None
) -> Sharing:
    """The attentions and steps of a request.

    Args:
        request: mode, and how the set is chosen.
        attentions: spatial self-attentions of the model, in order.
        similarity: measured on it; needed unless the released set is asked for.
    """
    if not request.measured:
        names = released_set(attentions)
        return Sharing(mode=request.mode, attentions=dict.fromkeys(names, request.steps))
    if similarity is None:
        raise BadInput(
            f"sharing by {request.chosen_by} needs what quant.similarity.measure_similarity gives "
            "for this model and sampler; measure it, or take the released set"
        )
    if similarity.attentions != tuple(attentions):
        raise BadInput(
            "the similarity of the guidance branches was measured on another model (its attentions "
            f"are {', '.join(similarity.attentions[:2])}, ..); measure it on this one"
        )
    agreement = _agreement(request, similarity)
    allowed = [any(t in window for window in request.steps) for t in similarity.timesteps]
    shared = {
        name: _runs(
            similarity.timesteps,
            [ok and a >= request.threshold for ok, a in zip(allowed, row, strict=True)],
        )
        for name, row in zip(attentions, agreement, strict=True)
    }
    return Sharing(
        mode=request.mode,
        attentions={name: windows for name, windows in shared.items() if windows},
        sampler=similarity.sampler,
    )


def _agreement(request: SharingRequest, similarity: Similarity) -> list[list[float]]:
    """What the threshold is held against, [attentions][steps]: 1 where the branches are equal."""
    if request.chosen_by == "similarity":
        return [list(row) for row in similarity.cosine]
    return [[1 - error for error in row] for row in similarity.output_error.of(request.mode)]


def released_set(attentions: Sequence[str]) -> list[str]:
    """The first 8 and last 6 of 28, as many in proportion of another depth (released code; scaling ours)."""
    count = len(attentions)
    first = round(count * RELEASED_FIRST / RELEASED_DEPTH)
    last = round(count * RELEASED_LAST / RELEASED_DEPTH)
    return [name for i, name in enumerate(attentions) if i < first or i >= count - last]


def _runs(timesteps: Sequence[float], shared: Sequence[bool]) -> tuple[Window, ...]:
    """Half-open ranges that hold exactly the shared timesteps, the noisiest first.

    Borders lie halfway between neighbours. A timestep that a sampler visits twice counts as shared
    when it is both times.
    """
    at: dict[float, bool] = {}
    for timestep, is_shared in zip(timesteps, shared, strict=True):
        at[timestep] = is_shared and at.get(timestep, True)
    visited = sorted(at, reverse=True)
    edges = [HIGHEST, *((a + b) / 2 for a, b in itertools.pairwise(visited)), LOWEST]
    windows: list[Window] = []
    for index, timestep in enumerate(visited):
        if not at[timestep]:
            continue
        if windows and windows[-1].low == edges[index]:
            windows[-1] = Window(low=edges[index + 1], high=windows[-1].high)
        else:
            windows.append(Window(low=edges[index + 1], high=edges[index]))
    return tuple(windows)


def saving(
    sharing: Sharing, timesteps: Sequence[float], work: Mapping[str, Work], network: int
) -> dict[str, Any]:
    """What a set saves over all steps, counted (so: predicted), as shares of what runs without it.

    Args:
        sharing: the set.
        timesteps: of the sampler.
        work: of every spatial self-attention, by name.
        network: multiply-adds of the whole network for one guidance pair at one step.

    `cells` and `of_cells` count (attention, step); `qk_rows` is the share of the rows of spatial
    self-attention's query and key projections, `multiply_adds` of the whole network's.
    """
    shared = [name for timestep in timesteps for name in sharing.at(timestep)]
    every_row = len(timesteps) * sum(each.rows for each in work.values())
    return {
        "cells": len(shared),
        "of_cells": len(timesteps) * len(work),
        "qk_rows": sum(work[name].rows // 2 for name in shared) / every_row,
        "multiply_adds": sum(work[name].saved(sharing.mode) for name in shared)
        / (len(timesteps) * network),
        "evidence": "predicted",
    }
