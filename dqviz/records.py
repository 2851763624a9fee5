"""What a run's record says of its model, size, arithmetic and time; and how two runs differ."""

from __future__ import annotations

import hashlib
import itertools
import platform
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from . import machine
from .candidates import OURS, UNQUANTIZED, Candidate, site_bytes

if TYPE_CHECKING:
    from torch import nn

    from quant.backend_report import BackendReport
    from quant.evaluate import Classifier
    from quant.models import Model
    from quant.schema import Sampler
    from quant.sizes import SizeReport

ALIGNED = 0.03  # stored bytes this close count as equal


def pairs(records: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Every two runs sample by sample; the later one is `a`, the earlier `b`, differences are a - b."""
    from quant.intervals import paired_difference

    found = []
    for b, a in itertools.combinations(records, 2):
        pair: dict[str, Any] = {"a": a["name"], "b": b["name"], "diff_db": None, "win_rate": None}
        if a["psnr_db"] and b["psnr_db"]:
            decibels = paired_difference(a["psnr_db"]["per_sample"], b["psnr_db"]["per_sample"])
            described = decibels.to_json()
            pair |= {"diff_db": described.pop("diff"), **described}
        if a["latent_rel_error"] and b["latent_rel_error"]:
            values = [run["latent_rel_error"]["per_sample"] for run in (a, b)]
            pair["latent_rel_error"] = paired_difference(*values, better="lower").to_json()
        pair |= {
            "size_ratio": a["size_bytes"] / b["size_bytes"],
            "same_scope": a["scope"]["quantized"] == b["scope"]["quantized"],
        }
        pair["aligned"] = pair["same_scope"] and abs(pair["size_ratio"] - 1) <= ALIGNED
        found.append(pair)
    return found


def describe(model: Model) -> dict[str, Any]:
    """What a study keeps of its model."""
    from quant.components import components_of

    card = model.card
    return {
        "ref": model.ref,
        "key": model.key,
        "title": card.title,
        "family": card.family,
        "task": card.task,
        "licence": card.licence,
        "training": card.training,
        "guidance": card.guidance,
        "steps": card.steps,
        "classes": {str(k): v for k, v in model.classes.items()},
        "revision": model.revision,
        "parameters": sum(p.numel() for p in model.transformer.parameters()),
        "fingerprint": model.fingerprint,
        "weights": weights_digest(model),
        "outliers": None if model.outliers is None else model.outliers.to_json(),
        "base": model.base,
        "loras": [lora.to_json() for lora in model.loras],
        "notes": list(model.notes),
        "components": [part.to_json() for part in components_of(model)],
    }


def marked(model: Model, title: str) -> dict[str, Any]:
    """A run's title and what its model has of synthetic outliers: a run on them says so everywhere."""
    if model.outliers is None:
        return {"title": title, "outliers": None}
    return {"title": model.outliers.marked(title), "outliers": model.outliers.to_json()}


def weights_digest(model: Model) -> str:
    """Tells two trainings of one architecture apart: of headers, sizes and ends of the weight files."""
    if model.path is None:
        return f"{model.ref}@{model.revision or 'main'}"
    digest = hashlib.sha256()
    own = sorted((model.path / "transformer").glob("*.safetensors"))
    for file in own if model.weights is None else [model.weights]:
        size = file.stat().st_size
        with file.open("rb") as stream:
            digest.update(f"{file.name}:{size}".encode())
            digest.update(stream.read(machine.MIB))
            stream.seek(max(0, size - machine.MIB))
            digest.update(stream.read())
    for lora in model.loras:
        digest.update(f"{lora.digest}:{lora.scale}".encode())
    return digest.hexdigest()[:16]


def versions() -> dict[str, str]:
    """Versions that the numbers were made with."""
    import diffusers
    import torch

    from . import __version__

    return {
        "dqviz": __version__,
        "python": platform.python_version(),
        "torch": torch.__version__,
        "diffusers": diffusers.__version__,
    }


def classifier_of(model: Model) -> Classifier | None:
    """The classifier that the model's card names, where it is shipped."""
    from quant.metrics.classifier import load_classifier
    from quant.models import EMBEDDED

    if model.card.classifier is None:
        return None
    folder = EMBEDDED / model.card.classifier
    return load_classifier(folder).to(model.device) if folder.is_dir() else None


def device_name(model: Model) -> str:
    """The device that pictures are drawn on, as people name it."""
    import torch

    if model.device.type == "cuda":
        return torch.cuda.get_device_name(model.device)
    return machine.with_threads(machine.processor(), torch.get_num_threads())


def bytes_of(
    model: Model, shared: set[str], sites: Mapping[str, Any], transforms: Mapping[str, Any]
) -> dict[str, Any]:
    """Bytes of the transformer on disk under a plan's sites; none are its own, in 16 bit.

    Args:
        model: whose transformer it is.
        shared: tensors that are stored once, under another name.
        sites: site name -> its formats.
        transforms: site name -> its input transform.
    """
    size = _size(model, shared, sites, transforms)
    return {
        "size_bytes": size.total_bytes,
        "fp16_bytes": size.fp16_bytes,
        "bits_per_weight": size.bits_per_weight,
        "size_parts": size.parts,
    }


def _size(
    model: Model, shared: set[str], sites: Mapping[str, Any], transforms: Mapping[str, Any]
) -> SizeReport:
    from quant.sizes import predict_size

    return predict_size(
        model.transformer, model.sites, sites, transforms, dtype=model.source_dtype, shared=shared
    )


def foreign_bytes(model: Model, shared: set[str], candidate: Candidate) -> dict[str, Any]:
    """Bytes on disk; bits per weight are those that the quantized sites take there, biases aside."""
    size = _size(model, shared, {}, {})
    inside = set(candidate.quantized)
    weights = sum(s.in_features * s.out_features for s in model.sites if s.name in inside)
    stored = site_bytes(candidate.folder, inside)
    return {
        "size_bytes": candidate.size_bytes,
        "fp16_bytes": size.fp16_bytes,
        "bits_per_weight": 8 * stored / weights if weights else size.bits_per_weight,
        "size_parts": {"sites": stored},
    }


def arithmetic(transformer: nn.Module, rows: int, made_by: str = OURS) -> BackendReport:
    """What a run was computed with: ours and ordinary layers say it, others run as their package does."""
    from quant.backend_report import BackendReport, backend_report

    if made_by in (OURS, UNQUANTIZED):
        return backend_report(transformer, rows)
    return BackendReport(made_by, "measured", f"{made_by} as its package runs it here")


def timing(seconds_per_sample: float, computed: BackendReport) -> dict[str, Any]:
    """Simulated numerics say nothing about speed, so their seconds are null."""
    measured = computed.evidence == "measured"
    return {
        "seconds_per_sample": seconds_per_sample if measured else None,
        "backend": computed.backend,
        "backend_why": computed.why,
        "evidence": computed.evidence,
        "residency": computed.residency,
    }


def scope_record(
    quantized: Iterable[str], kept: Mapping[str, str], computed: BackendReport
) -> dict[str, Any]:
    """Which sites were quantized and what each ran on; why the others were kept."""
    return {"quantized": list(quantized), "kept": dict(kept), "why": dict(computed.sites)}


def image_bytes(model: Model, sampler: Sampler) -> int:
    """Bytes of one picture or clip at most: PNG does not exceed raw pixels by much."""
    _, *frames, height, width = model.latent_shape(sampler)
    drawn = sampler.frames or (frames[0] if frames else 1)
    names = ("vae_scale_factor", "vae_scale_factor_spatial")
    scale = next((int(getattr(model.pipe, n)) for n in names if hasattr(model.pipe, n)), 8)
    return 3 * drawn * (scale * height) * (scale * width)
