"""A transformer in one safetensors file: a fine-tune, named as diffusers or as its authors name it.

Names and shapes are compared with the base pipeline's class before a weight is read. Where they are
the original authors', diffusers' own conversion renames them (the one of `from_single_file`).
"""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from .errors import BadCheckpoint, BadInput
from .weight_files import safetensors_header

PREFIXES = ("model.diffusion_model.", "diffusion_model.", "transformer.")
# In files that hold a whole pipeline; those parts are the base pipeline's.
OTHER_PARTS = ("first_stage_model.", "vae.", "text_encoders.", "text_encoder", "cond_stage_model.", "conditioner.")  # fmt: skip

Convert = Callable[[dict[str, Tensor]], dict[str, Tensor]]


def load_single_file(file: Path, folder: Path, dtype: torch.dtype) -> nn.Module:
    """The transformer of `file`, of the class that the base's transformer `folder` configures.

    Raises BadCheckpoint with what is missing, too much or of another shape.
    """
    import diffusers
    from accelerate import init_empty_weights
    from safetensors.torch import load_file

    config = json.loads((folder / "config.json").read_text(encoding="utf-8"))
    name = str(config.get("_class_name"))
    kind: Any = getattr(diffusers, name, None)
    if kind is None:
        raise BadInput(f"{folder}: this diffusers has no class {name}; update it")
    with init_empty_weights():
        transformer: nn.Module = kind.from_config(config)
    convert = conversion(file, name, config, transformer)
    tensors = convert(load_file(file))
    exact = getattr(kind, "_keep_in_fp32_modules", None) if dtype == torch.float16 else None
    for key, tensor in tensors.items():
        kept = any(part in key.split(".") for part in exact or ())
        tensors[key] = tensor.to(torch.float32 if kept else dtype)
    transformer.load_state_dict(tensors, strict=True, assign=True)
    return transformer.eval()


def conversion(file: Path, name: str, config: Mapping[str, Any], transformer: nn.Module) -> Convert:
    """What makes the transformer's own tensors of the file's, found from its header alone.

    `transformer` may be on the meta device; `name` is its class.
    """
    from diffusers.loaders.single_file_model import SINGLE_FILE_LOADABLE_CLASSES

    wanted = {key: tuple(t.shape) for key, t in transformer.state_dict().items()}
    empty = {
        key: torch.empty(entry["shape"], device="meta")
        for key, entry in safetensors_header(file).items()
        if key != "__metadata__"
    }
    plain = _own_part(empty)
    known = SINGLE_FILE_LOADABLE_CLASSES.get(name)
    if len(set(plain) & set(wanted)) >= len(wanted) / 2 or known is None:
        _compare(plain, wanted, file, name, "" if known else _no_conversion(name))
        return _own_part
    rename = known["checkpoint_mapping_fn"]

    def convert(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
        return rename(checkpoint=_own_part(tensors), config=dict(config))

    try:
        made = convert(empty)
    except (KeyError, IndexError, ValueError, RuntimeError) as error:
        first = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise BadCheckpoint(
            f"{file}: neither in diffusers' naming of a {name}, nor in the original one as diffusers "
            f"converts it ({type(error).__name__}: {first}); is --base the pipeline that it was tuned from?"
        ) from None
    _compare(made, wanted, file, name)
    return convert


def _own_part(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Tensors of the transformer alone, without the prefix that some tools put before their names."""
    for prefix in PREFIXES:
        if any(key.startswith(prefix) for key in tensors):
            return {k.removeprefix(prefix): t for k, t in tensors.items() if k.startswith(prefix)}
    return {k: t for k, t in tensors.items() if not k.startswith(OTHER_PARTS)}


def _no_conversion(name: str) -> str:
    return f" (diffusers' naming is read; for {name} it has no conversion from another)"


def _compare(
    found: Mapping[str, Tensor],
    wanted: Mapping[str, tuple[int, ...]],
    file: Path,
    name: str,
    remark: str = "",
) -> None:
    """Stop unless the file holds exactly the tensors of the class, each in its shape."""
    missing = [key for key in wanted if key not in found]
    extra = [key for key in found if key not in wanted]
    other = [key for key in wanted if key in found and tuple(found[key].shape) != wanted[key]]
    faults = []
    if missing:
        faults.append(f"{_counted(missing)} missing, first '{missing[0]}'")
    if extra:
        faults.append(f"{_counted(extra)} too much, first '{extra[0]}'")
    if other:
        key = other[0]
        faults.append(
            f"{_counted(other)} of another shape, first '{key}': {list(found[key].shape)} instead of "
            f"{list(wanted[key])}"
        )
    if faults:
        raise BadCheckpoint(
            f"{file} does not fit the {name} of its base: {'; '.join(faults)}{remark}; is --base the "
            "pipeline that it was tuned from?"
        )


def _counted(names: list[str]) -> str:
    return f"{len(names)} tensor{'' if len(names) == 1 else 's'}"
