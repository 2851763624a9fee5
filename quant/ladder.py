"""The yardstick ladder: what known, harmless changes of the full-precision model do to the numbers.

A PSNR of 30 dB means nothing by itself. Next to "one sampling step more gives 28 dB" it says that
quantization changed less than a choice that nobody argues about. Every rung is the same model on
the same samples with one thing changed, compared with the same reference.

The bf16 rung is the transformer in bfloat16; the decoder stays as it is, as it does for quantized
runs. On a CPU, where bfloat16 arithmetic is about five times slower, the rung is computed in
float32 on a copy whose parameters, and the result of every operation, are rounded to bfloat16. A
reference that computes in bfloat16 itself is held against float32 instead: the same distance.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import nn
from torch.overrides import TorchFunctionMode

from .errors import BadInput, unknown
from .evaluate import Summary, check_pair, paired_metrics
from .generation import Generation, StepEvent, generate
from .metrics import list_metrics
from .models import Model
from .schema import Sample, Sampler, Value

MAX_SAMPLES = 16
MAX_STEPS = 1000
_OTHER_SEED = (
    2**31
)  # a bit that seed ranges do not reach; torch's CPU generator reads only 32 of them


@dataclass(frozen=True)
class Change:
    """What one rung changes."""

    title: str
    steps: Callable[[int], int] = lambda steps: steps
    noise: float = 0.0  # sigmas of extra starting noise
    other_seed: bool = False
    bf16: bool = False


CHANGES: dict[str, Change] = {
    "bf16": Change("bf16", bf16=True),
    "one_step_more": Change("one step more", steps=lambda steps: steps + 1),
    "one_step_fewer": Change("one step fewer", steps=lambda steps: steps - 1),
    "twice_the_steps": Change("twice the steps", steps=lambda steps: 2 * steps),
    "noise_0.01": Change("starting noise + 0.01 sigma", noise=0.01),
    "noise_0.1": Change("starting noise + 0.1 sigma", noise=0.1),
    "another_seed": Change("another seed", other_seed=True),
}


class Rung(Value):
    """One yardstick: its metrics against the reference, or why it could not be taken."""

    rung: str
    title: str
    steps: int
    samples: int
    paired: dict[str, Summary | None]  # by metric key
    unavailable: dict[str, str] = {}

    def to_json(self) -> dict[str, Any]:
        """With the metrics' keys beside the rung's own, as in a run."""
        data = super().to_json()
        metrics = {key: None if s is None else s.to_json() for key, s in self.paired.items()}
        return {key: value for key, value in data.items() if key != "paired"} | metrics


def ladder(
    model: Model,
    samples: Sequence[Sample],
    sampler: Sampler,
    reference: Generation | None = None,
    *,
    rungs: Sequence[str] = tuple(CHANGES),
    max_samples: int = MAX_SAMPLES,
    batch_size: int = 8,
    on_step: Callable[[int, int, str], None] | None = None,
) -> list[Rung]:
    """Draw and measure the rungs that are asked for, in their order.

    Args:
        model: full precision.
        samples: of the runs that the ladder stands beside; the first `max_samples` are used.
        sampler: of those runs.
        reference: their full-precision generation; drawn here when not given.
        rungs: keys of `CHANGES`.
        max_samples: bound of the cost, which is about that of eight generations of so many samples.
        batch_size: samples per batch.
        on_step: called with (denoising steps done, in all, rung's title); may raise `Cancelled`.
    """
    for rung in rungs:
        if rung not in CHANGES:
            raise unknown("rung", rung, CHANGES)
    if max_samples < 1:
        raise BadInput(f"a ladder needs at least one sample, not {max_samples}")
    chosen = tuple(samples[:max_samples])
    to_draw = [CHANGES[rung].steps(sampler.steps) for rung in rungs]
    if reference is None:
        to_draw.append(sampler.steps)
    batches = -(-len(chosen) // batch_size)
    progress = _Progress(batches * sum(s for s in to_draw if _drawable(s)), on_step)
    if reference is None:
        ours = generate(
            model,
            chosen,
            sampler,
            batch_size=batch_size,
            on_step=progress.step_of("full precision"),
        )
    else:
        ours = _first(reference, len(chosen))
        check_pair(ours, replace(ours, samples=chosen, sampler=sampler))
    return [_rung(model, ours, rung, batch_size, progress) for rung in rungs]


def lossless(run: Mapping[str, Any], ladder: Sequence[Mapping[str, Any]]) -> bool:
    """Whether a run is within the bf16 rung, hence "lossless here" and not ranked.

    By the primary metric: its mean relative latent error is at most the upper end of the rung's
    interval. Both in JSON form. False where either is missing: nothing was shown then.
    """
    ours = run.get("latent_rel_error")
    rung = next((r["latent_rel_error"] for r in ladder if r["rung"] == "bf16"), None)
    if not ours or not rung or ours["mean"] is None or rung["mean"] is None:
        return False
    return ours["mean"] <= (rung["mean"] if rung["hi"] is None else rung["hi"])


def _rung(
    model: Model, reference: Generation, key: str, batch_size: int, progress: _Progress
) -> Rung:
    change = CHANGES[key]
    steps = change.steps(reference.sampler.steps)
    samples = reference.samples
    title, transformer = in_bf16(model) if change.bf16 else (change.title, None)
    if not _drawable(steps):
        reason = f"{steps} steps are outside 1 to {MAX_STEPS}"
        paired, unavailable = dict.fromkeys(list_metrics()), dict.fromkeys(list_metrics(), reason)
    else:
        if change.other_seed:
            samples = tuple(s.model_copy(update={"seed": s.seed ^ _OTHER_SEED}) for s in samples)
        changed = generate(
            model,
            samples,
            model.with_steps(reference.sampler, steps),
            transformer=transformer,
            batch_size=batch_size,
            noise_offset=change.noise,
            on_step=progress.step_of(title),
        )
        paired, unavailable = paired_metrics(reference, changed)
    return Rung(
        rung=key,
        title=title,
        steps=steps,
        samples=len(samples),
        paired=paired,
        unavailable=unavailable,
    )


def _drawable(steps: int) -> bool:
    return 1 <= steps <= MAX_STEPS


def _first(generation: Generation, count: int) -> Generation:
    """The first samples of a generation, without its trajectory."""
    return replace(
        generation,
        samples=generation.samples[:count],
        images=generation.images[:count],
        latents=generation.latents[:count],
        trajectory=None,
    )


class _Progress:
    """Counts denoising steps over all rungs."""

    def __init__(self, total: int, report: Callable[[int, int, str], None] | None) -> None:
        self.done = 0
        self.total = total
        self.report = report

    def step_of(self, title: str) -> Callable[[StepEvent], None] | None:
        """The `on_step` of one generation."""
        report = self.report
        if report is None:
            return None

        def step(_: StepEvent) -> None:
            self.done += 1
            report(self.done, self.total, title)

        return step


def in_bf16(model: Model) -> tuple[str, nn.Module]:
    """A copy of the model's transformer that computes as bfloat16 does, and what it is called."""
    transformer = copy.deepcopy(model.transformer)
    if model.dtype == torch.bfloat16:
        return "float32 (the reference is bf16)", transformer.float()
    if model.device.type != "cpu":
        return "bf16", transformer.bfloat16()
    return "bf16 (rounded, computed in float32)", _round_every_result(transformer)


def _round_every_result(transformer: nn.Module) -> nn.Module:
    """Round parameters, buffers and every operation's result to bfloat16, in place."""
    with torch.no_grad():
        for tensor in (*transformer.parameters(), *transformer.buffers()):
            if tensor.is_floating_point():
                tensor.copy_(tensor.bfloat16())
    rounding = _Rounding()
    for module in transformer.modules():
        if not any(module.children()) and not any(True for _ in module.parameters()):
            module.register_forward_pre_hook(rounding.pause)
            module.register_forward_hook(rounding.resume)
    forward = transformer.forward

    def rounded_forward(*args: Any, **kwargs: Any) -> Any:
        with rounding:
            return forward(*args, **kwargs)

    transformer.forward = rounded_forward
    return transformer


class _Rounding(TorchFunctionMode):
    """Rounds the result of every torch operation, outside modules without parameters.

    Those are single operations, whose result is rounded all the same, or the sines of timesteps and
    positions, which bfloat16 models compute in float32 and then round: an angle of 999 radians
    would not survive bfloat16.
    """

    def __init__(self) -> None:
        super().__init__()
        self.paused = False

    def __torch_function__(
        self,
        func: Any,
        types: Any,
        args: tuple[Any, ...] = (),
        kwargs: dict[str, Any] | None = None,
    ) -> Any:
        result = func(*args, **(kwargs or {}))
        if self.paused:
            return result
        return tuple(_rounded(r) for r in result) if type(result) is tuple else _rounded(result)

    def pause(self, *_: object) -> None:
        """Forward pre-hook of a module without parameters."""
        self.paused = True

    def resume(self, _module: nn.Module, _args: object, output: Any) -> Any:
        """Forward hook of a module without parameters."""
        self.paused = False
        return _rounded(output)


def _rounded(value: Any) -> Any:
    """Float tensors of two axes or more at bfloat16 precision; timesteps have one and stay exact."""
    if isinstance(value, torch.Tensor) and value.is_floating_point() and value.dim() > 1:
        return value.bfloat16().to(value.dtype)
    return value
