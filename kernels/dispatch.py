"""The one switch between the versions of an op, and the reason for each choice.

``backend`` is ``auto`` (the default), ``simulate`` (the definition, floating point over the same
integers), ``integer`` (integer arithmetic on the CPU) or ``triton`` (a GPU kernel). What a caller
passes wins; else the environment variable ``DQVIZ_BACKEND``; else ``auto``.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from types import ModuleType
from typing import Any, NamedTuple

BACKENDS = ("auto", "simulate", "integer", "triton")
VARIABLE = "DQVIZ_BACKEND"
LARGEST_ROW = 65536  # columns of a row that one program of a GPU kernel holds whole


class CannotRun(RuntimeError):
    """The version that was asked for cannot compute this here: says which, why, and what can."""


class Choice(NamedTuple):
    """The version that runs, and one sentence that says why."""

    backend: str
    why: str


def triton_obstacle(device: Any, columns: int = 0) -> str | None:
    """What prevents Triton kernels on rows of so many columns on a torch device, or None."""
    if columns > LARGEST_ROW:
        return f"rows of {columns} columns; a program holds {LARGEST_ROW} at most"
    if find_spec("triton") is None:
        return "triton is not installed: pip install 'triton>=3.7.1,<3.8' (Linux only)"
    if device.type == "cuda":
        return None
    import torch

    if not torch.cuda.is_available():
        return "no CUDA device"
    return f"the tensors are on {device}, not on a CUDA device"


def requested(backend: str | None = None) -> str:
    """The backend asked for: `backend`, unless None or ``auto``; else ``DQVIZ_BACKEND``; else ``auto``.

    Raises ValueError if the name is none of `BACKENDS`.
    """
    source = "backend"
    if backend in (None, "auto"):
        source, backend = VARIABLE, os.environ.get(VARIABLE) or "auto"
    if backend not in BACKENDS:
        raise ValueError(f"{source} is '{backend}'; use one of {', '.join(BACKENDS)}")
    return backend


@dataclass(frozen=True)
class Op:
    """An op and where its versions live.

    `package` is the op's own module name. `versions` maps a backend to a file of that package;
    ``simulate`` is the definition and always there. All files define the same functions.
    `tolerance` bounds ||y - definition|| / ||definition|| of every other version, for float32 inputs.
    `of` names the inputs that these versions are for, where others have other versions.
    """

    package: str
    versions: Mapping[str, str]
    tolerance: float = 0.0
    of: str = ""
    loaded: dict[str, ModuleType] = field(default_factory=dict, compare=False, repr=False)

    @property
    def name(self) -> str:
        """The op's name without its package."""
        return self.package.rpartition(".")[2]

    def version(self, backend: str) -> ModuleType:
        """Import and return the file that holds one version; kept, because graphs cannot trace an import."""
        if backend not in self.loaded:
            self.loaded[backend] = import_module(f"{self.package}.{self.versions[backend]}")
        return self.loaded[backend]

    def choose(
        self,
        backend: str | None = None,
        *,
        obstacle: Callable[[str], str | None] = lambda backend: None,
        prefer: Callable[[], Choice] | None = None,
    ) -> Choice:
        """Decide which version runs.

        `obstacle(backend)` names what prevents a version, or None; `prefer()` decides for ``auto``.
        An op without integer arithmetic of its own runs its definition under ``integer``; one without a
        Triton version does so where `DQVIZ_BACKEND` alone asks for ``triton``, which is meant for the others.
        Raises CannotRun if the version asked for cannot.
        """
        asked = requested(backend)
        if asked == "auto" and prefer is not None:
            return prefer()
        named = backend not in (None, "auto")
        if asked not in ("auto", *self.versions) and not (asked == "triton" and named):
            return Choice("simulate", f"simulate: no {asked} version; the definition runs")
        if asked in ("auto", "simulate"):
            return Choice(
                "simulate",
                "simulate: asked for" if asked == "simulate" else "simulate: the default",
            )
        if asked not in self.versions:
            what = f"{self.name} of {self.of}" if self.of else self.name
            raise CannotRun(
                f"{what} has no {asked} version; use --backend auto or simulate (or unset {VARIABLE})"
            )
        reason = obstacle(asked)
        if reason is not None:
            raise CannotRun(
                f"{self.name} cannot run with backend {asked}: {reason}; use --backend auto or simulate"
            )
        return Choice(asked, f"{asked}: asked for")

    def chosen(
        self,
        backend: str | None = None,
        obstacle: Callable[[str], str | None] = lambda backend: None,
    ) -> ModuleType:
        """Choose a version, as `choose` does, and import it."""
        return self.version(self.choose(backend, obstacle=obstacle).backend)


class OpModule(ModuleType):
    """Module of one op; calling it calls the function that bears its name."""

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the op's public function."""
        return getattr(self, self.__name__.rpartition(".")[2])(*args, **kwargs)


def callable_module(name: str) -> None:
    """Make the module `name` callable: every op's ``__init__`` ends with this."""
    sys.modules[name].__class__ = OpModule
