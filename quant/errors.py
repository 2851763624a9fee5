"""Every error that a person can meet, with the exit code that the command line gives it.

DQVizError                  1   internal: a bug of ours
├── BadInput                2   what was asked for cannot be done: says what, which value, what would work
│   └── BadCheckpoint       2   a file is corrupt, truncated, or does not match its configuration
├── EnvironmentFault        3   this machine lacks something: disk, memory, network, a backend
└── Cancelled             130   a person stopped the work; what was finished stays
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class DQVizError(Exception):
    """Base of all errors that are shown as one line."""

    exit_code = 1


class BadInput(DQVizError):
    """The request cannot be carried out as given; nothing was written."""

    exit_code = 2


class BadCheckpoint(BadInput):
    """A checkpoint or safetensors file is corrupt, truncated, or disagrees with its configuration."""


class EnvironmentFault(DQVizError):
    """The machine cannot do it now: disk full, memory short, hub unreachable, backend missing."""

    exit_code = 3


class Cancelled(DQVizError):
    """Raised inside a running stage when a person cancels it."""

    exit_code = 130


def unknown(what: str, value: object, choices: Iterable[str], hint: str = "") -> BadInput:
    """Error for a name that is not in `choices`: names the nearest ones, or a few when none is near.

    Example: ``unknown method 'vidit'; nearest: viditq. List them: dqviz methods``
    """
    names = sorted(set(choices))
    near = difflib.get_close_matches(str(value), names, n=3, cutoff=0.5)
    if near:
        works = f"nearest: {', '.join(near)}"
    elif names:
        works = f"known: {', '.join(names[:16])}{', ...' if len(names) > 16 else ''}"
    else:
        works = "none is known here"
    return BadInput(f"unknown {what} '{value}'; {works}" + (f". {hint}" if hint else ""))
