"""Files that leave DQ-Viz: a quantized checkpoint, or pictures of a model or of a checkpoint."""

from __future__ import annotations

import json
import shlex
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.cards import methods
from quant.errors import BadInput
from quant.schema import Plan, Recipe, Sample, Sampler
from quant.sources import Source, check_source, resolve

from . import clips
from .candidates import (
    OURS,
    check_candidate,
    load_candidate,
    quant_method,
    transformer_of,
)
from .drawing import sampler_of, samples_of
from .events import OnEvent
from .learnings import begun, foreseen, learns
from .measurements import slug
from .planning import (
    RowCount,
    given_plan,
    load,
    needs_statistics,
    plan_bits,
    plan_for,
    plan_warnings,
    watched_statistics,
)
from .preflight import PREFLIGHT, Preflight, look, require, scratch
from .records import describe, versions
from .request import CompareRequest, RunRequest, check_computing, check_request
from .sharing import (
    check_sharing,
    needs_similarity,
    shares,
    sharing_record,
    sharing_warnings,
    watched_similarity,
)
from .studies import writable
from .study import Study, faults
from .study_folder import default_folder
from .watch import Watch, to_uint8

LABEL = 40  # characters of a prompt that a file's name holds

if TYPE_CHECKING:
    from quant.learning import Learning
    from quant.models import Model
    from quant.seen import Seen
    from quant.sources import Located


def quantize_to(
    request: CompareRequest,
    out: Path,
    *,
    pipeline: bool = False,
    low_memory: bool | None = None,
    on_event: OnEvent | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Quantize with the request's one method and write a folder that diffusers loads.

    With `pipeline` the whole pipeline is written. Nothing is written over: `out` is absent or empty.
    With `low_memory` blocks lie on disk while they do not run; None: where all does not fit otherwise.
    What a method learns is kept in the study that the request names, so that a stopped call goes on
    when it is made again. What it takes is in `preflight` of the result, and said before the start;
    EnvironmentFault where it does not fit.
    """
    check_source(request.source)
    if len(request.methods) != 1:
        raise BadInput(
            f"quantize takes one method, not {len(request.methods)}; e.g. --method viditq"
        )
    (job,) = check_request(request)
    if request.outliers is not None and request.outliers.kind != "static":
        raise BadInput(
            f"{request.outliers} outliers wrap the layers, which plain diffusers does not know; only "
            "--outliers-kind static can be written to a checkpoint"
        )
    check_empty(out)

    from quant.sources import locate

    watch = Watch(on_event, cancelled, previews=False)
    watch.stage("load", f"loading {request.model}")
    located = locate(request.source)
    checked = require(look(request, "quantize", located, out, low_memory))
    with scratch(out, checked.low_memory) as folder:
        made = _quantize_to(request, job, located, checked, folder, out, pipeline, watch)
    return {**made, "preflight": checked.to_json()}


def _quantize_to(
    request: CompareRequest,
    job: RunRequest,
    located: Located,
    checked: Preflight,
    folder: Path | None,
    out: Path,
    pipeline: bool,
    watch: Watch,
) -> dict[str, Any]:
    from quant.checkpoint import save_checkpoint
    from quant.quantization import quantize

    given = given_plan(request)
    model = load(
        located,
        request.device,
        request.dtype,
        request.backend,
        request.outliers,
        preflighted=True,
        scratch=folder,
    )
    sampler = sampler_of(model, request)
    check_sharing([job], [], model, sampler)
    plan = plan_for(request, job, model, sampler, given)
    watch.stage(PREFLIGHT, checked.sentence())  # bad input before it is one line
    samples: tuple[Sample, ...] = ()
    seen = similarity = None
    alike = needs_similarity([job])
    if shares(job) or needs_statistics([job.method]):
        samples = samples_of(model, request, request.calibration_seeds)
    steps = len(samples) * sampler.steps
    one = samples or samples_of(model, request, request.calibration_seeds[:1])
    learned = foreseen({job.method: job}, model, one, sampler, request.batch_size, watch)
    worth = learned.worth.get(job.method, 0)
    watch.plan(steps * (needs_statistics([job.method]) + alike) + worth)
    if needs_statistics([job.method]):
        # What a method that learns takes was said by `foreseen`.
        asked = [] if learns(job.method) else [(job.method, job.options)]
        seen = watched_statistics(
            model, samples, sampler, request.batch_size, None, watch, steps, asked
        )
    if alike:
        similarity = watched_similarity(model, samples, sampler, request.batch_size, watch)
    if worth:
        learning = _learning(request, job, out, model, plan, sampler, seen, watch, worth)
    else:
        learning = None
        watch.stage("quantize", f"quantizing with {job.method}")
    quantized = quantize(
        model,
        job.method,
        plan,
        job.options,
        seen,
        backend=request.backend,
        similarity=similarity,
        learning=learning,
        on_site=lambda done, total: watch.check(),
    )
    plan = quantized.plan  # the method may have given sites formats of its own
    recipe = Recipe(
        model=model.ref,
        **model.origin,
        outliers=model.outliers,
        method=job.method,
        bits=str(job.bits) if job.bits else plan_bits(plan),
        plan=plan.fingerprint,
        options=job.options,
        calibration=None if seen is None else dict(seen.manifest),
        sampler=sampler,
        samples=samples,
    )
    shared = sharing_record(quantized.sharing, similarity, model, sampler, samples)
    watch.stage("write", f"writing {out}")
    with faults(out):
        size = save_checkpoint(quantized, model, out, pipeline=pipeline, recipe=recipe.fingerprint)
    if learning is not None:
        learning.discard_state()
    return {
        "out": str(out),
        "model": model.key,
        "method": job.method,
        "bits": recipe.bits,
        "outliers": None if model.outliers is None else model.outliers.to_json(),
        "plan": plan.fingerprint,
        "recipe": recipe.fingerprint,
        "pipeline": pipeline,
        "size_bytes": size.total_bytes,
        "fp16_bytes": size.fp16_bytes,
        "bits_per_weight": size.bits_per_weight,
        "parts": size.parts,
        "scope": {
            "quantized": list(quantized.scope.quantized),
            "kept": quantized.scope.kept,
        },
        "attention": plan.attention,
        "sharing": shared,
        "warnings": [
            *plan_warnings(given, sampler),
            *([shared["why"]] if quantized.sharing is not None and "why" in shared else []),
        ],
    }


def _learning(
    request: CompareRequest,
    job: RunRequest,
    out: Path,
    model: Model,
    plan: Plan,
    sampler: Sampler,
    seen: Seen | None,
    watch: Watch,
    worth: int,
) -> Learning:
    """Where a checkpoint that is learned is learned: in the study, under the name of its folder."""
    folder = writable(request.out or default_folder(request.model, request.outliers, request.loras))
    study = Study.open_or_create(folder, describe(model), versions())
    name = slug(f"quantize-{job.method}-{out.resolve().name}")
    label = f"{methods()[job.method].title} {job.bits or 'plan'}"
    return begun(study, name, job, label, watch, worth, model, plan, sampler, seen)


def draw_to(
    target: str,
    request: CompareRequest,
    out: Path,
    *,
    base: str | None = None,
    on_event: OnEvent | None = None,
    cancelled: Callable[[], bool] | None = None,
) -> dict[str, Any]:
    """Draw pictures of a model, or of a transformer checkpoint inside its pipeline, into `out`.

    `request` gives seeds, classes, sampler and device; its model and methods are not read. `base`
    names the pipeline of a checkpoint whose configuration does not.
    """
    check_empty(out)
    check_computing(request)
    checkpoint = _transformer_alone(target)
    if checkpoint is not None and request.outliers is not None:
        raise BadInput(
            f"{target} is a checkpoint, whose weights are fixed; --outliers goes with a whole model"
        )
    if checkpoint is not None and request.loras:
        raise BadInput(
            f"{target} is a checkpoint, whose weights are fixed; --lora goes with a whole model"
        )
    if checkpoint is None:
        source = request.source.model_copy(update={"ref": target, "base": base})
    else:
        source = Source(ref=base or base_of(checkpoint), offline=bool(request.offline))
    check_source(source)

    from quant.backend_report import backend_report
    from quant.generation import generate
    from quant.residency import compute_with
    from quant.sharing import check_family, sharing_of

    watch = Watch(on_event, cancelled, previews=False)
    watch.stage("load", f"loading {target}")
    model = load(source, request.device, request.dtype, request.backend, request.outliers)
    candidate = None if checkpoint is None else load_candidate(checkpoint, model)
    samples = samples_of(model, request, request.seeds)
    sampler = sampler_of(model, request)
    steps = len(samples) * sampler.steps
    watch.plan(steps)
    watch.stage("draw", f"drawing {len(samples)} samples", steps, model.key)
    network = model.transformer if candidate is None else candidate.transformer
    compute_with(network, request.backend, request.residency)
    sharing = sharing_of(network)
    if sharing is not None:
        if model.branches(sampler.guidance) == 1:
            raise BadInput(
                f"{target} shares attention between the guidance branches, and --guidance {sampler.guidance:g} "
                "has one branch: draw with guidance above 1, or switch sharing off in Python with "
                "quant.sharing.detach(transformer)"
            )
        check_family(model.adapter)
    with RowCount(network) as counted:
        drawn = generate(
            model,
            samples,
            sampler,
            transformer=network,
            batch_size=request.batch_size,
            on_step=watch.on_step,
        )
    report = backend_report(network, counted.rows)
    measured = report.evidence == "measured"
    pixels = to_uint8(drawn.images)
    return {
        "out": str(out),
        "files": _write_pictures(model, samples, pixels, out),
        "clip": clips.describe(pixels),
        "seconds_per_sample": drawn.seconds / len(samples) if measured else None,
        "backend": report.backend,
        "backend_why": report.why,
        "evidence": report.evidence,
        "residency": report.residency,
        "outliers": None if model.outliers is None else model.outliers.to_json(),
        "samples": [sample.to_json() for sample in samples],
        "sampler": sampler.to_json(),
        "warnings": sharing_warnings(sharing, sampler),
    }


def check_empty(out: Path) -> None:
    """Stop when `out` is a file, or a folder that holds anything."""
    if out.is_file():
        raise BadInput(f"{out} is a file; name a new or empty folder")
    if out.is_dir():
        names = sorted(p.name for p in out.iterdir())
        if names:
            raise BadInput(
                f"folder {out} is not empty ({names[0]}, {len(names)} in all); nothing is written "
                f"over, name a new folder, e.g. {out / 'new'}"
            )


def drawing_command(folder: Path, model: str) -> str:
    """How to draw with a checkpoint of `model`: its pipeline is named where its configuration does not do."""
    try:
        base_of(folder)
    except BadInput:
        return shlex.join(["dqviz", "generate", str(folder), "--base", model, "--out", "pictures"])
    return shlex.join(["dqviz", "generate", str(folder), "--out", "pictures"])


def base_of(folder: Path) -> str:
    """The pipeline that a transformer checkpoint says it belongs to."""
    config = json.loads((transformer_of(folder) / "config.json").read_text(encoding="utf-8"))
    described = config.get("quantization_config") or {}
    if quant_method(config) != OURS or not described.get("base"):
        raise BadInput(f"{folder} does not say which pipeline it belongs to; give --base MODEL")
    base = str(described["base"])
    try:
        resolve(base)
    except BadInput:
        raise BadInput(
            f"{folder} belongs to model '{base}', which is not known here; give --base FOLDER"
        ) from None
    return base


def _transformer_alone(target: str) -> Path | None:
    """The folder, when `target` is a transformer without its pipeline; BadInput when it is damaged."""
    folder = Path(target).expanduser()
    is_alone = (folder / "config.json").is_file() and not (folder / "model_index.json").is_file()
    if not is_alone:
        return None
    check_candidate(folder)
    return folder


def _write_pictures(model: Model, samples: tuple[Sample, ...], images: Any, out: Path) -> list[str]:
    """PNG files named by seed and class or prompt; a failed call leaves none of them behind."""
    partial = out.with_name(out.name + ".partial")
    names = []
    with faults(out):
        partial.mkdir(parents=True, exist_ok=True)
        for sample, image in zip(samples, images, strict=True):
            label = (sample.prompt or "")[:LABEL]
            if sample.class_id is not None:
                label = model.classes.get(sample.class_id, "")
            name = "-".join(part for part in (str(sample.seed), slug(label)) if part) + ".png"
            clips.write(partial / name, image)
            names.append(name)
        if out.is_dir():
            out.rmdir()
        partial.replace(out)
    return [str(out / name) for name in names]
