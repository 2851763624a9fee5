"""Loading a model as people name it: an embedded key, a folder, a file, or a hub id.

There is one path for all: whatever the source, a diffusers pipeline is loaded, its transformer's
adapter is found by class, and its card is read from `dqviz.json` beside it or made from the
pipeline's own configuration.
"""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from .errors import BadCheckpoint, BadInput, EnvironmentFault, unknown
from .schema import Injection, Sample, Sampler, Value, fingerprint

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .adapters import Adapter, Site

CARD_NAME = "dqviz.json"
EMBEDDED = Path(__file__).parents[1] / "assets" / "models"
DTYPES = ("auto", "float32", "float16", "bfloat16")
DEVICES = ("auto", "cpu", "cuda")


class ModelCard(Value):
    """What a person should know before drawing: `dqviz.json`, or a family's defaults."""

    format: Literal[1] = 1
    key: str
    title: str
    family: str
    task: str
    guidance: float = Field(ge=0)
    steps: int = Field(ge=1)
    scheduler: str | None = None  # diffusers class name; None: the pipeline's own
    classes: dict[str, str] = {}  # class id -> name, only those that were trained
    prompts: tuple[str, ...] = ()
    licence: str = "unknown"
    training: str = ""
    classifier: str | None = None  # key of the shipped classifier that judges this model


@cache
def embedded_models() -> dict[str, Path]:
    """Folders of the models that come with the repository, by key."""
    cards = sorted(EMBEDDED.glob(f"*/{CARD_NAME}"))
    return {json.loads(card.read_text(encoding="utf-8"))["key"]: card.parent for card in cards}


@dataclass
class Model:
    """A loaded diffusers pipeline with what the engine knows of it."""

    ref: str
    path: Path  # local folder of the pipeline; a hub model's lies in the hub's cache
    from_hub: bool
    pipe: Any
    adapter: Adapter
    card: ModelCard
    sites: list[Site]
    source_dtype: torch.dtype  # dtype of the weights on disk: checkpoints are written in it
    device: torch.device
    dtype: torch.dtype
    revision: str | None = None
    classes: dict[int, str] = field(default_factory=dict)
    outliers: Injection | None = None  # synthetic ones, put in by `quant.outliers`

    @property
    def key(self) -> str:
        """Short name for folders and tables."""
        return self.card.key

    @property
    def transformer(self) -> nn.Module:
        """The full-precision transformer."""
        return self.pipe.transformer

    @property
    def fingerprint(self) -> str:
        """Of the site list, and of synthetic outliers: a plan fits a model when this agrees."""
        sites = [[s.name, s.role, s.in_features, s.out_features] for s in self.sites]
        return fingerprint(sites if self.outliers is None else [sites, self.outliers.to_json()])

    def sampler(
        self, steps: int | None = None, guidance: float | None = None, scheduler: str | None = None
    ) -> Sampler:
        """The card's sampler with what is given put over it."""
        steps = self.card.steps if steps is None else steps
        guidance = self.card.guidance if guidance is None else guidance
        if not 1 <= steps <= 1000:
            raise BadInput(f"steps {steps} is out of range; 1 to 1000")
        if not 0 <= guidance <= 100:
            raise BadInput(
                f"guidance {guidance:g} is out of range; 0 to 100 (1 turns guidance off)"
            )
        name = scheduler or self.card.scheduler or type(self.pipe.scheduler).__name__
        config = {
            k: v
            for k, v in self.pipe.scheduler.config.items()
            if not k.startswith("_") and _is_json(v)
        }
        return Sampler(scheduler=name, config=config, steps=steps, guidance=guidance)

    def samples(
        self,
        seeds: Sequence[int],
        classes: Sequence[str] | None = None,
        prompts: Sequence[str] | None = None,
    ) -> tuple[Sample, ...]:
        """Sample i takes seed i and class or prompt i mod n; the card's list where none is given."""
        if self.adapter.conditioned_on == "class":
            if prompts:
                raise BadInput(
                    f"{self.key} draws classes, not prompts; give --classes, e.g. {_some(self.classes.values())}"
                )
            ids = [self.class_id(c) for c in classes] if classes else sorted(self.classes)
            if not ids:
                raise BadInput(
                    f"{self.key} has no list of trained classes; give --classes with class ids"
                )
            return tuple(Sample(seed=s, class_id=ids[i % len(ids)]) for i, s in enumerate(seeds))
        if classes:
            raise BadInput(f"{self.key} draws prompts, not classes; give --prompt")
        texts = list(prompts or self.card.prompts)
        if not texts:
            raise BadInput(f"{self.key} has no sample prompts; give --prompt")
        return tuple(Sample(seed=s, prompt=texts[i % len(texts)]) for i, s in enumerate(seeds))

    def class_id(self, text: str) -> int:
        """Class id from an id or a name; a class that was never trained is bad input."""
        by_name = {name: key for key, name in self.classes.items()}
        text = text.strip()
        if text.isdigit():
            if int(text) in self.classes or not self.classes:
                return int(text)
            raise BadInput(
                f"class {text} was never trained in {self.key}; trained: {_some(self.classes.values())} "
                f"(ids {_some(self.classes)})"
            )
        if text in by_name:
            return by_name[text]
        raise unknown("class", text, by_name, f"Classes of {self.key}: dqviz models --json")


def load_model(
    ref: str, *, dtype: str = "auto", device: str = "auto", revision: str | None = None
) -> Model:
    """Load a model by embedded key, folder, `.safetensors` path or `owner/name[@revision]`.

    Args:
        ref: what the person wrote.
        dtype: `auto` computes in float32 on a CPU and in the stored dtype on a GPU.
        device: `auto` takes CUDA where there is one.
        revision: hub revision, also written `owner/name@revision`.
    """
    import torch

    from .adapters import adapter_for
    from .adapters.base import check_finite

    if dtype not in DTYPES:
        raise unknown("dtype", dtype, DTYPES)
    if device not in DEVICES:
        raise unknown("device", device, DEVICES)
    if device == "cuda" and not torch.cuda.is_available():
        raise EnvironmentFault(
            "device 'cuda' was asked for, but torch sees no GPU here; use --device cpu"
        )
    target = torch.device(
        "cuda" if device == "auto" and torch.cuda.is_available() else device.replace("auto", "cpu")
    )
    path, revision = resolve(ref, revision)
    from_hub = path is None
    if path is None:
        path = _download(ref.partition("@")[0], revision)
    check_pipeline_folder(path)
    source_dtype = stored_dtype(path / "transformer")
    compute = getattr(torch, dtype) if dtype != "auto" else torch.float32
    if dtype == "auto" and target.type != "cpu":
        compute = source_dtype
    pipe = _load_pipeline(path, compute)
    pipe.to(target)
    pipe.set_progress_bar_config(disable=True)
    pipe.transformer.eval()
    check_finite(pipe.transformer, ref)
    adapter = adapter_for(pipe.transformer)
    card = _card(path, ref, pipe, adapter)
    return Model(
        ref=ref,
        path=path,
        from_hub=from_hub,
        pipe=pipe,
        adapter=adapter,
        card=card,
        sites=adapter.sites(pipe.transformer),
        source_dtype=source_dtype,
        device=target,
        dtype=compute,
        revision=revision,
        classes={int(k): v for k, v in card.classes.items()},
    )


def resolve(
    ref: str, revision: str | None = None, extra: Iterable[str] = ()
) -> tuple[Path | None, str | None]:
    """Where a model lies: a local folder, or `None` with the revision for the hub.

    `extra` are other names that the caller takes, for the error's list.
    """
    if ref in embedded_models():
        return embedded_models()[ref], None
    path = Path(ref).expanduser()
    if path.is_dir():
        return path, None
    if path.suffix == ".safetensors":
        if not path.is_file():
            raise BadInput(f"{ref}: there is no such file")
        raise BadInput(
            f"{ref}: a single transformer file needs its pipeline; give the pipeline's folder, "
            "or put the file into its transformer/ folder"
        )
    name, _, at = ref.partition("@")
    parts = name.split("/")
    if len(parts) == 2 and all(parts) and not ref.startswith((".", "/", "~")) and not path.exists():
        return None, at or revision
    if "/" in ref or path.exists():
        raise BadInput(
            f"{ref}: there is no such folder; a model is an embedded key, a folder, or owner/name"
        )
    raise unknown("model", ref, [*embedded_models(), *extra], "List them: dqviz models")


def check_pipeline_folder(path: Path) -> None:
    """Stop with one clear error when a folder is not a diffusers pipeline or holds damaged weights."""
    if not (path / "model_index.json").is_file():
        hint = ""
        if (path / "config.json").is_file():
            hint = "; it looks like a transformer alone: give its pipeline's folder, or dqviz generate CHECKPOINT --base MODEL"
        raise BadInput(f"{path}: not a diffusers pipeline folder (no model_index.json){hint}")
    for file in sorted(path.glob("**/*.safetensors")):
        safetensors_header(file)
    pickles = [p.name for p in path.glob("transformer/*.bin")]
    if pickles and not list(path.glob("transformer/*.safetensors")):
        raise BadInput(
            f"{path}: weights are pickled ({pickles[0]}); only safetensors are read. Convert them with safe_serialization=True"
        )


def safetensors_header(file: Path) -> dict[str, Any]:
    """Header of a safetensors file, checked against the file's own size."""
    size = file.stat().st_size
    with file.open("rb") as stream:
        first = stream.read(8)
        length = struct.unpack("<Q", first)[0] if len(first) == 8 else 0
        if not 2 <= length <= size - 8:
            raise BadCheckpoint(
                f"{file}: not a safetensors file, or cut off inside its header ({size} bytes)"
            )
        try:
            header = json.loads(stream.read(length))
            end = max(
                (e["data_offsets"][1] for k, e in header.items() if k != "__metadata__"), default=0
            )
        except (ValueError, KeyError, TypeError, AttributeError):
            raise BadCheckpoint(
                f"{file}: not a safetensors file: its header is not readable"
            ) from None
    if end != size - 8 - length:
        raise BadCheckpoint(
            f"{file}: truncated or padded: its header promises {end + 8 + length} bytes, the file has {size}"
        )
    return header


_STORED = {"F64": "float64", "F32": "float32", "F16": "float16", "BF16": "bfloat16"}


def stored_dtype(folder: Path) -> torch.dtype:
    """Floating dtype that holds most of the weights on disk."""
    import torch

    counts: dict[str, int] = {}
    for file in folder.glob("*.safetensors"):
        for name, entry in safetensors_header(file).items():
            if name != "__metadata__" and entry["dtype"] in _STORED:
                low, high = entry["data_offsets"]
                counts[entry["dtype"]] = counts.get(entry["dtype"], 0) + high - low
    return (
        getattr(torch, _STORED[max(counts, key=lambda k: counts[k])]) if counts else torch.float16
    )


def _download(name: str, revision: str | None) -> Path:
    """Folder of a hub pipeline in the hub's own cache, downloaded where it is not there yet."""
    from diffusers import DiffusionPipeline
    from huggingface_hub.errors import GatedRepoError

    try:
        return Path(DiffusionPipeline.download(name, revision=revision, use_safetensors=True))
    except GatedRepoError:
        raise EnvironmentFault(
            f"{name} is gated; accept its licence on its page, then run: hf auth login"
        ) from None
    except (
        OSError,
        ValueError,
        KeyError,
    ) as error:  # every hub and network error derives from one of these
        raise EnvironmentFault(
            f"the hub does not give '{name}' (no network, or no such repository or revision: {type(error).__name__}); "
            "give a local folder, or an embedded model (dqviz models)"
        ) from None


def _load_pipeline(folder: Path, dtype: torch.dtype) -> Any:
    """Through diffusers; its many errors become ours."""
    from diffusers import DiffusionPipeline

    try:
        return DiffusionPipeline.from_pretrained(
            folder, local_files_only=True, dtype=dtype, use_safetensors=True
        )
    except (OSError, ValueError, KeyError) as error:
        first = str(error).strip().splitlines()[0]
        raise BadCheckpoint(f"{folder}: diffusers cannot load it: {first}") from None


def _card(path: Path, ref: str, pipe: Any, adapter: Adapter) -> ModelCard:
    """What the folder's own card says, over the family's defaults."""
    name = Path(ref.partition("@")[0]).name or path.resolve().name
    labels = sorted(
        getattr(pipe, "labels", {}).items(), key=lambda entry: (entry[1], len(entry[0]))
    )
    defaults = {
        "key": name.lower(),
        "title": name,
        "family": adapter.family,
        "task": "class-to-image" if adapter.conditioned_on == "class" else "text-to-image",
        "guidance": 4.0,
        "steps": 20,
        "classes": {str(i): label for label, i in reversed(labels)},
    }
    own: object = {}
    if (path / CARD_NAME).is_file():
        try:
            own = json.loads((path / CARD_NAME).read_text(encoding="utf-8"))
        except ValueError as error:
            raise BadInput(f"{path / CARD_NAME}: not JSON: {error}") from None
    where = str(path / CARD_NAME)
    if not isinstance(own, dict):
        raise BadInput(f"{where}: a model card is a JSON object")
    return ModelCard.parse({**defaults, **own}, where)


def _some(names: Any) -> str:
    listed = [str(n) for n in names]
    return ", ".join(listed[:6]) + (", ..." if len(listed) > 6 else "")


def _is_json(value: object) -> bool:
    return isinstance(value, str | int | float | bool | list | type(None))
