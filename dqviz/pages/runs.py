"""Runs: jobs that run, wait or have ended, the studies that they filled, and two of those side by side.

Plain values, which `ui/web/runs.js` draws. Times are UTC; the browser shows them in its own zone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from urllib.parse import quote, urlencode

from .. import jobs
from ..jobs import Job
from ..studies import Beside, StudyFacts
from .compare import run_bits, run_name
from .exports import Source
from .view import Column, Section, cell, synthetic, table

TITLE = "Runs"
NO_JOBS = {
    "title": "Nothing has run yet",
    "text": "Long work shows up here: comparisons from the Compare page, captures from the Activations page, probes from the Methods page.",
    "link": {"text": "Open the Compare page and press Run", "href": "./"},
}
NO_STUDIES = {
    "title": "No study yet",
    "text": "A study is a folder that holds what comparisons and captures of one model made. The first Run makes one.",
    "link": {"text": "Open the Compare page", "href": "./"},
}
STATES = {
    jobs.QUEUED: ("waiting", "plain"),
    jobs.RUNNING: ("running", "measured"),
    jobs.DONE: ("done", "plain"),
    jobs.FAILED: ("failed", "warn"),
    jobs.CANCELLED: ("cancelled", "warn"),
}
PAGES = {
    "compare": "",
    "capture": "activations",
    "probe": "methods",
}  # where what a job made is looked at


def job_list(
    listed: Sequence[Job],
    studies: Mapping[Path, str],
    commands: Mapping[str, str],
    comparisons: Mapping[str, int],
) -> Section:
    """The jobs.

    Args:
        listed: in the order of the list.
        studies: listed names of study folders, resolved.
        commands: job id -> the command line that does the same.
        comparisons: job id -> the number of its comparison in its study, where a run was finished.
    """
    waiting = [job.id for job in listed if job.state == jobs.QUEUED]
    rows = []
    for job in listed:
        state, tone = STATES[job.state]
        study = studies.get(job.study.resolve())
        if job.cancel_requested is not None:
            state = "cancelling"
        rows.append(
            {
                "id": job.id,
                "title": job.title,
                "kind": job.kind,
                "state": state,
                "tone": tone,
                "active": job.active,
                "what": _what(job, waiting),
                "done": job.done if job.active else 0,
                "total": job.total if job.active else 0,
                "left": None if job.seconds_left is None else round(job.seconds_left),
                "created": job.created,
                "started": job.started,
                "ended": job.ended,
                "attempts": job.attempts,
                "message": job.message,
                "study": study,
                "open": _open(job, study, comparisons.get(job.id)),
                "watch": f"./?job={job.id}" if job.active and job.kind == "compare" else None,
                "command": commands.get(job.id, ""),
                "actions": actions(job),
            }
        )
    return {"kind": "jobs", "title": "Jobs", "jobs": rows, "empty": NO_JOBS}


def _open(job: Job, study: str | None, comparison: int | None) -> str | None:
    """Where what a job made is looked at; None when it has made nothing that can be."""
    if study is None or (job.kind == "compare" and (job.active or comparison is None)):
        return None
    asked = {"study": study} | ({} if comparison is None else {"comparison": comparison})
    return f"./{PAGES.get(job.kind, '')}?{urlencode(asked, quote_via=quote)}"


def actions(job: Job) -> list[str]:
    """What may be done with a job now."""
    if job.active:
        return [] if job.cancel_requested is not None else ["cancel"]
    return [*(["resume"] if job.state in (jobs.FAILED, jobs.CANCELLED) else []), "delete"]


def _what(job: Job, waiting: Sequence[str]) -> str:
    """What a job does at this moment, or where it stands."""
    if job.state == jobs.RUNNING:
        return job.stage or "Starting the engine"
    if job.state == jobs.QUEUED:
        place = waiting.index(job.id) + 1
        return "Next in line" if place == 1 else f"Number {place} in line"
    return ""


def study_list(listed: Sequence[StudyFacts]) -> Section:
    """The studies, and which comparisons can be set side by side."""
    rows = [
        {
            "name": facts.name,
            "model": facts.model,
            "recorded": facts.recorded,
            "bytes": facts.bytes,
            "created": facts.created,
            "updated": facts.updated,
            "comparisons": len(facts.comparisons),
            "runs": sum(len(c["runs"]) for c in facts.comparisons),
            "captures": facts.captures,
            "problem": facts.problem,
            "deletable": facts.own,
        }
        for facts in listed
    ]
    choices = [
        {
            "study": facts.name,
            "comparison": c["id"],
            "label": f"{facts.name} · {c['id']} · {str(c['created'])[:10]}",
            "runs": ", ".join(c["runs"][1:]) or "full precision",
        }
        for facts in listed
        for c in reversed(facts.comparisons)
    ]
    return {
        "kind": "studies",
        "title": "Studies",
        "studies": rows,
        "choices": choices,
        "empty": NO_STUDIES,
    }


def side_by_side(found: Beside) -> list[Section]:
    """Two comparisons in one table; differences where they are of the same samples."""
    shared = len(found.seeds)
    if found.paired:
        lede = f"Means over the {shared} sample{'' if shared == 1 else 's'} that both have, seed by seed."
    else:
        lede = (
            f"Not paired: {found.reason}. Each mean is over the run's own samples; "
            "a difference between the two halves says nothing certain."
        )
    source = Source(
        about=" and ".join(dict.fromkeys(found.names)),
        recipe="-".join(str(r.get("fingerprint") or "") for r in found.results),
        evidence=tuple(
            dict.fromkeys(
                word
                for row in found.rows()
                for word in (row["run"].get("evidence"), synthetic(row["run"]))
                if word
            )
        ),
        note="paired" if found.paired else "not paired",
    )
    sections = [_runs(found, lede, source)]
    if found.paired:
        sections.append(_differences(found, source))
    return sections


def _runs(found: Beside, lede: str, source: Source) -> Section:
    rows, raw = [], []
    for index, row in enumerate(found.rows()):
        run = row["run"]
        name = f"{run_name(run)} {run_bits(run)}"
        rows.append(
            {
                "cells": [
                    cell(name, row["study"], run=index + 1),
                    cell(_number(row["psnr_db"], 2)),
                    cell(_number(row["latent_rel_error"], 4)),
                    cell(_number(row["ssim"], 4)),
                    cell(f"{run['size_bytes'] / 1e6:.2f}"),
                    cell(str(row["samples"])),
                    cell(str(run.get("evidence") or ""), words=True),
                ]
            }
        )
        raw.append(
            {
                "study": row["study"],
                "run": run["name"],
                "method": run["method"],
                "bits": run["bits"],
                "psnr_db_mean": row["psnr_db"],
                "latent_rel_error_mean": row["latent_rel_error"],
                "ssim_mean": row["ssim"],
                "size_bytes": run["size_bytes"],
                "samples": row["samples"],
                "paired": found.paired,
                "evidence": run.get("evidence"),
            }
        )
    columns = [
        Column("Run"),
        Column("PSNR", "dB", "to full precision of its own comparison"),
        Column("Latent error", "", "relative, of the final latents"),
        Column("SSIM"),
        Column("Size", "MB", "of the transformer on disk"),
        Column("n", "", "samples that the means are over"),
        Column("Evidence", words=True),
    ]
    return table("Side by side", columns, rows, lede=lede, raw=raw, source=source, part="beside")


def _differences(found: Beside, source: Source) -> Section:
    rows, raw = [], []
    for pair in found.differences():
        diff = pair["diff"] or dict.fromkeys(("mean", "lo", "hi"))
        text = "–" if diff["mean"] is None else f"{diff['mean']:+.2f}".replace("-", "−")
        if diff["lo"] is not None:
            text += f" [{diff['lo']:.2f}, {diff['hi']:.2f}]".replace("-", "−")
        name = f"{run_name(pair['b'])} {run_bits(pair['b'])}"
        verdict = {"a better": "second better", "b better": "first better"}
        claim = verdict.get(str(pair["claim"]), str(pair["claim"]))
        rows.append(
            {
                "cells": [
                    cell(name),
                    cell(text),
                    cell(str(pair["n"])),
                    cell(claim, words=True),
                ]
            }
        )
        raw.append(
            {
                "first": pair["a"]["name"],
                "second": pair["b"]["name"],
                "diff_db_mean": diff["mean"],
                "diff_db_lo": diff["lo"],
                "diff_db_hi": diff["hi"],
                "n": pair["n"],
                "claim": claim,
            }
        )
    columns = [
        Column("Method and bits"),
        Column("Second minus first", "dB", "95 % bootstrap interval"),
        Column("n"),
        Column("Verdict", words=True),
    ]
    note = "" if rows else "The two have no run of the same method and bits."
    return table(
        "What changed", columns, rows, note=note, raw=raw, source=source, part="beside-differences"
    )


def _number(value: float | None, digits: int) -> str:
    return "–" if value is None else f"{value:.{digits}f}"
