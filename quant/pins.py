"""Pins and ties as people write them: `NAME=w8a8`, `'*.ff.net.2=w8'`, `NAME@2=a8`; `qkv`, or a pattern of layers."""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from difflib import get_close_matches
from fnmatch import fnmatchcase

from .blueprint import SiteFacts
from .decisions import Item, Key, Label
from .errors import BadInput

TIED = ("_q", "_k", "_v")  # endings of roles that `--tie qkv` holds together
NAMED = 5  # layers that an error lists


@dataclass(frozen=True)
class Pinned:
    """Choices that are fixed, and what to tell of how they were written."""

    labels: dict[Key, Label] = field(default_factory=dict)
    remarks: tuple[str, ...] = ()


def label_of(text: str) -> Label:
    """Bits as a choice is labelled: a number, or the name of a format."""
    return int(text) if text.isdigit() else text


_PIN = re.compile(r"(?P<name>.+?)(?:@(?P<window>\d+))?=(?:w(?P<weight>\w+?))?(?:a(?P<input>\w+))?")


def pinned(items: Sequence[Item], texts: Iterable[str]) -> Pinned:
    """Of these items; a later pin of the same item counts, and is remarked where both find the same layers by the same words.

    Raises BadInput for pins that are not understood and patterns that find nothing.
    """
    labels: dict[Key, Label] = {}
    last: dict[tuple[str, str], str] = {}  # bits by pattern and operand
    remarks: list[str] = []
    windows = {item.key.window for item in items if item.key.window is not None}
    for text in texts:
        match = _PIN.fullmatch(text)
        if match is None or not (match["weight"] or match["input"]):
            raise BadInput(
                f"pin '{text}' is not understood; write NAME=w8a8, 'PATTERN=w8' or NAME@2=a8 (of window 2)"
            )
        if match["window"] and match["weight"]:
            raise BadInput(f"pin '{text}': weights have no windows; write {match['name']}=w{match['weight']}")  # fmt: skip
        if match["window"] and int(match["window"]) not in windows:
            raise BadInput(f"pin '{text}': there is no window {match['window']}; 0 to {max(windows)} are")  # fmt: skip
        names = _matching(items, match["name"])
        where = text.partition("=")[0]
        for operand, bits in (("w", match["weight"]), ("a", match["input"])):
            before = last.get((where, operand))
            if bits and before not in (None, bits):
                remarks.append(
                    f"{where} is pinned to {operand}{before} and later to {operand}{bits}; the later pin counts"
                )
            if bits:
                last[where, operand] = bits
        for item in items:
            bits = match["weight"] if item.key.operand == "weight" else match["input"]
            elsewhere = match["window"] and item.key.window != int(match["window"])
            if item.key.site in names and bits and not elsewhere:
                labels[item.key] = label_of(bits)
    return Pinned(labels, tuple(remarks))


def _matching(items: Sequence[Item], pattern: str) -> set[str]:
    """Layers that a pattern finds."""
    names = list(dict.fromkeys(item.key.site for item in items))
    found = {name for name in names if fnmatchcase(name, pattern)}
    if not found:
        near = get_close_matches(pattern.replace("*", ""), names, n=NAMED, cutoff=0.0)
        raise BadInput(f"pin '{pattern}' finds no layer of the table; nearest: {', '.join(near)}")
    return found


def tied(
    sites: Sequence[SiteFacts], windows: int, asked: Iterable[str]
) -> tuple[frozenset[Key], ...]:
    """Items that take the same bits: weights of tied sites, and their inputs window by window."""
    found = []
    for tie in asked:
        for names in _tied(sites, tie):
            found.append(frozenset(Key(name) for name in names))
            for k in range(windows):
                found.append(frozenset(Key(name, "activation", k) for name in names))
    return tuple(found)


def _tied(sites: Sequence[SiteFacts], tie: str) -> list[list[str]]:
    if tie != "qkv":
        found = [s.name for s in sites if fnmatchcase(s.name, tie)]
        if len(found) < 2:
            raise BadInput(
                f"tie '{tie}' finds {len(found)} layers, and holds two or more together; write qkv, or a pattern "
                "such as '*.attn1.*'"
            )
        return [found]
    groups: dict[str, list[str]] = {}
    for site in sites:
        if site.role.endswith(TIED):
            groups.setdefault(site.input_of, []).append(site.name)
    return [names for names in groups.values() if len(names) > 1]
