"""Checkpoints that plain diffusers loads: packed integers in safetensors, everything else in JSON.

A folder holds `config.json` (the transformer's own configuration with our `quantization_config`)
and one safetensors file. Tensors that are equal are stored once; each is listed with a hash, so
that damage is found before anything is drawn.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar

import diffusers
import torch
from pydantic import AfterValidator
from safetensors import SafetensorError, safe_open
from torch import Tensor

from .amplified import is_amplified
from .attention_ranges import AttentionRange
from .errors import BadCheckpoint, BadInput
from .layers import QuantLinear
from .models import Model
from .quantization import Quantized
from .schema import Injection, Lora, Plan, Value
from .sharing_choice import Sharing
from .site_tensors import Listed, Transform
from .sizes import SizeReport, file_bytes, report
from .storage import digest, stored_tensors
from .tensor_files import write_in_turn
from .weight_files import safetensors_header

WEIGHTS = "diffusion_pytorch_model.safetensors"
CONFIG = "config.json"
FORMAT = 1


def _readable(listed: dict[str, Listed]) -> dict[str, Listed]:
    """`Transform.to_json`, as `Transform.from_json` takes it."""
    Transform.from_json(listed)
    return listed


class CheckpointConfig(Value):
    """`quantization_config` of a checkpoint: explicit site names, nothing to guess."""

    unwritten: ClassVar[frozenset[str]] = frozenset({"loras"})

    quant_method: str = "dqviz"
    format: int = FORMAT
    method: str
    options: dict[str, Any]
    plan: Plan
    transforms: dict[str, Annotated[dict[str, Listed], AfterValidator(_readable)]]  # by site
    shared: dict[str, str]  # tensor that is not in the file -> equal tensor that is
    tensors: dict[str, str]  # every tensor in the file -> its `digest`
    base: str | None = None  # the pipeline that this transformer belongs to
    recipe: str | None = None  # fingerprint
    outliers: Injection | None = None  # synthetic ones in the weights
    loras: tuple[Lora, ...] | None = None  # fused into the weights before
    sharing: Sharing | None = None  # attention shared between the guidance branches
    attention: dict[str, AttentionRange] = {}  # integers inside attentions, by name


def save_checkpoint(
    quantized: Quantized,
    model: Model,
    out: Path,
    *,
    pipeline: bool = False,
    recipe: str | None = None,
) -> SizeReport:
    """Write a transformer folder (or with `pipeline` the whole pipeline) and return its true sizes.

    Nothing is written over: `out` must be absent or empty. The folder appears under its name only
    when it is complete.
    """
    check_free(out)
    if is_amplified(quantized.transformer):
        raise BadInput(
            f"synthetic outliers ({model.outliers}) wrap the layers of this model, which plain "
            "diffusers does not know; only the kind 'static' can be saved"
        )
    if any(site.across_samples for site in quantized.plan.sites.values()):
        raise BadInput(
            "activation scales that samples share make a picture depend on its batch: an ablation for "
            "comparisons, not for checkpoints; take scales=row"
        )
    for name in quantized.scope.quantized:
        site = quantized.transformer.get_submodule(name)
        if not isinstance(site, QuantLinear):
            raise BadInput(
                f"{type(site).__name__} stands at {name} where its quantized layer would, as adapters do; "
                "take them off (unload) and save then"
            )
    partial = out.with_name(out.name + ".partial")
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    if pipeline:
        _save_other_parts(model, partial)
    folder = partial / "transformer" if pipeline else partial
    folder.mkdir(exist_ok=True)
    stored = stored_tensors(quantized.transformer, model.source_dtype)
    shapes, digests = stored.shapes(), {}

    def written(name: str) -> Tensor:
        tensor = stored.tensors[name]
        digests[name] = digest(tensor)
        return tensor

    write_in_turn(folder / WEIGHTS, shapes, written, {"format": "pt"})
    layers = {n: m for n, m in quantized.transformer.named_modules() if isinstance(m, QuantLinear)}
    config = CheckpointConfig(
        method=quantized.method,
        options=quantized.options,
        plan=quantized.plan,
        transforms={name: layer.transform.to_json() for name, layer in layers.items()},
        shared=stored.shared,
        tensors=digests,
        base=None if pipeline else model.pipeline_ref,
        recipe=recipe,
        outliers=model.outliers,
        loras=model.loras or None,
        sharing=quantized.sharing,
        attention=dict(quantized.attention),
    )
    described = {
        **{k: v for k, v in dict(model.pipe.transformer.config).items() if not k.startswith("_")},
        "_class_name": type(model.transformer).__name__,
        "_diffusers_version": diffusers.__version__,
        "quantization_config": config.to_json(),
    }
    (folder / CONFIG).write_text(
        json.dumps(described, indent=1, sort_keys=True) + "\n", encoding="utf-8"
    )
    size = (folder / WEIGHTS).stat().st_size
    if out.exists():
        out.rmdir()
    partial.replace(out)
    state = model.transformer.state_dict()
    half = {
        n: (
            tuple(state[n].shape),
            torch.float16 if state[n].is_floating_point() else state[n].dtype,
        )
        for n in stored_tensors(model.transformer, model.source_dtype).tensors
    }
    return report(shapes, model.sites, set(layers), size, file_bytes(half))


def check_free(out: Path) -> None:
    """Stop when a folder already holds something."""
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise BadInput(
            f"{out} exists and is not empty; choose another folder, nothing is written over"
        )


def _save_other_parts(model: Model, folder: Path) -> None:
    """Everything of the pipeline but its transformer, as it lies on disk."""
    shutil.copytree(
        model.path, folder, dirs_exist_ok=True, ignore=shutil.ignore_patterns("transformer", ".*")
    )
    for file in folder.glob("*/config.json"):
        config = json.loads(file.read_text(encoding="utf-8"))
        if (
            config.pop("_name_or_path", None) is not None
        ):  # some tools write a machine's folder there
            file.write_text(json.dumps(config, indent=2) + "\n", encoding="utf-8")


def transformer_folder(folder: Path) -> Path:
    """The transformer of a checkpoint: the folder itself, or `transformer/` of a whole pipeline."""
    return folder / "transformer" if (folder / "model_index.json").is_file() else folder


def read_config(folder: Path) -> CheckpointConfig | None:
    """Our part of a transformer folder's configuration; None when the folder is not ours."""
    file = transformer_folder(folder) / CONFIG
    if not file.is_file():
        raise BadCheckpoint(f"{folder}: not a checkpoint folder (no {CONFIG})")
    try:
        ours = json.loads(file.read_text(encoding="utf-8")).get("quantization_config") or {}
    except (ValueError, AttributeError):
        raise BadCheckpoint(f"{file}: not a JSON object; the file is damaged") from None
    return parse_config(ours, str(file)) if ours.get("quant_method") == "dqviz" else None


def parse_config(data: dict[str, Any], where: str) -> CheckpointConfig:
    """Check a `quantization_config` of ours; `where` names it in the error."""
    if data.get("format") != FORMAT:
        raise BadCheckpoint(
            f"{where}: checkpoint format {data.get('format')}; this version reads {FORMAT}, update dqviz"
        )
    try:
        return CheckpointConfig.parse(data, where)
    except BadInput as error:
        raise BadCheckpoint(str(error)) from None


def check_checkpoint(folder: Path) -> CheckpointConfig:
    """Read a checkpoint of ours and stop with one clear error at any damage."""
    config = read_config(folder)
    if config is None:
        raise BadCheckpoint(
            f"{folder}: not a checkpoint of dqviz (its config.json has no quantization_config of ours)"
        )
    weights = transformer_folder(folder) / WEIGHTS
    if not weights.is_file():
        raise BadCheckpoint(f"{folder}: {WEIGHTS} is missing")
    safetensors_header(weights)
    check_files(config, [weights])
    return config


def check_files(config: CheckpointConfig, files: Sequence[Path]) -> None:
    """Compare every tensor on disk with the configuration: none missing, none extra, none changed."""
    seen: dict[str, str] = {}
    for file in files:
        try:
            with safe_open(file, framework="pt") as opened:
                for name in opened.keys():  # noqa: SIM118  (not a dict)
                    seen[name] = digest(opened.get_tensor(name))
        except SafetensorError as error:
            raise BadCheckpoint(f"{file}: not readable as safetensors: {error}") from None
    where = files[0].name
    faults = (
        (set(config.tensors) - set(seen), "is missing"),
        (set(seen) - set(config.tensors), "does not belong"),
        (
            {n for n, value in config.tensors.items() if seen.get(n, value) != value},
            "was changed after saving",
        ),
    )
    for names, fault in faults:
        if names:
            raise BadCheckpoint(
                f"{where}: tensor '{min(names)}' {fault} ({len(names)} in all); save the checkpoint again"
            )
