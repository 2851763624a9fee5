"""What every method promises. A promise looks at a subject and tells its faults; none means that it is kept.

The suite holds every method of this repository to them on a tiny random model (`tests/quant/test_every_method.py`),
and `dqviz check-method` holds any method to them on a model that it is given.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path
from tempfile import TemporaryDirectory
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ..calibration import calibrate
from ..cards import FILES, Card, load_method, methods
from ..checkpoint import WEIGHTS, save_checkpoint
from ..errors import BadInput
from ..generation import Generation, generate, make_scheduler, predict, scale_input
from ..layers import QuantLinear
from ..models import Model
from ..plans import uniform_plan
from ..quantization import Quantized, quantize
from ..schema import Plan, SitePlan, options_from_pairs, parse_bits
from ..seen import Seen
from ..seen_layout import CalibrationOptions
from ..sizes import predict_size, size_of
from ..storage import stored_tensors
from . import synthetic
from .trial import Trial, mean_error

EXACT = 1e-5  # relative error that folding and unfolding in float32 may leave
KEY = re.compile("[a-z0-9]+(-[a-z0-9]+)*")
BETTER = 0.8  # of the baseline's error, at most
STEPS = 4
CALIBRATED = range(1000, 1004)  # seeds that nothing else uses


def brief(card: Card) -> dict[str, object]:
    """Options that a method is tried with: those that learn for long have a preset of that name."""
    return {"preset": "brief"} if any(p.name == "brief" for p in card.presets) else {}


@dataclass(frozen=True)
class Subject:
    """A method, and the model that it is tried on."""

    key: str
    model: Model
    seen: Seen
    reference: Generation  # full precision, `STEPS` steps, with its trajectory
    _made: dict[str, Quantized] = field(default_factory=dict)

    @property
    def card(self) -> Card:
        """What the method says about itself."""
        return methods()[self.key]

    @property
    def module(self) -> ModuleType:
        """The method's file."""
        return load_method(self.key)

    def bits(self, width: int) -> str:
        """With weights of this width, and 8-bit activations."""
        return f"w{width}a8"

    def plan(self, bits: str) -> Plan:
        """Every site that the method quantizes, at the same bits."""
        return uniform_plan(self.model, parse_bits(bits), also=self.card.also)

    def quantized(self, bits: str) -> Quantized:
        """Made once for each bits; nobody changes it."""
        if bits not in self._made:
            self._made[bits] = quantize(
                self.model, self.key, self.plan(bits), brief(self.card), self.seen
            )
        return self._made[bits]

    def output(self, transformer: nn.Module, step: int) -> Tensor:
        """Of the network, guided, where full precision was at a step, [n, c, h, w]."""
        found, samples, sampler = (
            self.reference.trajectory,
            self.reference.samples,
            self.reference.sampler,
        )
        assert found is not None
        timestep = found.timesteps[step]
        scheduler = make_scheduler(sampler)
        x = scale_input(scheduler, found.inputs[step], torch.tensor(timestep))
        return predict(self.model, x, timestep, samples, sampler, transformer).guided


def subject(key: str, model: Model) -> Subject:
    """A method beside a model, which is calibrated on four samples and drawn with three."""
    sampler = model.sampler(STEPS)
    reference = generate(model, model.samples(range(3)), sampler, record=True)
    options = CalibrationOptions(reservoir=256)
    return Subject(
        key, model, calibrate(model, model.samples(CALIBRATED), sampler, options), reference
    )


Promise = Callable[[Subject], list[str]]


def docstring(subject: Subject) -> list[str]:
    """The docstring has the paper, the shapes and an equation."""
    text = subject.module.__doc__ or ""
    wanted = {
        "no link to the paper (https://arxiv.org/abs/...)": r"arxiv\.org/abs|arXiv \d{4}\.\d{5}",
        "no 'Shapes:'": r"Shapes:",
        "no equation (an indented line 'y = ...')": r"^    \S+ *= ",
    }
    return [
        fault for fault, pattern in wanted.items() if not re.search(pattern, text, re.MULTILINE)
    ]


def card(subject: Subject) -> list[str]:
    """The card in the source, read without importing it, is the one in the module, with a key and bits as people write them."""
    stated = FILES.read(Path(inspect.getfile(subject.module)))
    if stated is None:
        return ["the file has no line 'CARD = Card(...)' of literal arguments"]
    held = {"the module's": subject.module.CARD, "the list's": methods()[subject.key]}
    faults = [
        f"{whose} differs from the one in the source" for whose, c in held.items() if c != stated
    ]
    if not KEY.fullmatch(stated.key):
        faults.append(f"key {stated.key!r} is not of small letters, digits and hyphens")
    if not stated.bits or not isinstance(stated.bits, tuple):
        return [*faults, f'bits are {stated.bits!r}, not a tuple such as ("w8a8",)']
    return [*faults, *filter(None, map(_unreadable, stated.bits))]


def _unreadable(bits: str) -> str | None:
    try:
        parse_bits(bits)
    except BadInput as error:
        return str(error)
    return None


def options(subject: Subject) -> list[str]:
    """Options on the card exist, with the defaults that it says."""
    made, faults = subject.module.Options(), []
    for option in subject.card.options:
        if option.name not in type(made).model_fields:
            faults.append(f"Options has no field '{option.name}'")
        elif getattr(made, option.name) != option.default:
            faults.append(
                f"'{option.name}' is {getattr(made, option.name)!r} by default, the card says {option.default!r}"
            )
    return faults


def function(subject: Subject) -> list[str]:
    """Without rounding the layer's output stays: what is folded into the weight is undone at the input."""
    kept = SitePlan(weight=None, activations=(None,))
    made, faults = Trial(subject.key, kept, seed=0, outs=(96, 48)), []
    for site in made.group.sites:
        exact = F.linear(made.fresh, site.weight, site.bias)
        lost = (made.output(site.name, made.fresh) - exact).abs().max() / exact.abs().max()
        if not float(lost) <= EXACT:
            faults.append(f"{site.name} of a synthetic input is off by {float(lost):.1e}")
    return faults


def baseline(subject: Subject) -> list[str]:
    """On inputs with outlier channels it beats what its card says, at the bits that it says."""
    if not subject.card.beats:
        return []
    key, *pairs = subject.card.beats.split()
    faults = []
    for bits in subject.card.beats_at:
        wanted = parse_bits(bits)
        site_plan = synthetic.plan(wanted.weight, wanted.activation)
        beaten = mean_error(key, site_plan, options_from_pairs(pairs))
        error = mean_error(subject.key, site_plan)
        if not error < BETTER * beaten:
            faults.append(
                f"{bits}: error {error:.3g}, that of {subject.card.beats} is {beaten:.3g}; wanted "
                f"{BETTER:g} of it at most"
            )
    return faults


def presets(subject: Subject) -> list[str]:
    """At the bits on its card it draws, and what it draws is finite."""
    faults = []
    for bits in subject.card.bits:
        made = subject.quantized(bits)
        drawn = generate(
            subject.model,
            subject.reference.samples[:1],
            subject.reference.sampler,
            transformer=made.transformer,
        )
        if not bool(torch.isfinite(drawn.latents).all()):
            faults.append(f"{bits}: latents hold NaN or infinity")
    return faults


def more_bits(subject: Subject) -> list[str]:
    """Error of the network's output on the full-precision trajectory falls with the bits."""
    exact = subject.output(subject.model.transformer, 1)
    errors = {}
    for width in sorted({2, 3, 4, 6, 8} & set(subject.card.widths)):
        made = subject.quantized(subject.bits(width))
        errors[subject.bits(width)] = float((subject.output(made.transformer, 1) - exact).norm())
    pairs = list(errors.items())
    return [
        f"error {more:.3g} at {b}, {less:.3g} at {a}"
        for (a, less), (b, more) in pairwise(pairs)
        if not more <= less
    ]


def transform(subject: Subject) -> list[str]:
    """What layers store is within `stored_transform`, which sizes are predicted from."""
    made = subject.quantized(subject.bits(4))
    most = subject.module.stored_transform(subject.module.Options())
    faults = []
    for name, layer in _layers(made).items():
        own = layer.transform
        parts = ("scale", "rotate", "rank", "block", "per_window")
        beyond = [part for part in parts if getattr(own, part) > getattr(most, part)]
        if own.requantized != most.requantized:
            beyond.append("requantized")
        faults += [f"{name}: {p} is {getattr(own, p)}, at most {getattr(most, p)}" for p in beyond]
    return faults


def size(subject: Subject) -> list[str]:
    """The size that is predicted without a calibration is never too small, nor much too large."""
    bits = subject.bits(4)
    made = subject.quantized(bits)
    with TemporaryDirectory() as folder:
        stored = save_checkpoint(made, subject.model, Path(folder) / "c").total_bytes
    predicted = size_of(str(subject.model.path), subject.key, parse_bits(bits)).total_bytes
    inside = set(made.scope.quantized)
    weights = (s.in_features * s.out_features for s in subject.model.sites if s.name in inside)
    most = stored + sum(weights) // 8  # a quarter of codes of 4 bits
    if stored <= predicted <= most:
        return []
    return [f"{bits}: {predicted} bytes predicted, {stored} stored"]


def checkpoint(subject: Subject) -> list[str]:
    """What is saved loads with the same outputs to the bit, in as many bytes as were known before."""
    faults = []
    for bits in dict.fromkeys((subject.card.bits[0], subject.card.bits[-1])):
        made = subject.quantized(bits)
        with TemporaryDirectory() as folder:
            out = Path(folder) / "c"
            report = save_checkpoint(made, subject.model, out)
            on_disk = (out / WEIGHTS).stat().st_size
            loaded = _loaded(subject.model, out)
        for step in (0, STEPS // 2):
            if not torch.equal(
                subject.output(loaded, step), subject.output(made.transformer, step)
            ):
                faults.append(f"{bits}: the loaded network's output differs at step {step}")
        if report.total_bytes != on_disk:
            faults.append(f"{bits}: {report.total_bytes} bytes reported, {on_disk} on disk")
        if _predicted(subject.model, made) != report:
            faults.append(f"{bits}: the size predicted from the plan is another")
    return faults


def _loaded(model: Model, folder: Path) -> nn.Module:
    kind: Any = type(model.transformer)
    return kind.from_pretrained(folder, torch_dtype=model.dtype).to(model.device).eval()


def _predicted(model: Model, made: Quantized) -> object:
    shared = set(stored_tensors(model.transformer, model.source_dtype).shared)
    transforms = {name: layer.transform for name, layer in _layers(made).items()}
    return predict_size(
        model.transformer,
        model.sites,
        made.plan.sites,
        transforms,
        dtype=model.source_dtype,
        shared=shared,
    )


def _layers(made: Quantized) -> dict[str, QuantLinear]:
    return {n: m for n, m in made.transformer.named_modules() if isinstance(m, QuantLinear)}


PROMISES: dict[str, Promise] = {
    "docstring": docstring,
    "card": card,
    "options": options,
    "function": function,
    "baseline": baseline,
    "presets": presets,
    "more bits": more_bits,
    "transform": transform,
    "size": size,
    "checkpoint": checkpoint,
}
