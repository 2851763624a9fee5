"""A capture that the page shows, and what all of the page needs to know of it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from quant.schema import fingerprint

from ...seen_file import SeenFile
from ..exports import Source
from ..view import badge, synthetic

LOGARITHMIC = {"incoherence", "range", "absmax", "std", "kurtosis", "channel_imbalance", "row_spread"}  # fmt: skip
SIGNED = {"mean", "asymmetry"}


@dataclass(frozen=True)
class Opened:
    """A capture that a page shows, and what is said about it."""

    seen: SeenFile
    study: str
    name: str
    model: str  # title
    key: str  # what commands call the model
    created: str = ""
    record: Mapping[str, Any] = field(default_factory=dict)

    @property
    def evidence(self) -> str:
        """What the capture's own record says, wherever the study lies now: measured or recorded."""
        return "recorded" if self.record.get("evidence") == "recorded" else "measured"

    @property
    def badge(self) -> dict[str, str]:
        """Of its statistics; where they were taken when not here."""
        if self.evidence == "measured":
            return badge(
                "measured", "measured", "taken from the full-precision model while it drew"
            )
        device = self.record.get("device")
        where = f" on {device}" if device else ""
        said = f"came with dqviz: taken {self.created[:10]}{where}, not on this machine"
        return badge("recorded", "plain", said)

    @property
    def fingerprint(self) -> str:
        """Of what the capture was recorded from."""
        return fingerprint(dict(self.seen.manifest))

    def source(self, note: str, *more: str) -> Source:
        """For exported files; `more` is further evidence."""
        said = (self.evidence, *more, *filter(None, [synthetic(self.record)]))
        return Source(f"{self.study}-{self.name}", self.fingerprint, said, note)


def stage_label(stage: str) -> str:
    """A stage as people read it."""
    return "before transforms" if stage == "input" else f"after: {stage}"
