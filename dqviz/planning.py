"""From a checked request to what the engine takes: a loaded model, plans, statistics."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.cards import methods
from quant.errors import BadCheckpoint, BadInput, EnvironmentFault
from quant.schema import Outliers, Plan, Sample, Sampler, fingerprint
from quant.seen_layout import CalibrationOptions, describe

from . import machine
from .projection import Asked, of_model, sentence
from .request import CompareRequest, RunRequest
from .study import faults

if TYPE_CHECKING:
    from torch import nn

    from quant.generation import StepEvent
    from quant.models import Model
    from quant.seen import Seen
    from quant.sources import Located, Source

    from .watch import Watch

_BASE_MEMORY = 512 * machine.MIB  # interpreter, torch, activations of a small batch
_COPIES = 3  # model, quantized weights expanded, the ladder's bf16 copy; outliers take one more


def load(
    source: str | Source | Located,
    device: str = "auto",
    dtype: str = "auto",
    backend: str = "auto",
    outliers: Outliers | None = None,
    *,
    preflighted: bool = False,
    scratch: Path | None = None,
) -> Model:
    """Load a model, after saying what is too large for this machine or missing on it.

    With `outliers` it gets synthetic ones, and says so in its title. `preflighted`: memory was looked at
    already (`dqviz.preflight`). `scratch` as `quant.load_model` takes it.
    """
    from quant.loading import open_model
    from quant.outliers import inject
    from quant.sources import Source, locate

    quiet_diffusers()
    source = Source.of(source) if isinstance(source, str) else source
    located = locate(source) if isinstance(source, Source) else source
    if not preflighted:
        machine.require_memory(needed_memory(located, outliers), f"model {located.source.ref}")
    model = open_model(located, device=device, dtype=dtype, scratch=scratch)
    if backend == "triton" and model.device.type != "cuda":
        raise EnvironmentFault(
            "backend triton needs a CUDA GPU and torch sees none; use --backend auto or simulate"
        )
    return model if outliers is None else inject(model, outliers)


def needed_memory(located: Located, outliers: Outliers | None) -> int:
    """Bytes that a model and what is made of it take, predicted from its files."""
    copies = _COPIES + (outliers is not None)
    return 2 * copies * located.stored_bytes + _BASE_MEMORY


def quiet_diffusers() -> None:
    """Keep bars and remarks of diffusers and transformers from mixing with ours; errors still arrive."""
    from diffusers.utils import logging
    from transformers.utils import logging as of_text_encoders

    for library in (logging, of_text_encoders):
        library.set_verbosity_error()
        library.disable_progress_bar()


def given_plan(request: CompareRequest) -> Plan | None:
    """The plan of the request's file, or None."""
    from quant.plans import read_plan

    return None if request.plan is None else read_plan(request.plan)


def plan_for(
    request: CompareRequest, job: RunRequest, model: Model, sampler: Sampler, given: Plan | None
) -> Plan:
    """The plan of one run: the file's, checked against the model, or the same bits everywhere."""
    from quant.generation import timesteps_of
    from quant.plans import check_plan, uniform_plan
    from quant.quantization import check_options

    if given is not None:
        check_plan(given, model)
        asked = {} if request.attention is None else {"attention": request.attention}
        plan = given.model_copy(update=asked)
    elif job.bits is None:
        raise BadInput("no bits were given; e.g. --bits w4a8, or --plan FILE")
    else:
        plan = uniform_plan(
            model,
            job.bits,
            sampler=sampler,
            windows=request.windows,
            group_size=request.group_size,
            also=methods()[job.method].also,
            attention=request.attention,
        )
    check_options(model, job.method, plan, job.options, timesteps_of(sampler))
    return plan


def plan_warnings(plan: Plan | None, sampler: Sampler) -> list[str]:
    """What to tell a person who uses a plan with another sampler than it was cut for."""
    if plan is None or plan.sampler is None or plan.sampler == sampler.fingerprint:
        return []
    return [
        f"the plan's {len(plan.windows)} step windows were cut for another sampler "
        f"({plan.sampler}); here ({sampler.fingerprint}) they hold other steps"
    ]


def plan_bits(plan: Plan) -> str:
    """`w4a8` when all quantized sites agree, else `mixed`."""
    kinds = {
        (
            s.weight.kind
            if s.weight and s.weight.kind not in ("int", "codebook")
            else str(s.weight.bits if s.weight else 16),
            tuple(a.bits if a else 16 for a in s.activations),
        )
        for s in plan.sites.values()
        if s.quantized
    }
    if len(kinds) != 1:
        return "mixed"
    weight, activations = kinds.pop()
    if not weight.isdecimal():
        return weight
    return f"w{weight}a{activations[0]}" if len(set(activations)) == 1 else "mixed"


def needs_statistics(keys: Sequence[str]) -> bool:
    """Whether any of these methods reads calibration statistics."""
    return any(methods()[key].needs for key in keys)


def statistics(
    model: Model,
    samples: tuple[Sample, ...],
    sampler: Sampler,
    batch_size: int,
    folder: Path | None = None,
    on_step: Callable[[StepEvent], None] | None = None,
) -> Seen:
    """Calibration statistics: those in `folder` when they fit, else recorded now and kept there."""
    from quant.calibration import calibrate, manifest_of
    from quant.seen import Seen

    options = CalibrationOptions()
    manifest = manifest_of(model, samples, sampler, options)
    if folder is None:
        return calibrate(model, samples, sampler, options, batch_size=batch_size, on_step=on_step)
    held = statistics_file(folder, manifest)
    if held is not None:
        return Seen.load(held, stages=())
    files = [file.name for file in folder.glob("seen*.safetensors")]
    names = ["seen.safetensors", *(f"seen-{i}.safetensors" for i in range(2, len(files) + 3))]
    file = folder / next(name for name in names if name not in files)
    checkpoint = folder / f".{fingerprint(manifest)}.unfinished"
    with faults(file):
        seen = calibrate(
            model,
            samples,
            sampler,
            options,
            batch_size=batch_size,
            on_step=on_step,
            checkpoint=checkpoint,
        )
        seen.save(file)
        checkpoint.unlink(missing_ok=True)
    return seen


def watched_statistics(
    model: Model,
    samples: tuple[Sample, ...],
    sampler: Sampler,
    batch_size: int,
    folder: Path | None,
    watch: Watch,
    steps: int,
    asked: Sequence[Asked] = (),
) -> Seen:
    """`statistics` as a stage of a watched piece of work; `steps` is 0 where they are there already.

    The stage says what it and the methods that were `asked` for will take, before it starts.
    """
    from quant.calibration import manifest_of

    manifest = manifest_of(model, samples, sampler, CalibrationOptions())
    held = folder is not None and statistics_file(folder, manifest) is not None
    made = of_model(model, samples, sampler, asked, batch_size)
    count = f"{len(samples)} sample{'' if len(samples) == 1 else 's'}"
    what = "statistics are there already" if held else f"calibrating on {count}"
    watch.stage(
        "calibrate", f"{what}; {sentence(made, held)}" if asked or not held else what, steps
    )
    return statistics(
        model,
        samples,
        sampler,
        batch_size,
        folder,
        on_step=lambda event: watch.advance(len(event.samples)),
    )


def statistics_file(folder: Path, manifest: Mapping[str, Any]) -> Path | None:
    """The file of a study that holds a calibration of these inputs, be it a capture's."""
    files = (
        *sorted(folder.glob("seen*.safetensors")),
        *sorted(folder.glob("captures/*.safetensors")),
    )
    return next((file for file in files if holds(file, manifest)), None)


def holds(file: Path, manifest: Mapping[str, Any]) -> bool:
    """Whether a file is a calibration of these inputs; one of another format, or damaged, is not."""
    try:
        found = describe(file)["manifest"]
    except BadCheckpoint:
        return False
    return all(found.get(key) == value for key, value in manifest.items())


def statistics_bytes(model: Model, sampler: Sampler) -> int:
    """About how much `statistics` keeps on disk, at most: it does not grow with the samples."""
    from quant.footprint import footprint, widest_shapes

    return footprint(model, sampler, CalibrationOptions(), widest_shapes(model)).file_bytes


def transforms_of(transformer: nn.Module) -> dict[str, Any]:
    """Input transform of every quantized site."""
    from quant.layers import QuantLinear

    return {
        name: layer.transform
        for name, layer in transformer.named_modules()
        if isinstance(layer, QuantLinear)
    }


class RowCount:
    """Rows that a quantized site gets per call at most, counted while a block of code runs.

    Sites of a shared attention get half of what the others get. Each site is counted once, the first time,
    when batches are as large as they get: blocks whose sites are watched are not fused.
    """

    def __init__(self, transformer: nn.Module | None) -> None:
        from quant.layers import QuantLinear

        modules = () if transformer is None else transformer.modules()
        self._layers = [layer for layer in modules if isinstance(layer, QuantLinear)]
        self._handles: dict[nn.Module, Any] = {}
        self.rows = 1

    def __enter__(self) -> RowCount:
        count = self._count
        self._handles = {layer: layer.register_forward_pre_hook(count) for layer in self._layers}
        return self

    def __exit__(self, *_: object) -> None:
        for handle in self._handles.values():
            handle.remove()

    def _count(self, layer: nn.Module, args: tuple[Any, ...]) -> None:
        self._handles.pop(layer).remove()
        self.rows = max(self.rows, args[0].numel() // args[0].shape[-1])
