"""A request as the command line that makes it again."""

from __future__ import annotations

import json
import shlex
from collections.abc import Iterable, Mapping
from typing import Any

from quant.schema import Outliers

from .request import CompareRequest, ModelRequest

_PLAIN = (  # fields whose option has their name
    "plan",
    "steps",
    "guidance",
    "windows",
    "group_size",
    "attention",
    "device",
    "dtype",
    "backend",
    "residency",
    "batch_size",
    "out",
)


def as_command(request: CompareRequest, json_output: bool = False) -> str:
    """The command line that makes this comparison again."""
    defaults = CompareRequest(model="")
    words = ["dqviz", "compare", request.model]
    for method in request.methods:
        words += ["--method", method]
    if request.bits:
        words += ["--bits", ",".join(request.bits)]
    for candidate in request.candidates:
        words += ["--candidate", str(candidate)]
    words += condition_words(request)
    words += ["--seeds", seeds_text(request.seeds)]
    words += option_words(request.options)
    if request.calibration_seeds != defaults.calibration_seeds:
        words += ["--calibration-seeds", seeds_text(request.calibration_seeds)]
    words += source_words(request) + outlier_words(request.outliers)
    for name in _PLAIN:
        value = getattr(request, name)
        if value != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    if not request.ladder:
        words.append("--no-ladder")
    if json_output:
        words.append("--json")
    return shlex.join(words)


def condition_words(request: ModelRequest) -> list[str]:
    """What is drawn and how large: `--prompt`, `--negative`, `--classes`, `--size`, `--frames`."""
    words = [word for prompt in request.prompts for word in ("--prompt", prompt)]
    if request.negative is not None:
        words += ["--negative", request.negative]
    if request.classes:
        words += ["--classes", ",".join(request.classes)]
    if request.size is not None:
        words += ["--size", "x".join(map(str, request.size))]
    if request.frames is not None:
        words += ["--frames", str(request.frames)]
    return words


def source_words(request: ModelRequest) -> list[str]:
    """What goes with the model's name: `--base`, `--lora`, `--offline`."""
    words = [] if request.base is None else ["--base", request.base]
    for lora in request.loras or ():
        words += ["--lora", str(lora)]
    return [*words, "--offline"] if request.offline else words


def option_words(options: Mapping[str, Any]) -> list[str]:
    """`--option k=v` for every option of a method."""
    words: list[str] = []
    for name, value in options.items():
        words += ["--option", f"{name}={value if isinstance(value, str) else json.dumps(value)}"]
    return words


def outlier_words(outliers: Outliers | None) -> list[str]:
    """`--outliers F` with what differs from its defaults."""
    if outliers is None:
        return []
    words = ["--outliers", f"{outliers.factor!r}".removesuffix(".0")]
    if outliers.kind != "static":
        words += ["--outliers-kind", outliers.kind]
    if outliers.seed:
        words += ["--outliers-seed", str(outliers.seed)]
    return words


def seeds_text(seeds: Iterable[int]) -> str:
    """`(0, 1, 2, 8)` -> `0-2,8`: what `parse_seeds` reads back."""
    runs: list[list[int]] = []
    for seed in seeds:
        if runs and seed == runs[-1][1] + 1:
            runs[-1][1] = seed
        else:
            runs.append([seed, seed])
    return ",".join(str(a) if a == b else f"{a}-{b}" for a, b in runs)
