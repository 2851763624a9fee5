"""What a person names as a model, and where its files lie on this machine.

A source is an embedded key, a folder, a hub id or a single file, with what is put over it. `locate`
brings it to this machine as a folder of a diffusers pipeline; opening that is `quant.loading`.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Self

from .errors import BadInput, unknown
from .hub import download
from .models import embedded_models
from .schema import Lora, Value
from .weight_files import safetensors_header

SINGLE_FILE = ".safetensors"
TRANSFORMER = "transformer"  # its folder in a pipeline


class Source(Value):
    """A model as it is asked for."""

    ref: str  # embedded key, folder, file, or owner/name[@revision]
    base: str | None = None  # the pipeline that a single file's transformer belongs to
    loras: tuple[Lora, ...] = ()  # fused into the weights, in this order
    offline: bool = False  # nothing is asked of a hub; what its cache holds is enough

    @classmethod
    def of(
        cls,
        ref: str,
        *,
        revision: str | None = None,
        base: str | None = None,
        loras: Sequence[str | Lora] = (),
        offline: bool = False,
    ) -> Self:
        """A source from what a person wrote; a LoRA is FILE or FILE:SCALE."""
        return cls(
            ref=with_revision(ref, revision),
            base=base,
            loras=tuple(parse_lora(x) if isinstance(x, str) else x for x in loras),
            offline=offline,
        )


@dataclass(frozen=True)
class Located:
    """A source on this machine."""

    source: Source
    folder: Path  # of a diffusers pipeline; a hub model's lies in the hub's cache
    from_hub: bool = False
    revision: str | None = None  # the hub's commit
    weights: Path | None = None  # the transformer's single file, instead of the folder's own

    @property
    def config(self) -> Path:
        """Folder with the transformer's configuration."""
        return self.folder / TRANSFORMER

    @property
    def files(self) -> tuple[Path, ...]:
        """The safetensors files of the transformer."""
        if self.weights is not None:
            return (self.weights,)
        return tuple(sorted(self.config.glob("*.safetensors")))

    @property
    def stored_bytes(self) -> int:
        """Bytes of all weights of the pipeline."""
        parts = self.folder.glob("*/*.safetensors")
        others = [file for file in parts if file.parent.name != TRANSFORMER]
        return sum(file.stat().st_size for file in (*others, *self.files))


def check_source(source: Source, extra: Iterable[str] = ()) -> None:
    """Stop at what can be told without a network and without reading weights.

    `extra` are other names that the caller takes, for the error's list.
    """
    path, _ = resolve(source.ref, extra=extra)
    single = path if path is not None and path.is_file() else None
    if single is not None and source.base is None:
        raise BadInput(
            f"{source.ref}: a single file holds a transformer alone; name the pipeline that it was "
            "tuned from with --base MODEL (a folder, an embedded key or owner/name)"
        )
    if single is None and source.base is not None:
        raise BadInput(
            f"{source.ref} is a whole model; --base goes with a transformer in a {SINGLE_FILE} file"
        )
    if single is not None:
        base, _ = resolve(str(source.base))
        if base is not None and base.is_file():
            raise BadInput(f"--base {source.base} is a single file too; name a whole pipeline")
        safetensors_header(single)
    for lora in source.loras:
        check_lora(lora)


def check_lora(lora: Lora) -> None:
    """Stop when a LoRA's file is absent, pickled or damaged."""
    path = Path(lora.file).expanduser()
    if not path.is_file():
        raise BadInput(f"LoRA {lora.file}: there is no such file; write --lora FILE or FILE:SCALE")
    if path.suffix != SINGLE_FILE:
        raise BadInput(
            f"LoRA {lora.file}: only {SINGLE_FILE} is read, pickled weights are not; convert it"
        )
    safetensors_header(path)


def locate(source: Source) -> Located:
    """The source as a folder on this machine; a hub model is downloaded where it is not cached."""
    check_source(source)
    path, _ = resolve(source.ref)
    if path is None or path.is_dir():
        return replace(_pipeline(source.ref, source.offline), source=source)
    found = _pipeline(str(source.base), source.offline, transformer=False)
    if not (found.config / "config.json").is_file():
        raise BadInput(f"--base {source.base}: its transformer/ has no config.json; name another")
    return replace(found, source=source, weights=path)


def _pipeline(ref: str, offline: bool, transformer: bool = True) -> Located:
    """A whole pipeline; without `transformer`, its transformer's weights may be absent."""
    folder, revision = resolve(ref)
    if folder is None:
        name = ref.partition("@")[0]
        folder, commit = download(name, revision, offline=offline, transformer=transformer)
        check_pipeline_folder(folder, transformer)
        return Located(Source(ref=ref), folder, from_hub=True, revision=commit)
    check_pipeline_folder(folder, transformer)
    return Located(Source(ref=ref), folder)


def resolve(
    ref: str, revision: str | None = None, extra: Iterable[str] = ()
) -> tuple[Path | None, str | None]:
    """Where a model lies: a local folder or file, or `None` with the revision for the hub.

    `extra` are other names that the caller takes, for the error's list.
    """
    if ref in embedded_models():
        return embedded_models()[ref], None
    path = Path(ref).expanduser()
    if path.is_dir():
        return path, None
    if path.suffix == SINGLE_FILE:
        if not path.is_file():
            raise BadInput(f"{ref}: there is no such file")
        return path, None
    name, _, at = ref.partition("@")
    parts = name.split("/")
    if len(parts) == 2 and all(parts) and not ref.startswith((".", "/", "~")) and not path.exists():
        return None, at or revision
    if path.is_file():
        raise BadInput(f"{ref}: only {SINGLE_FILE} files are read, pickled weights are not")
    if "/" in ref:
        raise BadInput(
            f"{ref}: there is no such folder; a model is an embedded key, a folder, a {SINGLE_FILE} "
            "file, or owner/name"
        )
    raise unknown("model", ref, [*embedded_models(), *extra], "List them: dqviz models")


def with_revision(ref: str, revision: str | None) -> str:
    """`owner/name@revision`; BadInput for a revision of what is not on a hub, or of two at once."""
    if revision is None:
        return ref
    path, written = resolve(ref)
    if path is not None:
        raise BadInput(f"{ref} is on this machine; --revision goes with owner/name on a hub")
    if written not in (None, revision):
        raise BadInput(f"{ref} names a revision, and --revision {revision} another; give one")
    return f"{ref.partition('@')[0]}@{revision}"


def parse_lora(text: str) -> Lora:
    """`style.safetensors` or `style.safetensors:0.8`."""
    file, colon, scale = text.rpartition(":")
    try:
        return Lora.parse({"file": file, "scale": float(scale)} if colon else {"file": text}, text)
    except ValueError:  # no number behind the colon: it belongs to the name
        return Lora(file=text)


def check_pipeline_folder(path: Path, transformer: bool = True) -> None:
    """Stop with one clear error when a folder is not a diffusers pipeline or holds damaged weights.

    Without `transformer`, that of the folder is not looked at.
    """
    if not (path / "model_index.json").is_file():
        hint = ""
        if (path / "config.json").is_file():
            hint = "; it looks like a transformer alone: give its pipeline's folder, or dqviz generate CHECKPOINT --base MODEL"
        raise BadInput(f"{path}: not a diffusers pipeline folder (no model_index.json){hint}")
    if transformer and not (path / TRANSFORMER / "config.json").is_file():
        raise BadInput(
            f"{path}: its pipeline has no transformer ({TRANSFORMER}/config.json); only diffusion "
            "transformers are quantized, not U-Nets"
        )
    for file in sorted(path.glob("**/*.safetensors")):
        if transformer or file.parent.name != TRANSFORMER:
            safetensors_header(file)
    pickles = [p.name for p in path.glob("transformer/*.bin")]
    if transformer and pickles and not list(path.glob("transformer/*.safetensors")):
        raise BadInput(
            f"{path}: weights are pickled ({pickles[0]}); only safetensors are read. Convert them with safe_serialization=True"
        )
