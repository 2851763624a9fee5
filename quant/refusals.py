"""What a refused value says: pydantic's errors as one sentence of ours."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from pydantic import ValidationError

EXPECTED = "expected "
LONGEST = 80  # characters of a value that are quoted
SHAPES = {
    "tuple_type": "a list",
    "list_type": "a list",
    "dict_type": "names with values",
    "float_type": "a number",
    "float_parsing": "a number",
    "int_type": "a whole number",
    "int_parsing": "a whole number",
    "int_from_float": "a whole number",
    "string_type": "text",
    "bool_type": "true or false",
    "bool_parsing": "true or false",
}


def refusal(error: ValidationError, data: object) -> str:
    """Where in `data`, what was expected there, and what was given.

    Where several forms are allowed, the errors of the form whose outer shape fits are told; where none
    fits, all forms are listed.
    """
    found = error.errors()
    places = [_place(tuple(one["loc"]), data) for one in found]
    same = [k for k, place in enumerate(places) if place[:1] == places[0][:1]]
    deepest = max(len(places[k]) for k in same)
    same = [k for k in same if len(places[k]) == deepest]
    told = _joined(dict.fromkeys(_told(found[k]) for k in same))
    place = places[same[0]]
    given = _given(found[same[0]]["input"], told, at_root=not place)
    return (f"at {'.'.join(map(str, place))}: " if place else "") + told + given


def _place(loc: Sequence[int | str], data: object) -> tuple[int | str, ...]:
    """The steps of `loc` that lead through `data`; pydantic puts names of forms between them."""
    place: list[int | str] = []
    for k, step in enumerate(loc):
        if isinstance(data, Mapping) and step in data:
            data = data[step]
        elif isinstance(data, Sequence) and not isinstance(data, str) and isinstance(step, int):
            data = data[step] if step < len(data) else None
        elif k > 0 or isinstance(data, Mapping):
            continue
        place.append(step)
    return tuple(place)


def _told(error: Mapping[str, Any]) -> str:
    kind = error["type"]
    if kind in SHAPES:
        return EXPECTED + SHAPES[kind]
    if kind == "extra_forbidden":
        return "not known"
    if kind == "missing":
        return f"{error['loc'][-1]} is missing"
    said = error["msg"].removeprefix("Value error, ")
    return said.replace("Input should be ", EXPECTED, 1)


def _joined(told: Iterable[str]) -> str:
    """What is expected, in one sentence."""
    first, *more = told
    return ", or ".join((first, *(one.removeprefix(EXPECTED) for one in more)))


def _given(value: Any, told: str, at_root: bool) -> str:
    """The value at fault; of a whole record only the fields that the sentence names."""
    if at_root and isinstance(value, Mapping):
        words = set(re.findall(r"\w+", told))
        named = [f"{name}={_short(value[name])}" for name in value if name in words]
        return f" (got {', '.join(named)})" if named else ""
    return f" (got {_short(value)})"


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= LONGEST else text[: LONGEST - 3] + "..."
