"""What may be asked of a sweep: its fields, checked without the engine, and the command that asks the same."""

from __future__ import annotations

import re
import shlex
from pathlib import Path
from typing import Any, ClassVar

from quant import cards
from quant.errors import BadInput, unknown
from quant.seeds import disjoint
from quant.sensitivity import list_tiers
from quant.sensitivity.cells import format_of
from quant.support import unfit

from .command_lines import condition_words, option_words, outlier_words, seeds_text, source_words
from .request import ModelRequest, Names, Seeds, check_drawing, check_seeds, check_windows
from .studies import place
from .study_folder import default_folder

SWEEP_SEEDS = tuple(range(200_000, 200_008))
_ADDRESS = re.compile(r"auto|[\w.-]+:\d{1,5}")


class SweepRequest(ModelRequest):
    """One sweep."""

    unwritten: ClassVar[frozenset[str]] = ModelRequest.unwritten | {"ray"}

    tier: str = "gradient"
    bits: Names = ()
    windows: int = 4
    method: str = "rtn"
    options: dict[str, Any] = {}  # of the method
    sites: str | None = None  # a regular expression that finds their names; None: all
    seeds: Seeds = SWEEP_SEEDS
    probes: int = 8  # tier gradient: random directions per sample
    both_ways: bool = False  # tier exact: also everything rounded but the cell
    pictures: bool = True  # tier exact: also the metrics of pictures
    ray: str | None = None  # HOST:PORT of a Ray cluster that measures it, or "auto"


def check_fields(request: SweepRequest) -> None:
    """What can be told without the engine; raises BadInput."""
    if request.tier not in list_tiers():
        raise unknown("tier", request.tier, list_tiers(), f"They are: {', '.join(list_tiers())}")
    if request.method not in cards.methods():
        raise unknown("method", request.method, cards.methods(), "List them: dqviz methods")
    if not request.bits:
        raise BadInput("no bits were given; e.g. --bits 3,4,6,8")
    for bits in request.bits:
        reason = unfit(cards.methods()[request.method], format_of(bits, "weight"), None)
        if reason:
            raise BadInput(f"bits '{bits}': {request.method} {reason}; take other bits")
        format_of(bits, "activation")
    if len(set(request.bits)) < len(request.bits):
        raise BadInput(f"bits '{','.join(request.bits)}': each width once")
    if not 1 <= request.probes <= 4096:
        raise BadInput(f"probes {request.probes} is out of range; 1 to 4096, e.g. --probes 8")
    _check_pattern(request.sites)
    if request.ray is not None and not _ADDRESS.fullmatch(request.ray):
        raise BadInput(
            f"ray '{request.ray}' is no address of a cluster; write HOST:PORT as `ray start` told it, e.g. "
            "--ray 10.0.0.1:6379, or auto for the one that runs here"
        )
    check_seeds(request.seeds)
    disjoint(request.seeds, request.calibration_seeds, "--seeds", "--calibration-seeds")
    check_windows(request.windows, request.steps)
    check_drawing(request)


def title(request: SweepRequest) -> tuple[str, Path]:
    """What a list of jobs calls this sweep, and the study folder that it writes into."""
    check_fields(request)
    model = request.model if request.outliers is None else request.outliers.marked(request.model)
    what = f"sensitivity at {','.join(request.bits)} bits, tier {request.tier}"
    text = f"{model}: {what}, {request.method}"
    return text, place(
        request.out or default_folder(request.model, request.outliers, request.loras)
    )


def as_command(request: SweepRequest) -> str:
    """The command line that makes this sweep again."""
    defaults = SweepRequest(model="")
    words = ["dqviz", "sensitivity", request.model, "--bits", ",".join(request.bits)]
    words += source_words(request) + condition_words(request)
    words += option_words(request.options) + outlier_words(request.outliers)
    for name in ("seeds", "calibration_seeds"):
        if getattr(request, name) != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", seeds_text(getattr(request, name))]
    for name in _PLAIN:
        value = getattr(request, name)
        if value != getattr(defaults, name):
            flag = {"out": "study"}.get(name, name.replace("_", "-"))
            words += [f"--{flag}", str(value)]
    words += ["--both-ways"] if request.both_ways else []
    words += [] if request.pictures else ["--no-pictures"]
    return shlex.join(words)


_PLAIN = (
    "tier",
    "windows",
    "method",
    "sites",
    "probes",
    "steps",
    "guidance",
    "device",
    "dtype",
    "batch_size",
    "ray",
    "out",
)


def _check_pattern(text: str | None) -> None:
    try:
        re.compile(text or "")
    except re.error as error:
        raise BadInput(
            f"sites '{text}' is no regular expression ({error}); e.g. --sites 'attn1|ff'"
        ) from None
