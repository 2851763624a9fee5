"""A study as the Methods page has it open: one method at some bits, its probes, and a capture."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

from quant.schema import fingerprint

from ...seen_file import InputEntry
from ..activations.opened import Opened as Captured
from ..activations.selection import block_label, kind_label
from ..exports import Source
from ..view import badge, synthetic
from .learned import Learned

BADGES = {
    "measured": badge("measured", "measured", "taken from the full-precision model"),
    "simulated": badge(
        "simulated", "simulated", "recorded rows, rounded to the grid; nothing ran in a model"
    ),
    "predicted": badge("predicted", "simulated", "counted from shapes; nothing ran"),
}


@dataclass(frozen=True)
class View:
    """What a view of the page says about itself."""

    key: str  # also its place in the page, as an anchor
    title: str
    place: int  # smaller is higher on the page
    probe: str | None  # key of the probe that it reads; None: it reads the capture, or a learning
    methods: tuple[str, ...] = ()  # of a view of the capture; a probe's card says it of the others
    keys: tuple[str, ...] = ()  # what it adds to the address
    learned: str | None = None  # key of a learner's measures that it reads; empty: its losses


@dataclass(frozen=True)
class Probed:
    """One probe of a study."""

    name: str
    data: Mapping[str, Any]  # what it measured
    record: Mapping[str, Any]  # what is said of it: evidence, device, samples
    manifest: Mapping[str, Any]  # what it was measured from
    created: str = ""

    @property
    def badge(self) -> dict[str, str]:
        """Of its numbers; where they were made, when not here."""
        evidence = str(self.record.get("evidence") or "simulated")
        if evidence in BADGES:
            return BADGES[evidence]
        device = self.record.get("device")
        where = f" on {device}" if device else ""
        return badge("recorded", "plain", f"came with dqviz: {self.created[:10]}{where}, not here")


@dataclass(frozen=True)
class Window:
    """Steps that share one transform."""

    steps: tuple[int, ...]
    label: str  # `steps 0 to 2`


@dataclass(frozen=True)
class Opened:
    """What a page of one method shows."""

    study: str
    model: str  # title
    key: str  # what commands call the model
    method: str
    bits: str
    titles: Mapping[str, str] = field(default_factory=dict)  # of methods, by key
    captured: Captured | None = None
    probes: Mapping[str, Probed] = field(default_factory=dict)  # the latest, by key of the probe
    earlier: Mapping[str, Sequence[Probed]] = field(default_factory=dict)  # those before them
    model_facts: Mapping[str, Any] = field(default_factory=dict)  # the study's own description
    options: Mapping[str, Any] = field(default_factory=dict)  # of the method, as it was probed
    learns: bool = False  # whether the method does
    learnings: Sequence[Learned] = ()  # of the method at these bits, the latest last
    run: str = ""  # name of the learning that is looked at
    to_learn: Mapping[str, str] = field(default_factory=dict)  # command and link that learn

    @property
    def method_title(self) -> str:
        """`ViDiT-Q`."""
        return self.titles.get(self.method, self.method)

    @property
    def learned(self) -> Learned | None:
        """The learning that is looked at: the one that was chosen, else the latest."""
        named = [found for found in self.learnings if found.name == self.run]
        return (named or list(self.learnings) or [None])[-1]

    def data(self, probe: str) -> Mapping[str, Any]:
        """What a probe measured; KeyError where it was not."""
        return self.probes[probe].data

    def source(self, probe: str, note: str = "") -> Source:
        """For exported files of a view of a probe."""
        found = self.probes[probe]
        said = (str(found.record.get("evidence") or "simulated"), *filter(None, [synthetic(found.record)]))  # fmt: skip
        about = f"{self.study}-{found.name}"
        return Source(about, fingerprint(dict(found.manifest)), said, note)

    @cached_property
    def inputs(self) -> tuple[InputEntry, ...]:
        """Inputs in the order of the blocks: the first probe's that lists them, else the capture's."""
        for probed in self.probes.values():
            if found := probed.data.get("inputs"):
                return tuple(_entry(described) for described in found)
        return () if self.captured is None or self.learns else self.captured.seen.inputs

    @cached_property
    def windows(self) -> tuple[Window, ...]:
        """Windows with a transform of their own: the first probe's that lists them; none: all steps."""
        for probed in self.probes.values():
            found = probed.data.get("windows") or ()
            if found and all(isinstance(w, Mapping) and "steps" in w for w in found):
                return tuple(_window(w["steps"], len(found)) for w in found)
        return ()

    @cached_property
    def labels(self) -> dict[str, str]:
        """Input -> `block 3 · fc2`, each of them once."""
        short = {e.name: f"{block_label(e.block)} · {kind_label(e)}" for e in self.inputs}
        texts = list(short.values())
        return {n: t if texts.count(t) == 1 else f"{t} · {n}" for n, t in short.items()}

    def entry(self, name: str) -> InputEntry:
        """The input of that name."""
        return next(e for e in self.inputs if e.name == name)


def _window(steps: Sequence[int], count: int) -> Window:
    """A window, with its name."""
    first, last = (min(steps), max(steps)) if steps else (0, 0)
    label = f"step {first}" if first == last else f"steps {first} to {last}"
    return Window(tuple(steps), "all steps" if count == 1 else label if steps else "no step")


def _entry(described: Mapping[str, Any]) -> InputEntry:
    """An input as a probe describes it."""
    return InputEntry(
        name=str(described["name"]),
        sites=tuple(described["sites"]),
        roles=tuple(described["roles"]),
        block=described["block"],
        channels=int(described["channels"]),
        tokens=0,
        group="",
        stages=(),
    )
