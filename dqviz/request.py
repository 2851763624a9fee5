"""What a person can ask of compare, checked before any model is loaded."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Annotated, Any, ClassVar, Self

from pydantic import BeforeValidator

from quant import cards
from quant.errors import BadInput, unknown
from quant.schema import AttentionFormat, Bits, Lora, Outliers, Value, parse_bits
from quant.seeds import disjoint, parse_seeds
from quant.sources import Source, parse_lora
from quant.support import unsupported

from .prompts import check_prompt

BACKENDS = ("auto", "simulate", "integer", "triton")
RESIDENCIES = ("speed", "memory")
DEVICES = ("auto", "cpu", "cuda")
DTYPES = ("auto", "float32", "float16", "bfloat16")
CALIBRATION_SEEDS = tuple(range(100_000, 100_008))
MAX_STEPS, MAX_GUIDANCE = 1000, 100.0
MAX_SIDE, MAX_FRAMES = 8192, 1024


def _listed(value: object) -> object:
    """A comma list as people write it, or any sequence."""
    if isinstance(value, str):
        return tuple(part.strip() for part in value.split(",") if part.strip())
    return tuple(value) if isinstance(value, Iterable) else value


def _seeds(value: object) -> object:
    return parse_seeds(value) if isinstance(value, str) else _listed(value)


def _one_or_many(value: object) -> object:
    return (value,) if isinstance(value, str | Path) else value


def _loras(value: object) -> object:
    """`FILE` or `FILE:SCALE`, one or several."""
    if not isinstance(value, str | Iterable):
        return value
    each = [value] if isinstance(value, str) else value
    return tuple(parse_lora(x) if isinstance(x, str) else x for x in each) or None


def _size(value: object) -> object:
    """`480x720`, height first, or one number for both sides."""
    if not isinstance(value, str):
        return tuple(value) if isinstance(value, Iterable) else value
    match = re.fullmatch(r"\s*(\d{1,6})\s*(?:[xX×]\s*(\d{1,6})\s*)?", value)
    if match is None:
        raise BadInput(f"size '{value}' is not understood; write height x width, e.g. 480x720")
    return int(match[1]), int(match[2] or match[1])


Names = Annotated[tuple[str, ...], BeforeValidator(_listed)]
Seeds = Annotated[tuple[int, ...], BeforeValidator(_seeds)]
Size = Annotated[tuple[int, int] | None, BeforeValidator(_size)]


class ModelRequest(Value):
    """What all requests have; what is None or empty comes from the model's card."""

    unwritten: ClassVar[frozenset[str]] = frozenset(
        {"base", "loras", "offline", "negative", "size", "frames"}
    )

    model: str
    base: str | None = None  # the pipeline of a model that is a single file
    loras: Annotated[tuple[Lora, ...] | None, BeforeValidator(_loras)] = None  # fused first
    offline: bool | None = None  # take what the hub's cache holds
    out: Path | None = None  # study folder; None: studies/MODEL
    classes: Names = ()
    prompts: Annotated[tuple[str, ...], BeforeValidator(_one_or_many)] = ()  # see `prompts`
    negative: str | None = None  # of prompts that have none of their own
    steps: int | None = None
    guidance: float | None = None
    size: Size = None  # height, width in pixels
    frames: int | None = None  # of a clip
    calibration_seeds: Seeds = CALIBRATION_SEEDS  # of methods
    outliers: Outliers | None = None  # synthetic ones, put into the model
    device: str = "auto"
    dtype: str = "auto"
    batch_size: int = 8

    @property
    def source(self) -> Source:
        """What to open."""
        return Source(
            ref=self.model, base=self.base, loras=self.loras or (), offline=bool(self.offline)
        )

    @classmethod
    def parse(cls, data: object, where: str = "request") -> Self:
        """Validate plain data from the command line, the app or a file."""
        return super().parse(data, where)


class CompareRequest(ModelRequest):
    """One comparison."""

    unwritten: ClassVar[frozenset[str]] = ModelRequest.unwritten | {"attention"}

    methods: Names = ()
    bits: Names = ()  # one per method, or one for all
    plan: Path | None = None  # JSON file, instead of bits
    candidates: Annotated[tuple[Path, ...], BeforeValidator(_one_or_many)] = ()  # checkpoints
    seeds: Seeds = tuple(range(8))
    options: dict[str, Any] = {}  # "alpha": .5 for all methods that know it, "viditq.alpha" for one
    windows: int = 1
    group_size: int | None = None  # weights: one scale per so many inputs instead of per row
    attention: AttentionFormat | None = None  # scores of spatial self-attention, beside a plan too
    backend: str = "auto"
    residency: str = "speed"
    ladder: bool = True


class RunRequest(Value):
    """One quantized run to make: a method with its bits (None: the plan's) and options."""

    method: str
    bits: Bits | None
    options: dict[str, Any]


def check_request(request: CompareRequest) -> tuple[RunRequest, ...]:
    """Everything about a request that can be told without its model; returns the runs to make."""
    check_fields(request)
    bits = _bits_per_method(request)
    shares = split_options(request.methods, request.options)
    return tuple(
        RunRequest(method=m, bits=b, options=o) for m, b, o in zip(request.methods, bits, shares)
    )


def check_fields(request: CompareRequest) -> None:
    """What can be told without the engine: at once, wherever the request is made."""
    for method in request.methods:
        if method not in cards.methods():
            raise unknown("method", method, cards.methods(), "List them: dqviz methods")
    if not request.methods and not request.candidates:
        raise BadInput(
            "nothing to compare: give --method (dqviz methods lists them), or --candidate FOLDER"
        )
    if request.attention is not None and not request.methods:
        raise BadInput(
            f"--attention {request.attention} goes with a --method, and none is named; a checkpoint keeps what it "
            "was saved with"
        )
    check_seeds(request.seeds)
    disjoint(request.seeds, request.calibration_seeds, "--seeds", "--calibration-seeds")
    check_windows(request.windows, request.steps)
    check_computing(request)
    check_drawing(request)
    _bits_per_method(request)


def check_computing(request: CompareRequest) -> None:
    """Stop at a backend or a mode of holding weights that does not exist."""
    for what, value, known in (
        ("backend", request.backend, BACKENDS),
        ("residency", request.residency, RESIDENCIES),
    ):
        if value not in known:
            raise unknown(what, value, known, f"They are: {', '.join(known)}")


def check_drawing(request: ModelRequest) -> None:
    """What every request says of drawing: seeds, steps, guidance, device, batches."""
    check_seeds(request.calibration_seeds)
    check_sampling(request.steps, request.guidance)
    check_shape(request.size, request.frames)
    for prompt in request.prompts:
        check_prompt(prompt)
    for what, value, known in (
        ("device", request.device, DEVICES),
        ("dtype", request.dtype, DTYPES),
    ):
        if value not in known:
            raise unknown(what, value, known, f"They are: {', '.join(known)}")
    if not 1 <= request.batch_size <= 1024:
        raise BadInput(f"batch size {request.batch_size} is out of range; 1 to 1024")


def check_seeds(seeds: tuple[int, ...]) -> None:
    """Stop at no seeds, a seed out of range, or one that is named twice."""
    if not seeds:
        raise BadInput("no seeds were given; e.g. --seeds 0-7")
    for index, seed in enumerate(seeds):
        if not 0 <= seed < 2**63:
            raise BadInput(f"seed {seed} is out of range; 0 to 2^63 - 1")
        if len(set(seeds)) < len(seeds) and seed in seeds[:index]:
            raise BadInput(f"seed {seed} is named twice; each seed once")


def check_sampling(steps: int | None, guidance: float | None) -> None:
    """Stop at steps or guidance out of range; None is the card's."""
    if steps is not None and not 1 <= steps <= MAX_STEPS:
        raise BadInput(f"steps {steps} is out of range; 1 to {MAX_STEPS}, e.g. --steps 20")
    if guidance is not None and not 0 <= guidance <= MAX_GUIDANCE:
        raise BadInput(
            f"guidance {guidance:g} is out of range; 0 to {MAX_GUIDANCE:g} (1 turns guidance off)"
        )


def check_shape(size: tuple[int, int] | None, frames: int | None) -> None:
    """Stop at a size or a number of frames that no model draws; None is the card's."""
    if size is not None and not all(8 <= side <= MAX_SIDE for side in size):
        raise BadInput(
            f"size {size[0]}x{size[1]} is out of range; 8 to {MAX_SIDE} pixels a side, e.g. --size 512x512"
        )
    if frames is not None and not 1 <= frames <= MAX_FRAMES:
        raise BadInput(f"frames {frames} is out of range; 1 to {MAX_FRAMES}, e.g. --frames 16")


def check_windows(windows: int, steps: int | None) -> None:
    """Stop at a number of step windows that no sampler, or not this one, can be cut into."""
    check_sampling(steps, None)
    most = steps or MAX_STEPS
    if not 1 <= windows <= most:
        raise BadInput(f"windows {windows} is out of range; 1 to {most}, the number of steps")


def _bits_per_method(request: CompareRequest) -> tuple[Bits | None, ...]:
    if request.plan is not None:
        if request.bits:
            raise BadInput(
                f"--plan {request.plan} and --bits {','.join(request.bits)} were both given; "
                "a plan names its own bits, leave --bits out"
            )
        for flag, given in (
            (f"--windows {request.windows}", request.windows != 1),
            (f"--group-size {request.group_size}", request.group_size is not None),
        ):
            if given:
                raise BadInput(
                    f"--plan {request.plan} and {flag} were both given; a plan has windows and formats of its "
                    f"own, leave {flag.split()[0]} out"
                )
        return (None,) * len(request.methods)
    if request.methods and not request.bits:
        raise BadInput("no bits were given; e.g. --bits w4a8, or --plan FILE")
    if len(request.bits) > 1 and len(request.bits) != len(request.methods):
        raise BadInput(
            f"{len(request.bits)} bits ({','.join(request.bits)}) for {len(request.methods)} methods "
            f"({','.join(request.methods) or 'none'}); give one for all, or one per method"
        )
    each = request.bits if len(request.bits) != 1 else request.bits * len(request.methods)
    found = tuple(parse_bits(text) for text in each)
    for method, bits in zip(request.methods, found):
        card = cards.methods()[method]
        reason = unsupported(card, bits)
        if reason:
            raise BadInput(f"bits '{bits}': {method} {reason}; try {', '.join(card.bits)}")
    return found


def split_options(
    methods: tuple[str, ...], options: Mapping[str, Any]
) -> tuple[dict[str, Any], ...]:
    """Hand each option to the methods that know it; `method.name` speaks to one method alone.

    Raises BadInput for an option that none of the methods has.
    """
    from quant.method_options import parse_options  # torch, and only when methods are asked for

    shares: list[dict[str, Any]] = [{} for _ in methods]
    known_cards = cards.methods()
    fields = [
        {
            *cards.load_method(m).Options.model_fields,
            *(("preset",) if known_cards[m].presets else ()),
        }
        for m in methods
    ]
    for name, value in options.items():
        prefix, dot, rest = name.partition(".")
        if dot and prefix not in methods:
            raise unknown("method in option", prefix, methods, f"Option: {name}")
        known = {f for m, f in zip(methods, fields) if not dot or m == prefix for f in f}
        key = rest if dot else name
        if key not in known:
            of = prefix if dot else ", ".join(dict.fromkeys(methods)) or "a candidate"
            raise unknown(f"option of {of}", key, known, "List them: dqviz methods")
        for method, own, share in zip(methods, fields, shares):
            if key in own and (not dot or method == prefix):
                share[key] = value
    for method, share in zip(methods, shares):
        parse_options(method, share)
    return tuple(shares)
