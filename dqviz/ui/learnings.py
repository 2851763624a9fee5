"""What methods learned, or are learning, as the Methods page has it open: logs of studies beside the list of jobs."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

from quant.errors import DQVizError
from quant.weight_files import safetensors_header

from ..files import written
from ..jobs import FAILED, Job
from ..learnings import command_of
from ..pages import methods as page
from ..studies import place
from ..study import Study
from .bench import Bench

FRESH = (
    60.0  # seconds after its last line for which a log that no job writes counts as being written
)
QUICK = "quick"  # preset that fits a person who waits

Read = Callable[[Path, Callable[[], Any]], Any]  # what a file holds, read once while it stays


class Learnings:
    """Logs of studies; `read` keeps what was read of a file."""

    def __init__(self, bench: Bench, read: Read) -> None:
        self._bench, self._read = bench, read
        self._cards = {str(m["key"]): m for m in bench.methods if m.get("learns")}
        self.methods = list(self._cards)

    def of(self, study: Study, method: str, bits: str) -> list[page.Learned]:
        """What was learned with a method at some bits, as far as it has come, the latest last."""
        rows = study.learnings()
        latest = rows[-1]["name"] if rows else None
        chosen = [row for row in rows if (row["method"], row["bits"]) == (method, bits)]
        stored = {run["name"] for run in study.runs()} if chosen else set()
        jobs = self._jobs(study)
        return [
            self._learned(
                study, row, row["name"] in stored, jobs if row["name"] == latest else None
            )
            for row in chosen
        ]

    def live(self, study: Study, found: Sequence[page.Learned]) -> bool:
        """Whether something is being learned, or a job is under way that may begin to."""
        return any(each.running for each in found) or any(job.active for job in self._jobs(study))

    def how(self, name: str, study: Study, method: str, bits: str) -> dict[str, str]:
        """The command and the link that learn with a method in a study."""
        if method not in self._cards:
            return {}
        model = study.manifest["model"]
        key = str(model.get("ref") or model.get("key") or "MODEL")
        presets = [str(p["name"]) for p in self._cards[method]["presets"]]
        options = {"preset": QUICK} if QUICK in presets else {}
        asked = {"method": method, "bits": bits, "model": key, "study": name}
        link = urlencode(asked | {f"option.{k}": v for k, v in options.items()})
        command = command_of(key, method, bits, options, place(study.folder))
        return {"command": command, "link": f"./?{link}"}

    def _learned(
        self, study: Study, row: Mapping[str, Any], stored: bool, jobs: Sequence[Job] | None
    ) -> page.Learned:
        """One of them; `jobs` of the study are given for the latest, which alone can be under way."""
        file = study.folder / str(row["file"])
        lines = self._read(file, lambda: study.learning(row["name"])) if file.is_file() else []
        found = page.Learned(
            name=str(row["name"]),
            label=str(row["record"].get("label") or row["name"]),
            manifest=row["manifest"],
            record=row["record"],
            lines=lines,
            finished=stored,
            running=False,
            described=study.manifest["model"],
            kept=_kept(file.with_suffix(".safetensors")),
        )
        if found.state == "done" or jobs is None:
            return found
        since = file.stat().st_mtime if lines else 0.0
        active = [job for job in jobs if job.active]
        left = next((job.seconds_left for job in active if job.seconds_left is not None), None)
        ended = [job for job in jobs if not job.active and (job.ended or "") >= written(since)]
        last = max(ended, key=lambda job: job.ended or "", default=None)
        why = last.message if last is not None and last.state == FAILED and not active else ""
        under_way = bool(active) or (time.time() - since < FRESH and not ended)
        return page.Learned(
            **{**vars(found), "running": under_way, "why": why, "seconds_left": left}
        )

    def _jobs(self, study: Study) -> list[Job]:
        """Comparisons that write into a study, or did."""
        try:
            listed = [job for job in self._bench.store.jobs() if job.kind == "compare"]
        except DQVizError:  # a broken list must not keep a page from opening
            return []
        folder = place(study.folder).resolve()
        return [job for job in listed if job.study.resolve() == folder]


def _kept(state: Path) -> int:
    """Steps that a learning's state on disk has done; 0 without one that can be read."""
    try:
        return int(safetensors_header(state)["__metadata__"]["step"])
    except (DQVizError, OSError, KeyError, ValueError):
        return 0
