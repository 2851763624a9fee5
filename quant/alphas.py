"""The option alpha: one number for all inputs, a search for each, or numbers by name.

    alpha=0.4                                        every input
    alpha=search                                     every input the best on its calibration rows
    alpha={"*.ff.net.2": 0.2, "transformer_blocks.0.attn1": 0.6}      these; every other one searched

A name is that of an input or of a site that reads it; `*` stands for any characters. A name without
`*` comes first, then the first pattern that fits.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from fnmatch import fnmatchcase
from typing import Annotated, Literal

from pydantic import AfterValidator

from .errors import BadInput
from .methods.base import Group

Searched = Literal["search"]
SEARCH: Searched = "search"
Given = Searched | float | dict[str, Searched | float]


def _checked(alpha: Given) -> Given:
    """Alpha is a share."""
    values = alpha.values() if isinstance(alpha, dict) else (alpha,)
    if not all(value == SEARCH or 0 <= value <= 1 for value in values):  # type: ignore[operator]
        raise ValueError("alpha lies between 0 and 1, or is 'search'")
    return alpha


Alpha = Annotated[Given, AfterValidator(_checked)]


def alpha_of(alpha: Given, group: Group) -> Searched | float:
    """What the option says of the input that a group reads."""
    if not isinstance(alpha, dict):
        return alpha
    names = group.names
    found = [n for n in alpha if n in names] or [n for n in alpha if _fits(n, names)]
    return alpha[found[0]] if found else SEARCH


def check_names(alpha: Given, inputs: Iterable[Sequence[str]]) -> None:
    """Stop at a name that no quantized input has; each comes with the names of its sites behind it."""
    if not isinstance(alpha, dict):
        return
    listed = list(inputs)
    for name in alpha:
        if not any(_fits(name, names) for names in listed):
            known = [names[0] for names in listed]
            raise BadInput(
                f"alpha names '{name}', which no quantized input or layer has; inputs are "
                f"{', '.join(known[:3])} ({len(known)} in all), and * stands for any characters"
            )


def _fits(pattern: str, names: Iterable[str]) -> bool:
    return any(fnmatchcase(name, pattern) for name in names)
