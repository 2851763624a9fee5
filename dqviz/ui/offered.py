"""What the list of runs offers: every method with the bits that it can make, the rest greyed out with the reason."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from typing import Any

from quant.cards import methods
from quant.schema import parse_bits
from quant.support import unsuited, unsupported

PRESETS = ("w8a8", "w6a6", "w4a8", "w4a4", "w8a16", "w4a16", "fp8", "mxfp8", "mxfp4", "nvfp4")


def offered(listed: Sequence[Mapping[str, Any]], adapted: bool = True) -> list[dict[str, Any]]:
    """Of each method its title, its own bits, and by preset why it refuses it.

    Args:
        listed: methods as `list_methods` has them.
        adapted: whether the model's transformer has an adapter.
    """
    found = []
    for entry in listed:
        card = methods()[entry["key"]]
        presets = dict.fromkeys((*PRESETS, *card.bits))
        own = f"; try {', '.join(card.bits)}"
        reasons = {bits: unsupported(card, parse_bits(bits)) for bits in presets}
        found.append(
            {
                **{name: entry[name] for name in ("key", "title", "summary")},
                "bits": list(card.bits),
                "refused": {bits: reason + own for bits, reason in reasons.items() if reason},
                "unsuited": "" if adapted else unsuited(card),
            }
        )
    return found


def offered_json(listed: Sequence[Mapping[str, Any]], adapted: bool = True) -> str:
    """The same for the page."""
    return json.dumps(offered(listed, adapted))
