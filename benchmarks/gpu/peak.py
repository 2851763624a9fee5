"""What share of a device's peaks a time is: `quant.roofline`'s floor over it, with data-sheet peaks."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from .place import Place

# What a way multiplies: bits of integers, None for 16 bit. Float8 has no floor in the table.
BITS = {
    "w8a8": "w8a8",
    "w4a8": "w4a8",
    "w4a8, groups of 128": "w4a8",
    "w8a16": "w8a16",
    "w4a16": "w4a16",
    "cuBLAS bf16": None,
    "compiled bf16": None,
}


def known_device(place: Place) -> Any | None:
    """The device of `quant.roofline` that this one is, by its name; None where it is none of them."""
    from quant.roofline import device_named

    return None if place.dry else device_named(torch.cuda.get_device_name(place.device))


def share_of_peak(
    place: Place, times: Mapping[str, Mapping[str, Any]], m: int, k: int, n: int
) -> dict[str, float]:
    """Of one linear layer, by way; empty where the device's peaks are not known."""
    device = known_device(place)
    if device is None:
        return {}
    from quant.roofline import site_seconds
    from quant.schema import parse_bits

    found = {}
    for name, bits in BITS.items():
        if "median_us" in times.get(name, {}):
            least = site_seconds(device, m, k, n, None if bits is None else parse_bits(bits))
            found[name] = round(1e6 * least / times[name]["median_us"], 4)
    return found
