"""All studies of this machine: those in the studies folder, and recorded ones that came along.

A recorded study is never written to: what would write into it, writes into a copy.
"""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from quant.errors import BadInput, DQVizError, EnvironmentFault

from .study import Study, faults, slug
from .study_folder import MANIFEST, RECORDED, check_folder, is_recorded, studies_root

_PARTIAL = ".partial-"  # a copy under way, or a study being deleted; listed nowhere
_STALE = 3600.0  # seconds after which such a folder is nobody's any more


@dataclass(frozen=True)
class StudyFacts:
    """What a list of studies says of one."""

    name: str
    folder: Path
    recorded: bool
    bytes: int
    created: str = ""
    updated: str = ""
    model: str = ""  # title
    comparisons: tuple[Mapping[str, Any], ...] = ()  # those with finished runs
    captures: int = 0
    problem: str = ""  # why it does not open; one line

    @property
    def own(self) -> bool:
        """Whether it is in the studies folder, so that it may be deleted."""
        return not self.recorded and self.folder.resolve().parent == studies_root().resolve()


def folders() -> dict[str, Path]:
    """Study folders by name: a person's own, the latest first, then recorded ones.

    A recorded study goes by the name `NAME (recorded)` beside a person's own of that name.
    """
    own = sorted(_studies_in(studies_root()), key=lambda f: -(f / MANIFEST).stat().st_mtime)
    found = {folder.name: folder for folder in own}
    for folder in sorted(_studies_in(RECORDED)):
        found[f"{folder.name} (recorded)" if folder.name in found else folder.name] = folder
    return found


def _studies_in(root: Path) -> list[Path]:
    if not root.is_dir():
        return []
    return [f.parent for f in root.glob(f"*/{MANIFEST}") if not f.parent.name.startswith(".")]


def facts(name: str, folder: Path) -> StudyFacts:
    """What can be said of a study without reading its pictures; a broken one says why."""
    recorded, size = is_recorded(folder), _bytes(folder)
    try:
        study = Study.open(folder, read_only=True)
        listed = study.comparisons()
        return StudyFacts(
            name=name,
            folder=folder,
            recorded=recorded,
            bytes=size,
            created=str(study.manifest.get("created") or ""),
            updated=str(study.manifest.get("updated") or study.manifest.get("created") or ""),
            model=str(study.manifest["model"].get("title") or study.manifest["model"].get("key")),
            comparisons=tuple(c for c in listed if c["runs"]),
            captures=len(study.captures()),
        )
    except DQVizError as error:
        return StudyFacts(name, folder, recorded, size, problem=str(error))


def place(folder: Path) -> Path:
    """Where work on a study writes: the folder itself; for a recorded one, in the studies folder."""
    return studies_root() / folder.resolve().name if is_recorded(folder) else folder


def writable(folder: Path) -> Path:
    """`place`, which for a recorded study is made as its copy when absent."""
    own = place(folder)
    if is_recorded(folder) and not check_folder(own):
        _copy(folder, own)
    return own


def taken_up(folder: Path) -> Path:
    """A study to go on with: `writable`; where nothing lies yet, the copy of the recorded study whose place that is."""
    recorded = RECORDED / folder.name
    absent = not folder.exists() and recorded.is_dir()
    return writable(
        recorded if absent and place(recorded).resolve() == folder.resolve() else folder
    )


def duplicate(folder: Path) -> Path:
    """Copy a study into the studies folder under a free name; returns the copy."""
    base = slug(folder.resolve().name) or "study"
    root = studies_root()
    names = [base, *(f"{base}-{i}" for i in range(2, 1000))]
    own = next(root / name for name in names if not (root / name).exists())
    _copy(folder, own)
    return own


def delete(folder: Path, busy: Iterable[Path] = ()) -> None:
    """Remove a study of the studies folder, with everything in it.

    Args:
        folder: the study.
        busy: studies that jobs write into; they stay.
    """
    where, root = folder.resolve(), studies_root().resolve()
    if is_recorded(folder):
        raise BadInput(f"study {folder.name} is recorded: it came with dqviz and stays")
    if where.parent != root or folder.is_symlink():
        raise BadInput(
            f"study {folder.name} is not in {studies_root()}; delete its folder yourself"
        )
    if not (where / MANIFEST).is_file():
        raise BadInput(f"folder {folder.name} is not a study")
    if where in {path.resolve() for path in busy}:
        raise BadInput(f"a job writes into study {folder.name}; cancel it first")
    doomed = root / f"{_PARTIAL}{os.getpid()}-{folder.name}"
    with faults(folder):
        where.rename(doomed)  # at once: nobody opens half a study
        shutil.rmtree(doomed)


def _copy(source: Path, target: Path) -> None:
    """Copy a whole study; it appears under its name when it is complete."""
    size = _bytes(source)
    partial = target.with_name(f"{_PARTIAL}{os.getpid()}-{target.name}")
    with faults(target):
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep(target.parent)
        if shutil.disk_usage(target.parent).free < size:
            raise EnvironmentFault(f"a copy of {source.name} needs {size} bytes; free some disk")
        shutil.rmtree(partial, ignore_errors=True)
        shutil.copytree(source, partial)
        for path in [partial, *partial.rglob("*")]:
            path.chmod(0o755 if path.is_dir() else 0o644)
        if target.exists() and not any(target.iterdir()):
            target.rmdir()
        partial.rename(target)


def _sweep(root: Path) -> None:
    """Remove what a killed copy or deletion left."""
    for path in root.glob(f"{_PARTIAL}*"):
        if time.time() - path.stat().st_mtime > _STALE:
            shutil.rmtree(path, ignore_errors=True)


def _bytes(folder: Path) -> int:
    total = 0
    for path in folder.rglob("*"):
        try:
            total += path.stat().st_size if path.is_file() and not path.is_symlink() else 0
        except OSError:  # removed meanwhile
            continue
    return total


# -- two comparisons beside one another


@dataclass(frozen=True)
class Beside:
    """Two comparisons of one model: their runs over the samples that both have."""

    names: tuple[str, str]  # study and number
    results: tuple[Mapping[str, Any], Mapping[str, Any]]
    seeds: tuple[int, ...]  # that both have, under the same class or prompt
    reason: str  # why they are not paired; empty when they are

    @property
    def paired(self) -> bool:
        """Whether numbers of the one may be set against those of the other, sample by sample."""
        return not self.reason

    def rows(self) -> list[dict[str, Any]]:
        """One per quantized run: study, run record, means over the shared samples (else over its own)."""
        return [
            {
                "study": name,
                "run": run,
                "samples": len(self.seeds) if self.paired else len(_samples(result)),
                **{
                    key: _mean(self._values(side, run, key))
                    for key in ("psnr_db", "latent_rel_error", "ssim")
                },
            }
            for side, (name, result) in enumerate(zip(self.names, self.results))
            for run in result["runs"][1:]
        ]

    def differences(self) -> list[dict[str, Any]]:
        """Second minus first for every two runs of equal method and bits, with intervals."""
        from quant.intervals import paired_difference

        if not self.paired:
            return []
        found = []
        for a in self.results[0]["runs"][1:]:
            for b in self.results[1]["runs"][1:]:
                ours, theirs = self._values(0, a, "psnr_db"), self._values(1, b, "psnr_db")
                if (a["method"], a["bits"]) == (b["method"], b["bits"]) and ours and theirs:
                    difference = paired_difference(theirs, ours).to_json()
                    found.append({"a": a, "b": b, **difference})
        return found

    def _values(self, side: int, run: Mapping[str, Any], key: str) -> list[float | None]:
        """A metric's values over the shared samples in their order; all of its own when unpaired."""
        summary = run.get(key)
        if not summary:
            return []
        values = dict(zip((s["seed"] for s in _samples(self.results[side])), summary["per_sample"]))
        return [values[s] for s in self.seeds] if self.paired else list(values.values())


def beside(first: tuple[str, Study, int | None], second: tuple[str, Study, int | None]) -> Beside:
    """Set two comparisons beside one another; BadInput when they are of different models."""
    models = [study.manifest["model"] for _, study, _ in (first, second)]
    if any(models[0].get(key) != models[1].get(key) for key in ("fingerprint", "weights")):
        titles = [str(m.get("title") or m.get("key")) for m in models]
        raise BadInput(
            f"{first[0]} is of {titles[0]} and {second[0]} of {titles[1]}"
            f"{' with other weights' if titles[0] == titles[1] else ''}; choose two of one model"
        )
    a, b = (with_samples(study.result(number), study) for _, study, number in (first, second))
    if not a["runs"] or not b["runs"]:
        raise BadInput("one of the two comparisons has no finished run")
    ours = {s["seed"]: s for s in _samples(a)}
    theirs = {s["seed"]: s for s in _samples(b)}
    shared = tuple(seed for seed, sample in ours.items() if theirs.get(seed) == sample)
    reason = ""
    if a.get("sampler") != b.get("sampler"):
        reason = "they were drawn with different steps, guidance or scheduler"
    elif not shared:
        reason = "they share no seed with the same class or prompt"
    names = (f"{first[0]} · {a['comparison']}", f"{second[0]} · {b['comparison']}")
    return Beside(names, (a, b), shared, reason)


def with_samples(result: Mapping[str, Any], study: Study) -> dict[str, Any]:
    """A result with the samples and the sampler of its first run's recipe."""
    recipe = study.recipe(str(result["runs"][0]["name"])) if result["runs"] else {}
    return {**result, **{key: recipe[key] for key in ("samples", "sampler") if key in recipe}}


def _samples(result: Mapping[str, Any]) -> list[dict[str, Any]]:
    return list(result.get("samples") or ())


def _mean(values: list[float | None]) -> float | None:
    known = [v for v in values if v is not None]
    return sum(known) / len(known) if known else None
