"""Somebody's quantized transformer beside ours: any folder that diffusers loads for this model."""

from __future__ import annotations

import importlib.util
import json
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.errors import BadCheckpoint, BadInput, EnvironmentFault
from quant.schema import Injection, Lora, Outliers
from quant.weight_files import file_digest

if TYPE_CHECKING:
    from torch import nn

    from quant.models import Model
    from quant.schema import Plan

    from .request import CompareRequest

# quant_method of a configuration -> the package that diffusers needs for it, and how to get it
PACKAGES = {
    "torchao": ("torchao", "torchao"),
    "quanto": ("optimum", "optimum-quanto"),
    "bitsandbytes": ("bitsandbytes", "bitsandbytes"),
    "gguf": ("gguf", "gguf"),
    "modelopt": ("modelopt", "nvidia-modelopt"),
}
OURS, UNQUANTIZED = "dqviz", "unquantized"


@dataclass(frozen=True)
class Candidate:
    """A loaded transformer with what its folder says of it."""

    folder: Path
    transformer: nn.Module
    made_by: str  # quant_method of its configuration, or "unquantized"
    method: str  # ours: the method's key; else the same as `made_by`
    options: dict[str, Any]
    plan: Plan | None
    size_bytes: int  # safetensors on disk
    quantized: tuple[str, ...]
    kept: dict[str, str]


def check_outliers(path: Path, config: Mapping[str, Any], outliers: Outliers | None) -> None:
    """Stop when a candidate was made from a model with other synthetic outliers than these."""
    found = (config.get("quantization_config") or {}).get("outliers")
    theirs = None if found is None else Injection.parse(found, f"candidate {path}").asked
    if theirs != outliers:
        said = [f"{o} outliers" if o else "no synthetic outliers" for o in (theirs, outliers)]
        raise BadInput(
            f"candidate {path} was made from a model with {said[0]}, this comparison is of one with "
            f"{said[1]}; compare like with like"
        )


def check_loras(path: Path, config: Mapping[str, Any], loras: Sequence[Lora]) -> None:
    """Stop when a candidate of ours was made from a model with other LoRAs than these."""
    described = config.get("quantization_config") or {}
    if described.get("quant_method") != OURS:
        return
    theirs = [(x.get("digest"), x.get("scale")) for x in described.get("loras") or ()]
    ours = [(file_digest(Path(x.file).expanduser()), x.scale) for x in loras]
    if theirs != ours:
        named = [x.get("file", "?") for x in described.get("loras") or ()] or ["none"]
        raise BadInput(
            f"candidate {path} was made from a model with other LoRAs ({', '.join(map(str, named))}); "
            "compare like with like: give the same --lora FILE:SCALE, in the same order"
        )


def check_candidate(path: Path) -> dict[str, Any]:
    """Configuration of a transformer folder (or of a pipeline's); needs no torch.

    Raises BadInput when it is no such folder or its weights are pickled, EnvironmentFault when the
    package that reads its format is absent.
    """
    folder = transformer_of(path)
    if not folder.is_dir():
        raise BadInput(f"candidate {path}: there is no such folder; give a transformer folder")
    try:
        config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise BadInput(
            f"candidate {path}: no config.json in it; give a transformer folder that diffusers wrote"
        ) from None
    except ValueError:
        raise BadCheckpoint(
            f"candidate {path}: its config.json is not JSON; save it again"
        ) from None
    if not isinstance(config, dict) or not isinstance(config.get("_class_name"), str):
        raise BadCheckpoint(
            f"candidate {path}: its config.json names no transformer class (_class_name); save it again"
        )
    made_by = quant_method(config)
    package, project = PACKAGES.get(made_by, (None, ""))
    if package is not None and importlib.util.find_spec(package) is None:
        raise EnvironmentFault(
            f"candidate {path} was quantized by {made_by}, which is not installed here; "
            f"pip install {project}"
        )
    if not list(folder.glob("*.safetensors")):
        pickled = next(iter(sorted(folder.glob("*.bin"))), None)
        what = f"its weights are pickled ({pickled.name})" if pickled else "it holds no safetensors"
        raise BadInput(
            f"candidate {path}: {what}; save it with safe_serialization=True, only safetensors are read"
        )
    return config


def transformer_of(path: Path) -> Path:
    """The transformer folder of a pipeline folder, or the folder itself."""
    return path / "transformer" if (path / "model_index.json").is_file() else path


def quant_method(config: dict[str, Any]) -> str:
    """Who quantized a configuration's model; "unquantized" where nobody did."""
    described = config.get("quantization_config")
    if not isinstance(described, dict):
        return UNQUANTIZED
    return str(described.get("quant_method") or "unknown")


def load_candidate(path: Path, model: Model) -> Candidate:
    """Load a checkpoint in place of the model's transformer; every fault is one line."""
    from quant.checkpoint import check_checkpoint

    config = check_candidate(path)
    made_by = quant_method(config)
    ours = check_checkpoint(path) if made_by == OURS else None
    if config["_class_name"] != type(model.transformer).__name__:
        raise BadInput(
            f"candidate {path} is a {config['_class_name']}, {model.key} is a "
            f"{type(model.transformer).__name__}; compare it with its own model"
        )
    if ours is not None and ours.plan.model != model.fingerprint:
        raise BadInput(
            f"candidate {path} was quantized from another model than {model.key}; name its own model"
        )
    transformer = _load(path, config["_class_name"], model)
    quantized, kept = _scope(transformer, model)
    return Candidate(
        folder=path,
        transformer=transformer,
        made_by=made_by,
        method=made_by if ours is None else ours.method,
        options={} if ours is None else ours.options,
        plan=None if ours is None else ours.plan,
        size_bytes=sum(f.stat().st_size for f in transformer_of(path).glob("*.safetensors")),
        quantized=quantized,
        kept=kept,
    )


def compute_as_asked(candidate: Candidate, request: CompareRequest) -> None:
    """Have a checkpoint of ours run on the backend and hold its weights in the mode that a request names."""
    from quant.plans import check_simulated
    from quant.residency import compute_with

    if candidate.plan is not None:
        check_simulated(candidate.plan, request.backend)
    compute_with(candidate.transformer, request.backend, request.residency)


def _load(path: Path, class_name: str, model: Model) -> nn.Module:
    import diffusers
    from safetensors import SafetensorError

    from quant.weight_files import safetensors_header

    folder = transformer_of(path)
    for file in sorted(folder.glob("*.safetensors")):
        safetensors_header(file)
    kind = getattr(diffusers, class_name, None)
    if kind is None:
        raise BadInput(f"candidate {path}: this diffusers has no class {class_name}; update it")
    try:
        loaded = kind.from_pretrained(
            folder, dtype=model.dtype, use_safetensors=True, local_files_only=True
        )
    except (OSError, ValueError, KeyError, RuntimeError, SafetensorError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadCheckpoint(f"candidate {path}: diffusers cannot load it: {first}") from None
    except ImportError as error:
        raise EnvironmentFault(f"candidate {path}: a package is missing here: {error}") from None
    return loaded.to(model.device).eval()


def _scope(transformer: nn.Module, model: Model) -> tuple[tuple[str, ...], dict[str, str]]:
    """Which of the model's sites are quantized in a loaded transformer, whoever made it."""
    quantized, kept = [], {}
    for site in model.sites:
        try:
            module = transformer.get_submodule(site.name)
        except AttributeError:
            raise BadCheckpoint(
                f"candidate has no layer {site.name}, {model.key} has; compare it with its own model"
            ) from None
        if is_quantized(module):
            quantized.append(site.name)
        else:
            kept[site.name] = site.kept_reason or "the checkpoint keeps it in floating point"
    return tuple(quantized), kept


def is_quantized(module: nn.Module) -> bool:
    """Whether a linear layer is anything but an ordinary one with a floating weight."""
    import torch
    from torch import nn

    if type(module) is not nn.Linear:
        return True
    weight = module.weight
    return type(weight) not in (torch.Tensor, nn.Parameter) or not weight.is_floating_point()


def site_bytes(path: Path, sites: Collection[str]) -> int:
    """Bytes that the weights of these sites take in a checkpoint's files: codes, scales and all."""
    from quant.weight_files import safetensors_header

    total = 0
    for file in transformer_of(path).glob("*.safetensors"):
        for name, entry in safetensors_header(file).items():
            owner, _, last = name.rpartition(".")
            if last != "bias" and any(part in sites for part in (owner, owner.rpartition(".")[0])):
                low, high = entry["data_offsets"]
                total += high - low
    return total
