"""Seeds as people write them, and ranges that must not overlap."""

from __future__ import annotations

import re
from collections.abc import Iterable

from .errors import BadInput


def parse_seeds(text: str) -> tuple[int, ...]:
    """`0-7` -> 0..7 (both ends included), `1,5,9` -> those, `0-3,8` -> both kinds mixed."""
    seeds: list[int] = []
    for part in text.split(","):
        match = re.fullmatch(r"\s*(\d+)(?:-(\d+))?\s*", part)
        if match is None:
            raise BadInput(
                f"seeds '{text}': '{part.strip()}' is not a seed or a range; write 0-7 or 1,5,9"
            )
        first, last = int(match[1]), int(match[2] or match[1])
        if last < first:
            raise BadInput(
                f"seeds '{text}': the range {part.strip()} runs backwards; write {last}-{first}"
            )
        if last - first >= 100_000 or last >= 2**32:
            raise BadInput(
                f"seeds '{text}': the range {part.strip()} is too large; at most 100000 seeds, each below 2^32"
            )
        seeds.extend(range(first, last + 1))
    duplicate = (
        next((s for i, s in enumerate(seeds) if s in set(seeds[:i])), None)
        if len(set(seeds)) < len(seeds)
        else None
    )
    if duplicate is not None:
        raise BadInput(f"seeds '{text}': seed {duplicate} is named twice; each seed once")
    return tuple(seeds)


def disjoint(
    first: Iterable[int], second: Iterable[int], first_name: str, second_name: str
) -> None:
    """Stop when two seed ranges overlap: a number reported on seeds that were tuned on is worthless."""
    both = sorted(set(first) & set(second))
    if both:
        raise BadInput(
            f"{first_name} and {second_name} share seed {both[0]}; choose disjoint ranges"
        )
