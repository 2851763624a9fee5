"""Our checkpoints in plain diffusers: `import quant`, then `from_pretrained` as always.

diffusers finds a quantizer by the `quant_method` of a folder's `config.json`. Ours swaps the listed
sites for empty `QuantLinear`s, lets the ordinary loader fill them without touching their dtypes,
and restores tensors that were stored once because they were equal.
"""

from __future__ import annotations

from enum import Enum
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers.quantizers import auto
from diffusers.quantizers.base import DiffusersQuantizer
from diffusers.quantizers.quantization_config import QuantizationConfigMixin
from torch import nn

from .adapters import adapter_for
from .attention_ranges import attach as attach_ranges
from .checkpoint import CheckpointConfig, check_files, parse_config
from .errors import BadCheckpoint, EnvironmentFault
from .fusing import attach as attach_fusing
from .int_attention import attach as attach_int_attention
from .layers import QuantLinear
from .schema import SitePlan
from .shared_inputs import share_codes
from .sharing import attach as attach_sharing
from .site_tensors import Transform
from .step import attach
from .swapping import swap

SUPPORTED = ("0.42",)


class QuantMethod(str, Enum):  # noqa: UP042  (diffusers reads `.value` and compares with plain strings)
    """Name of our quantizer in `config.json`."""

    DQVIZ = "dqviz"


class DQVizConfig(QuantizationConfigMixin):
    """diffusers' view of `CheckpointConfig`."""

    def __init__(self, **fields: Any) -> None:
        fields.pop("quant_method", None)
        self.quant_method = QuantMethod.DQVIZ  # pyright: ignore[reportAttributeAccessIssue]  (diffusers' own enum is closed)
        self.checkpoint = parse_config(fields, "quantization_config")

    def to_dict(self) -> dict[str, Any]:
        """JSON types only."""
        return self.checkpoint.to_json()

    def to_diff_dict(self) -> dict[str, Any]:
        """Like `to_dict`: there are no defaults worth hiding."""
        return self.to_dict()


class DQVizQuantizer(DiffusersQuantizer):
    """Fills packed layers from a checkpoint; never quantizes on load."""

    requires_calibration = False
    use_keep_in_fp32_modules = True  # as without quantization: Wan keeps tables and norms so
    quantization_config: DQVizConfig

    def validate_environment(self, *args: Any, **kwargs: Any) -> None:
        """Our registration relies on internals of diffusers, so an untested version is said."""
        if not diffusers.__version__.startswith(SUPPORTED):
            raise EnvironmentFault(
                f"dqviz checkpoints load with diffusers {' or '.join(SUPPORTED)}, this is {diffusers.__version__}"
            )

    def update_torch_dtype(self, torch_dtype: torch.dtype) -> torch.dtype:
        """Remember the dtype that kept weights and biases are loaded in."""
        self.dtype = torch_dtype or torch.float32
        return torch_dtype

    def update_missing_keys(
        self, model: nn.Module, missing_keys: list[str], prefix: str
    ) -> list[str]:
        """Tensors stored once under another name are not missing; any other that is, is an error."""
        checkpoint = self.quantization_config.checkpoint
        missing = sorted(set(missing_keys) - set(checkpoint.shared))
        if missing:
            raise BadCheckpoint(
                f"the checkpoint lacks tensor '{missing[0]}' ({len(missing)} missing); save it again"
            )
        return []

    def maybe_update_loaded_keys(
        self, loaded_keys: list[str], checkpoint_files: list[str]
    ) -> list[str]:
        """Stop at tensors that the configuration does not list."""
        check_files(self.quantization_config.checkpoint, [Path(file) for file in checkpoint_files])
        return loaded_keys

    def _process_model_before_weight_loading(self, model: nn.Module, **kwargs: Any) -> None:
        checkpoint = self.quantization_config.checkpoint
        names = {name for name, _ in model.named_modules()}
        for name, site_plan in checkpoint.plan.sites.items():
            if not site_plan.quantized:
                continue
            if name not in names or not isinstance(linear := model.get_submodule(name), nn.Linear):
                raise BadCheckpoint(
                    f"the checkpoint quantizes site '{name}', which this transformer does not have"
                )
            swap(model, name, empty_layer(linear, site_plan, checkpoint, name, self.dtype))
        for layer, (name, holder) in _shared_bases(model, checkpoint):
            layer.share_basis(name, holder)  # so that its own copy is not missed

    def check_if_quantized_param(
        self, model: nn.Module, param_value: Any, param_name: str, *args: Any, **kwargs: Any
    ) -> bool:
        """Tensors of our layers are set as they are stored; the loader would cast their scales."""
        return isinstance(model.get_submodule(param_name.rpartition(".")[0]), QuantLinear)

    def check_quantized_param_shape(
        self, param_name: str, current: torch.Tensor, loaded: torch.Tensor
    ) -> bool:
        """A stored tensor has exactly the shape that its format needs."""
        if tuple(loaded.shape) != tuple(current.shape):
            raise BadCheckpoint(
                f"tensor '{param_name}' has shape {tuple(loaded.shape)}, its format needs {tuple(current.shape)}"
            )
        return True

    def create_quantized_param(
        self,
        model: nn.Module,
        param_value: torch.Tensor,
        param_name: str,
        target_device: Any,
        state_dict: dict[str, torch.Tensor],
        *args: Any,
        **kwargs: Any,
    ) -> None:
        """Set one stored tensor from the file itself: `param_value` was already cast to the model's dtype."""
        owner, _, last = param_name.rpartition(".")
        layer = model.get_submodule(owner)
        stored = state_dict[param_name]
        if stored.is_floating_point() and not bool(torch.isfinite(stored.float()).all()):
            raise BadCheckpoint(f"tensor '{param_name}' holds NaN or infinity; save it again")
        if last == "migration" and not bool(stored.all()):
            raise BadCheckpoint(f"tensor '{param_name}' has a factor 0; save it again")
        setattr(layer, last, stored.to(device=target_device, dtype=layer.get_buffer(last).dtype))

    def _process_model_after_weight_loading(self, model: nn.Module, **kwargs: Any) -> nn.Module:
        checkpoint = self.quantization_config.checkpoint
        for absent, present in checkpoint.shared.items():
            owner, _, last = absent.rpartition(".")
            if not isinstance(model.get_submodule(owner), QuantLinear):
                setattr(model.get_submodule(owner), last, model.get_parameter(present))
        for layer, (name, holder) in _shared_bases(model, checkpoint):
            layer.share_basis(name, holder)
        adapter = adapter_for(model)
        share_codes(model, adapter.sites(model))
        attach(model, checkpoint.plan.windows, adapter.noisiest_timestep)
        attach_int_attention(model, adapter, checkpoint.plan.attention)
        if checkpoint.sharing is not None:
            attach_sharing(model, adapter, checkpoint.sharing)
        attach_ranges(model, checkpoint.attention)
        attach_fusing(model, adapter)
        return model

    @property
    def is_serializable(self) -> bool:
        """Saving again writes the same tensors."""
        return True

    @property
    def is_trainable(self) -> bool:
        """Integers have no gradient."""
        return False


def _shared_bases(
    model: nn.Module, checkpoint: CheckpointConfig
) -> list[tuple[QuantLinear, tuple[str, QuantLinear]]]:
    """Sites whose change of basis lies in the file under another site's name, with that site."""
    owners = {a.rpartition(".")[0]: p.rpartition(".")[0] for a, p in checkpoint.shared.items()}
    found = []
    for name, owner in owners.items():
        layer, holder = model.get_submodule(name), model.get_submodule(owner)
        if isinstance(layer, QuantLinear) and isinstance(holder, QuantLinear):
            if layer.basis_buffers != holder.basis_buffers:
                raise BadCheckpoint(
                    f"the checkpoint stores the change of basis of site '{name}' at '{owner}', "
                    "which has another; save it again"
                )
            found.append((layer, (owner, holder)))
    return found


def empty_layer(
    linear: nn.Linear, plan: SitePlan, checkpoint: CheckpointConfig, name: str, dtype: torch.dtype
) -> QuantLinear:
    """The layer of one site before its tensors are read; `dtype` is that of its bias."""
    with torch.device("cpu"):
        layer = QuantLinear(
            linear.in_features,
            linear.out_features,
            bias=linear.bias is not None,
            plan=plan,
            windows=checkpoint.plan.windows,
            transform=Transform.from_json(checkpoint.transforms[name]),
            dtype=dtype,
        )
    folded = (Transform.from_json(t).folded_into for t in checkpoint.transforms.values())
    if linear.bias is not None and any(name in into for into in folded):
        layer.bias = layer.bias.float()  # holds the scale of another layer, in all its digits
    return layer


# Importing this module, directly or through the hook in `quant`, is what registers it.
auto.AUTO_QUANTIZER_MAPPING["dqviz"] = DQVizQuantizer  # type: ignore[assignment]
auto.AUTO_QUANTIZATION_CONFIG_MAPPING["dqviz"] = DQVizConfig  # type: ignore[assignment]
