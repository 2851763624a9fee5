"""Attention sharing in a piece of work: checked early, its similarity measured once, what is said of it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.errors import BadInput
from quant.schema import Sample, Sampler, fingerprint
from quant.sharing_choice import Sharing, Similarity, saving

from .files import dump, read_json, write_text
from .request import RunRequest

if TYPE_CHECKING:
    from quant.models import Model

    from .watch import Watch

NOTHING = (
    "sharing was asked for, and no attention reaches the threshold at any step: nothing is shared; "
    "lower sharing_threshold (dqviz probe says how alike the branches are)"
)


def check_sharing(
    runs: Iterable[RunRequest], saved: Iterable[Sharing | None], model: Model, sampler: Sampler
) -> None:
    """Stop where runs, or checkpoints that were saved with it, ask for sharing that cannot be.

    There is no guidance pair, or none of the sampler's timesteps may share.
    """
    from quant.generation import timesteps_of
    from quant.method_options import sharing_asked
    from quant.sharing import check_guidance

    asked = [found for run in runs if (found := sharing_asked(run.method, run.options)) is not None]
    if asked or any(sharing is not None for sharing in saved):
        check_guidance(model.adapter, sampler.guidance)
    timesteps = timesteps_of(sampler)
    for request in asked:
        if not any(t in window for window in request.steps for t in timesteps):
            raise BadInput(
                f"sharing_steps hold none of the {len(timesteps)} timesteps of this sampler, which go from "
                f"{timesteps[0]:g} to {timesteps[-1]:g}"
            )


def shares(run: RunRequest) -> bool:
    """Whether a run asks for sharing."""
    from quant.method_options import sharing_asked

    return sharing_asked(run.method, run.options) is not None


def needs_similarity(runs: Iterable[RunRequest]) -> bool:
    """Whether any of the runs chooses what it shares by what is measured."""
    from quant.method_options import sharing_asked

    asked = (sharing_asked(run.method, run.options) for run in runs)
    return any(request is not None and request.measured for request in asked)


def similarity_steps(
    model: Model, samples: tuple[Sample, ...], sampler: Sampler, folder: Path
) -> int:
    """Denoiser steps that `watched_similarity` takes; 0 where the folder holds it."""
    held = _held(_file(folder, _manifest(model, samples, sampler)))
    return 0 if held is not None else len(samples) * sampler.steps


def watched_similarity(
    model: Model,
    samples: tuple[Sample, ...],
    sampler: Sampler,
    batch_size: int,
    watch: Watch,
    folder: Path | None = None,
) -> Similarity:
    """How alike the guidance branches attend: as `folder` holds it, else measured now and kept there."""
    from quant.similarity import measure_similarity

    manifest = _manifest(model, samples, sampler)
    held = None if folder is None else _held(_file(folder, manifest))
    steps = 0 if held is not None else len(samples) * sampler.steps
    watch.stage(
        "similarity", f"comparing attention of both branches on {len(samples)} samples", steps
    )
    if held is not None:
        return held
    found = measure_similarity(
        model,
        samples,
        sampler,
        batch_size=batch_size,
        on_step=lambda event: watch.advance(len(event.samples)),
    )
    if folder is not None:
        kept = {"manifest": manifest, "similarity": found.to_json()}
        write_text(_file(folder, manifest), dump(kept) + "\n")
    return found


def _manifest(model: Model, samples: tuple[Sample, ...], sampler: Sampler) -> dict[str, Any]:
    """What a similarity was measured from: equal manifests mean equal numbers."""
    return {
        "samples": [s.to_json() for s in samples],
        "sampler": sampler.to_json(),
        "model": model.fingerprint,
        "dtype": str(model.dtype).removeprefix("torch."),
    }


def _file(folder: Path, manifest: Mapping[str, Any]) -> Path:
    return folder / f"similarity-{fingerprint(manifest)}.json"


def _held(file: Path) -> Similarity | None:
    """What a file holds; nothing where it is damaged or of another format: then it is measured anew."""
    if not file.is_file():
        return None
    try:
        return Similarity.parse(read_json(file)["similarity"], file.name)
    except (BadInput, KeyError, TypeError):
        return None


def sharing_record(
    sharing: Sharing | None,
    similarity: Similarity | None,
    model: Model,
    sampler: Sampler,
    samples: Sequence[Sample],
) -> dict[str, Any]:
    """What a record says of sharing: why it is off, or what is shared and what that saves.

    Where no similarity was measured, work is counted from one call for the first of `samples`.
    """
    from quant.generation import timesteps_of
    from quant.similarity import multiply_adds

    if sharing is None:
        return {"mode": "off", "why": why_off(model, sampler)}
    if similarity is None:
        work, network = multiply_adds(model, samples[0], sampler)
    else:
        work = dict(zip(similarity.attentions, similarity.work, strict=True))
        network = similarity.network
    shared = {name: [[w.low, w.high] for w in ws] for name, ws in sharing.attentions.items()}
    saved = saving(sharing, timesteps_of(sampler), work, network)
    record = {"mode": sharing.mode, "attentions": shared, "saving": saved}
    return record if saved["cells"] else {**record, "why": NOTHING}


def why_off(model: Model, sampler: Sampler) -> str:
    """Why a run shares nothing."""
    from quant.sharing import check_guidance

    try:
        check_guidance(model.adapter, sampler.guidance)
    except BadInput as reason:
        return str(reason)
    return "not asked for (sharing=off)"


def sharing_sentence(record: Mapping[str, Any]) -> str:
    """What a record says that is shared; empty where nothing is."""
    saved = record.get("saving")
    if not saved or not saved["cells"]:
        return ""
    return (
        f"shares the {record['mode']} in {saved['cells']} of {saved['of_cells']} attentions and steps, "
        f"predicted to save {100 * saved['multiply_adds']:.1f} % of the multiply-adds"
    )


def sharing_warnings(sharing: Sharing | None, sampler: Sampler) -> list[str]:
    """What to tell a person who draws with another sampler than a set was measured with."""
    if sharing is None or sharing.sampler in (None, sampler.fingerprint):
        return []
    return [
        f"which attentions are shared at which timesteps was measured with another sampler "
        f"({sharing.sampler}); here ({sampler.fingerprint}) its steps lie elsewhere"
    ]
