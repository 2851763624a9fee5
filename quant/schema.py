"""The nouns as values: formats, windows, plans, samplers, samples, recipes.

Frozen pydantic models, so that what people and files hand in is checked once, here. Everything is
JSON-serialisable and has a `fingerprint` (sha256 of its canonical JSON) that names caches and
studies. Nothing in this module imports torch.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Callable, Iterable
from typing import Any, ClassVar, Literal, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    ValidationError,
    model_serializer,
    model_validator,
)

from .errors import BadInput
from .refusals import refusal

PLAN_FORMAT = 1

Granularity = Literal["tensor", "row", "group", "sample", "batch", "branch"]
Kind = Literal["int", "fp8", "mxfp8", "mxfp4", "nvfp4", "codebook"]
ACROSS_SAMPLES = ("batch", "branch")  # granularities with one scale for several samples
AttentionFormat = Literal["int8"]
BLOCK_FORMATS = {"mxfp8": (8, 32), "mxfp4": (4, 32), "nvfp4": (4, 16)}  # bits, elements per scale
CODEBOOKS = {2: (256, 4), 3: (64, 2), 4: (256, 2)}  # bits: k vectors at most, of d neighbours each


class Value(BaseModel):
    """A frozen, strictly validated value."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # Fields that came later: left out of the JSON while they are None, so that old fingerprints stay.
    unwritten: ClassVar[frozenset[str]] = frozenset()

    @model_serializer(mode="wrap")
    def _without_what_is_unset(self, written: Callable[[Value], dict[str, Any]]) -> dict[str, Any]:
        found = written(self)
        return {k: v for k, v in found.items() if v is not None or k not in self.unwritten}

    def to_json(self) -> dict[str, Any]:
        """Plain JSON types only; the inverse of `parse`."""
        return self.model_dump(mode="json")

    @property
    def fingerprint(self) -> str:
        """First 16 hex digits of the sha256 of the canonical JSON."""
        return fingerprint(self.to_json())

    @classmethod
    def parse(cls, data: object, where: str) -> Any:
        """Validate `data` that came from a person or a file; `where` names the source in the error."""
        try:
            return cls.model_validate(data)
        except ValidationError as error:
            raise BadInput(f"{where}: {refusal(error, data)}") from None


def fingerprint(data: object) -> str:
    """First 16 hex digits of the sha256 of canonical JSON (sorted keys, no spaces)."""
    text = json.dumps(data, sort_keys=True, separators=(",", ":"), allow_nan=False)
    return hashlib.sha256(text.encode()).hexdigest()[:16]


def listed(numbers: Iterable[int]) -> str:
    """`2, 3 or 4`."""
    *most, last = map(str, numbers)
    return f"{', '.join(most)} or {last}"


class Format(Value):
    """A number format with its granularity.

    `row` means one scale per output channel for a weight and one per token for an activation;
    `group` means one per `group_size` input channels inside a row; `sample`, for activations, means
    one for all tokens of a sample, or with a `group_size` one per so many channels of a sample.
    `batch`, for activations, means one for each token position, shared by all samples of a batch, and
    `branch` the same for each half of the batch, the guidance branches: an ablation, simulated only.
    Activations are scaled dynamically, from what is at hand, unless the format is `static`: then
    their ranges come from the calibration, one per step window, per tensor or per channel group.

    The block formats mxfp8, mxfp4 and nvfp4 (see `quant.blockfloat`) have one scale per block of a
    row. They are simulated: no kernel here computes with them. A `codebook`, for weights, has k vectors
    that stand for d neighbours of a row each (see `quant.vectors`); k and d follow from the bits.
    """

    kind: Kind = "int"
    bits: int = Field(default=8, ge=2, le=8)
    symmetric: bool = True
    granularity: Granularity = "row"
    group_size: int | None = Field(default=None, ge=8)
    static: bool = False

    @model_validator(mode="after")
    def _consistent(self) -> Format:
        if self.granularity == "group" and self.group_size is None:
            raise ValueError("granularity 'group' needs a group_size")
        if self.group_size is not None and self.granularity not in ("group", "sample"):
            raise ValueError("group_size goes with granularity 'group' or 'sample' only")
        if self.kind == "fp8" and (self.bits != 8 or not self.symmetric):
            raise ValueError("fp8 has 8 bits and is symmetric")
        if self.kind in BLOCK_FORMATS:
            bits, block = BLOCK_FORMATS[self.kind]
            if (self.bits, self.group_size, self.symmetric) != (bits, block, True):
                raise ValueError(f"{self.kind} is symmetric, with {bits} bits in groups of {block}")
        if self.kind == "codebook":
            if self.bits not in CODEBOOKS:
                raise ValueError(f"codebooks have {listed(CODEBOOKS)} bits")
            if not self.symmetric or self.granularity != "tensor":
                raise ValueError("a codebook is one per tensor, and has no zero point")
        if self.granularity in ACROSS_SAMPLES and self.kind != "int":
            raise ValueError(f"granularity '{self.granularity}' is for integers")
        if self.granularity in ("group", "sample") and self.kind == "fp8":
            raise ValueError("fp8 is scaled per tensor or per row; in blocks it is mxfp8")
        if self.static and (self.kind != "int" or self.granularity not in ("tensor", "group")):
            raise ValueError("static ranges are for integers, per tensor or per group")
        return self

    @classmethod
    def of_kind(cls, kind: Kind) -> Format:
        """A floating-point format as it is defined: fp8 per row, the others with their own blocks."""
        if kind not in BLOCK_FORMATS:
            return cls(kind=kind)
        bits, block = BLOCK_FORMATS[kind]
        return cls(kind=kind, bits=bits, granularity="group", group_size=block)

    @classmethod
    def of_codebook(cls, bits: int) -> Format:
        """Vector quantization with one codebook for the whole weight."""
        return cls(kind="codebook", bits=bits, granularity="tensor")

    def __str__(self) -> str:
        if self.kind == "codebook":
            return f"codebook of {self.bits} bits"
        name = f"int{self.bits}" if self.kind == "int" else self.kind
        sign = "" if self.symmetric else " asymmetric"
        size = f" of {self.group_size}" if self.group_size else ""
        return f"{'static ' if self.static else ''}{name}{sign} per {self.granularity}{size}"


class Bits(Value):
    """Bit widths as people write them: `w4a8`, `w4a16` (weights only), `fp8`, `mxfp4`."""

    weight: int = Field(ge=2, le=8)
    activation: int | None = Field(ge=2, le=8)  # None: activations stay in floating point
    kind: Kind = "int"  # of both sides

    def __str__(self) -> str:
        return f"w{self.weight}a{self.activation or 16}" if self.kind == "int" else self.kind

    def formats(self) -> tuple[Format, Format | None]:
        """Of weights and activations, without the granularities that a plan chooses."""
        if self.kind != "int":
            return Format.of_kind(self.kind), Format.of_kind(self.kind)
        activation = None if self.activation is None else Format(bits=self.activation)
        return Format(bits=self.weight), activation


def parse_bits(text: str) -> Bits:
    """`w4a8` -> Bits(4, 8); `w4a16` -> Bits(4, None); `fp8`, `mxfp8`, `mxfp4`, `nvfp4` -> both sides."""
    name = text.strip().lower()
    if name in ("fp8", *BLOCK_FORMATS):
        width = Format.of_kind(name).bits  # type: ignore[arg-type]
        return Bits(weight=width, activation=width, kind=name)  # type: ignore[arg-type]
    match = re.fullmatch(r"w(\d+)a(\d+)", name)
    if match is None:
        kinds = ", ".join(("fp8", *BLOCK_FORMATS))
        raise BadInput(f"bits '{text}' are not understood; write w8a8, w4a8, w4a16, or {kinds}")
    weight, activation = int(match[1]), int(match[2])
    if not 2 <= weight <= 8:
        fit = activation if activation == 16 else min(max(activation, 2), 8)
        raise BadInput(
            f"bits '{text}': weights take 2 to 8 bits, not {weight}; try w{min(max(weight, 2), 8)}a{fit}"
        )
    if activation != 16 and not 2 <= activation <= 8:
        raise BadInput(
            f"bits '{text}': activations take 2 to 8 bits, or 16 for weight-only; try w{weight}a8 or w{weight}a16"
        )
    return Bits(weight=weight, activation=None if activation == 16 else activation)


LOWEST, HIGHEST = -1.0e9, 1.0e9  # a window's open ends: every float timestep is in one window


class Window(Value):
    """A half-open range of scheduler timesteps, `low <= t < high`; the noisiest window comes first."""

    low: float
    high: float

    def __contains__(self, timestep: float) -> bool:
        return self.low <= timestep < self.high


class SitePlan(Value):
    """The formats of one site: `None` keeps that side in floating point."""

    weight: Format | None
    activations: tuple[Format | None, ...]  # one per window of the plan

    @model_validator(mode="after")
    def _consistent(self) -> SitePlan:
        of_samples = ("sample", *ACROSS_SAMPLES)
        weight = self.weight
        if weight is not None and (weight.static or weight.granularity in of_samples):
            raise ValueError(
                f"'static' and granularity {', '.join(of_samples)} are for activations, not for "
                "weights"
            )
        if any(f is not None and f.kind == "codebook" for f in self.activations):
            raise ValueError("codebooks are for weights, not for activations")
        if len({(f.symmetric, f.group_size) for f in self.static_formats}) > 1:
            raise ValueError("static activation formats of one site share their granularity")
        return self

    @property
    def static_formats(self) -> list[Format]:
        """The activation formats whose ranges are stored."""
        return [f for f in self.activations if f is not None and f.static]

    @property
    def quantized(self) -> bool:
        """Whether anything at all is quantized here."""
        return self.weight is not None or any(a is not None for a in self.activations)

    @property
    def across_samples(self) -> bool:
        """Whether samples of a batch share activation scales, so that a picture depends on its batch."""
        return any(f is not None and f.granularity in ACROSS_SAMPLES for f in self.activations)


class Plan(Value):
    """Every site by its full name, with its weight format and its activation format per window."""

    unwritten: ClassVar[frozenset[str]] = frozenset({"attention"})

    format: Literal[1] = PLAN_FORMAT
    model: str  # fingerprint of the model's site list: a plan for another model is refused
    windows: tuple[Window, ...]
    sampler: str | None = None  # fingerprint of the sampler that the windows were cut for
    sites: dict[str, SitePlan]
    attention: AttentionFormat | None = None  # scores of spatial self-attention; None: as they are

    @model_validator(mode="after")
    def _consistent(self) -> Plan:
        if not self.windows:
            raise ValueError("a plan has at least one window")
        for earlier, later in zip(self.windows, self.windows[1:], strict=False):
            if earlier.low != later.high:
                raise ValueError("windows must meet without a gap, the noisiest first")
        for name, site in self.sites.items():
            if len(site.activations) != len(self.windows):
                raise ValueError(
                    f"site {name} has {len(site.activations)} activation formats for {len(self.windows)} windows"
                )
        return self

    def each(self, change: Callable[[SitePlan], SitePlan]) -> Plan:
        """The same plan with every site changed."""
        return self.model_copy(update={"sites": {n: change(s) for n, s in self.sites.items()}})


class Sampler(Value):
    """How pictures are drawn: scheduler class and configuration, steps, guidance, size.

    It is complete: what a pipeline works out from the picture's size is in `config` and `sigmas`
    already (`Model.sampler` sees to it), so that the steps follow from it alone.
    """

    unwritten: ClassVar[frozenset[str]] = frozenset({"size", "frames", "sigmas"})

    scheduler: str  # diffusers class name
    config: dict[str, Any] = Field(default_factory=dict)
    steps: int = Field(ge=1, le=1000)
    guidance: float = Field(ge=0, le=100)
    size: tuple[int, int] | None = (
        None  # height, width in pixels; None: what the model was made for
    )
    frames: int | None = Field(default=None, ge=1)  # of a clip; None: what the model was made for
    sigmas: tuple[float, ...] | None = None  # noise levels handed to the scheduler, one per step

    @model_validator(mode="after")
    def _consistent(self) -> Sampler:
        if self.size is not None and min(self.size) < 1:
            raise ValueError(f"size {self.size[0]}x{self.size[1]} has no pixels")
        if self.sigmas is not None and len(self.sigmas) != self.steps:
            raise ValueError(f"{len(self.sigmas)} sigmas for {self.steps} steps")
        return self


class Sample(Value):
    """One picture or clip to draw: its seed and its condition (a class id, or prompts)."""

    unwritten: ClassVar[frozenset[str]] = frozenset({"negative"})

    seed: int = Field(ge=0, lt=2**32)  # torch's generator reads 32 bits
    class_id: int | None = None
    prompt: str | None = None
    negative: str | None = None  # what guidance leads away from; None: the empty text


OutlierKind = Literal["static", "drifting", "token"]
OUTLIER_KINDS: tuple[OutlierKind, ...] = get_args(OutlierKind)


class Outliers(Value):
    """Synthetic outliers to put into a model: which kind, how large, which channels by seed."""

    kind: OutlierKind = "static"
    factor: float = Field(gt=1, le=1024)
    seed: int = Field(default=0, ge=0, lt=2**32)

    def __str__(self) -> str:
        return f"{self.kind} x{self.factor:g}"

    def marked(self, title: str) -> str:
        """The title of whatever was made with them."""
        return f"{title}, synthetic outliers ({self.kind} x{self.factor:g})"


class Injection(Outliers):
    """Outliers as they are in a model; whatever was measured on it says so."""

    channels: int  # amplified, over all inputs
    inputs: int  # tensors that have any

    @property
    def asked(self) -> Outliers:
        """What was asked for, without what the model's shape made of it."""
        return Outliers(kind=self.kind, factor=self.factor, seed=self.seed)


class Lora(Value):
    """A low-rank change of the weights: its file, and how much of it is added."""

    unwritten: ClassVar[frozenset[str]] = frozenset({"digest"})

    file: str
    scale: float = Field(default=1.0, ge=-100, le=100)
    digest: str | None = None  # of the file, once it was read

    def __str__(self) -> str:
        return self.file if self.scale == 1 else f"{self.file}:{self.scale:g}"


class Recipe(Value):
    """All that is needed to make a run again, printable and comparable."""

    unwritten: ClassVar[frozenset[str]] = frozenset({"revision", "base", "loras"})

    model: str
    revision: str | None = None  # commit, of a model from a hub
    base: str | None = None  # the pipeline of a transformer in a file of its own
    loras: tuple[Lora, ...] | None = None  # fused into the weights first
    outliers: Injection | None = None  # synthetic ones in that model
    method: str  # method key, or "full-precision"
    bits: str | None = None
    plan: str | None = None  # fingerprint of the plan
    options: dict[str, Any] = Field(default_factory=dict)
    calibration: dict[str, Any] | None = None
    sampler: Sampler
    samples: tuple[Sample, ...]


def options_from_pairs(pairs: Iterable[str]) -> dict[str, Any]:
    """`["alpha=0.5", "rotate=false"]` -> {"alpha": 0.5, "rotate": False}; values are read as JSON where they parse."""
    options: dict[str, Any] = {}
    for pair in pairs:
        name, equals, value = pair.partition("=")
        if not equals or not name.strip():
            raise BadInput(f"option '{pair}' is not of the form name=value")
        try:
            options[name.strip()] = json.loads(value)
        except json.JSONDecodeError:
            options[name.strip()] = value
    return options
