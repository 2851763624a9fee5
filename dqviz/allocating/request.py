"""What may be asked of an allocation, and the command line that asks it again."""

from __future__ import annotations

import shlex
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Self

from pydantic import BeforeValidator

from quant.errors import BadInput, unknown
from quant.latency import latency_of
from quant.loss_calibration import FEWEST
from quant.mixed_precision import BITS_OF, BUDGETS
from quant.schema import Value
from quant.seeds import disjoint

from ..command_lines import seeds_text
from ..request import DEVICES, DTYPES, Names, Seeds, check_seeds
from ..studies import place

PLAN_SEEDS = tuple(range(300_000, 300_008))
MOST_DRAWN = 200  # splits that the longer of the paper's scans has
MOST_CALIBRATED = 64  # plans; coverage holds each against curves of all others
VERIFY_FROM = 400_000  # first seed of a verification


def _budgets(value: object) -> object:
    """`avg_bits=4` as people write it, or numbers by name."""
    if isinstance(value, Mapping):
        return dict(value)
    found: dict[str, float] = {}
    for text in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
        name, _, number = (part.strip() for part in str(text).partition("="))
        if name in found:
            raise BadInput(f"budget {name} was given twice, {found[name]:g} and {number}; give one")
        try:
            found[name] = float(number)
        except ValueError:
            raise BadInput(
                f"budget '{text}' is not understood; write NAME=NUMBER, e.g. avg_bits=4"
            ) from None
    return found


def _metrics(value: object) -> object:
    """`visual=ssim_loss` as people write it, or metrics by group."""
    if isinstance(value, Mapping):
        return dict(value)
    found: dict[str, str] = {}
    for text in value if isinstance(value, Sequence) and not isinstance(value, str) else [value]:
        group, _, metric = (part.strip() for part in str(text).partition("="))
        if not group or not metric:
            raise BadInput(
                f"group metric '{text}' is not understood; write GROUP=METRIC, e.g. visual=ssim_loss"
            )
        if group in found:
            raise BadInput(
                f"group {group} was given two metrics, {found[group]} and {metric}; give one"
            )
        found[group] = metric
    return found


class AllocateRequest(Value):
    """One plan to choose."""

    study: Path
    sensitivity: str | None = None  # name of a finished sweep; None: the latest
    metric: str | None = (
        None  # whose values are the costs; None: the latent error, if the table has it
    )
    budgets: Annotated[dict[str, float], BeforeValidator(_budgets)] = {}
    pins: Names = ()  # PATTERN=w8a8
    ties: Names = ()  # qkv, or patterns
    latency_device: str = "a100-80gb"  # whose predicted seconds latency_ratio is told by
    gap: float = 1e-4
    limit: float = 10.0  # seconds of the solver
    calibrate: int = 0  # plans near solved ones to draw, that predictions are held against
    groups: bool = False  # bits of every metric group decided apart, by its own metric
    group_metrics: Annotated[dict[str, str], BeforeValidator(_metrics)] = {}  # by group
    scan: int = 0  # splits between groups to draw, of the paper's scan
    refine: bool = False  # take the costs anew beside the solved plan, once
    verify: int = 0  # samples to draw with the plan
    plan_seeds: Seeds = PLAN_SEEDS  # of calibrate and refine
    out: Path | None = None  # JSON file for the plan
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 8
    by_hand: dict[str, Any] | None = None  # of a plan that `pins` fix as a whole: see `Allocations`

    @classmethod
    def parse(cls, data: object, where: str = "request") -> Self:
        """Validate plain data from the command line, the app or a file."""
        return super().parse(data, where)

    @property
    def draws(self) -> bool:
        """Whether anything is drawn, so that the model is needed."""
        return bool(self.calibrate or self.refine or self.verify or self.scan)

    @property
    def verify_seeds(self) -> tuple[int, ...]:
        """Of the verification."""
        return tuple(range(VERIFY_FROM, VERIFY_FROM + self.verify))


def check_fields(request: AllocateRequest) -> None:
    """What can be told without the study; raises BadInput."""
    if not request.budgets:
        raise BadInput("no budget was given; e.g. --budget avg_bits=4")
    for name, bound in request.budgets.items():
        if name not in BUDGETS:
            raise unknown("budget", name, BUDGETS, f"They are: {', '.join(BUDGETS)}")
        if not bound > 0:
            raise BadInput(f"budget {name}={bound:g} is out of range; above 0")
    if request.calibrate and not FEWEST <= request.calibrate <= MOST_CALIBRATED:
        raise BadInput(
            f"calibrate {request.calibrate} is out of range; {FEWEST} to {MOST_CALIBRATED} plans, or 0 for none"
        )
    if not 0 <= request.verify <= 10_000:
        raise BadInput(f"verify {request.verify} is out of range; 0 to 10000 samples")
    _check_groups(request)
    check_seeds(request.plan_seeds)
    disjoint(request.plan_seeds, request.verify_seeds, "--plan-seeds", "the seeds of --verify")
    latency_of(request.latency_device)
    for what, value, known in (
        ("device", request.device, DEVICES),
        ("dtype", request.dtype, DTYPES),
    ):
        if value not in known:
            raise unknown(what, value, known, f"They are: {', '.join(known)}")
    if not 1 <= request.batch_size <= 1024:
        raise BadInput(f"batch size {request.batch_size} is out of range; 1 to 1024")
    if request.out is not None and request.out.exists():
        another = request.out.with_name(f"{request.out.stem}-2.json")
        raise BadInput(
            f"{request.out} is there already; nothing is written over, name a new file, e.g. {another}"
        )


def _check_groups(request: AllocateRequest) -> None:
    if not request.groups:
        for flag, given in (("--scan", request.scan), ("--group-metric", request.group_metrics)):
            if given:
                raise BadInput(f"{flag} is about metric groups; add --groups, or leave it away")
        return
    others = [name for name in request.budgets if name not in BITS_OF.values()]
    if others:
        raise BadInput(
            f"budget {others[0]} cannot be split between metric groups; with --groups give "
            f"{' and '.join(BITS_OF.values())}"
        )
    if request.refine:
        raise BadInput(
            "--refine exchanges bits between all layers by one metric; leave it or --groups away"
        )
    if not 0 <= request.scan <= MOST_DRAWN:
        raise BadInput(f"scan {request.scan} is out of range; 0 to {MOST_DRAWN} splits to draw")


def title(request: AllocateRequest) -> tuple[str, Path]:
    """What a list of jobs calls this, and the study folder that it writes into."""
    check_fields(request)
    return f"{request.study.name}: plan under {said(request.budgets)}", place(request.study)


def said(budgets: Mapping[str, float]) -> str:
    """`avg_bits=4, size_mb=12`."""
    return ", ".join(f"{name}={bound:.10g}" for name, bound in budgets.items())


def as_command(request: AllocateRequest) -> str:
    """The command line that makes this plan again."""
    defaults = AllocateRequest(study=request.study)
    words = ["dqviz", "allocate", "--study", str(request.study)]
    for name, bound in request.budgets.items():
        words += ["--budget", f"{name}={bound!r}".removesuffix(".0")]
    for flag, values in (("--pin", request.pins), ("--tie", request.ties)):
        words += [word for value in values for word in (flag, value)]
    words += ["--groups"] if request.groups else []
    for group, metric in request.group_metrics.items():
        words += ["--group-metric", f"{group}={metric}"]
    if request.plan_seeds != defaults.plan_seeds:
        words += ["--plan-seeds", seeds_text(request.plan_seeds)]
    for name in _PLAIN:
        value = getattr(request, name)
        if value != getattr(defaults, name):
            words += [f"--{name.replace('_', '-')}", str(value)]
    return shlex.join([*words, "--refine"] if request.refine else words)


_PLAIN = (
    "sensitivity",
    "metric",
    "latency_device",
    "gap",
    "limit",
    "scan",
    "calibrate",
    "verify",
    "out",
    "device",
    "dtype",
    "batch_size",
)
