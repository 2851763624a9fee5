"""The Methods page: one component, which asks for what it shows by one function.

Like the Activations page: a choice is one request and one answer, and the browser names studies,
methods and inputs by their listed names, never by a path.
"""

from __future__ import annotations

import json
import threading
from collections import OrderedDict
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from quant import probes
from quant.errors import BadInput, DQVizError, unknown
from quant.schema import parse_bits

from .. import capturing, probing
from ..capturing import CaptureRequest
from ..files import read_json
from ..pages import methods as page
from ..probing import ProbeRequest
from ..studies import place
from ..study import Study
from . import components
from .activations import Captures
from .bench import Bench
from .learnings import Learnings

METHOD, BITS = "viditq", "w4a8"  # what the page looks at first
KEPT = 16  # probes that stay parsed, and logs
STATE = ("state", "stage", "done", "total", "seconds_left", "message")


class Methods:
    """Studies as the page shows them; the latest probes that were looked at stay parsed."""

    def __init__(self, bench: Bench) -> None:
        self.bench = bench
        self.captures = Captures(bench.library)
        self.titles = {str(m["key"]): str(m["title"]) for m in bench.methods}
        self.learnings = Learnings(bench, self._read)
        probed = {m for card in probes.list_probes().values() for m in card.methods}
        self.keys = [*sorted(probed), *(m for m in self.learnings.methods if m not in probed)]
        self._parsed: OrderedDict[tuple[Path, int, int], Any] = OrderedDict()
        self._lock = threading.Lock()

    def answer(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """What a query asks for: `want` names views, or "page" for everything."""
        names = list(self.bench.library.folders())
        study = _text(query.get("study")) or self._first(names)
        if study is None:
            return {"empty": True, "models": [str(m["key"]) for m in self.bench.models]}
        asked = (_text(query.get(key)) for key in ("method", "bits", "run"))
        opened = self.open(study, *asked)
        controls = page.controls(opened)
        chosen, notes = page.select(query, opened, controls["keys"])
        wanted = query.get("want")
        whole = not isinstance(wanted, list) or "page" in wanted
        found: dict[str, Any] = {
            "study": study,
            "method": opened.method,
            "bits": opened.bits,
            "selection": chosen.to_json(),
            "notes": notes + _mixed(opened),
            "sections": page.sections(opened, chosen, None if whole else wanted),
            "views": page.views_of(opened),
            "live": opened.learns and self.learnings.live(self._study(study), opened.learnings),
        }
        if whole:
            found |= {
                "headline": page.headline(opened),
                "controls": {
                    **controls,
                    "study": names,
                    "method": [(k, self.titles.get(k, k)) for k in self.keys],
                    "bits": self._bits(opened),
                },
                "missing": {**self._missing(opened), "jobs": self._jobs(study)},
            }
        return found

    def open(
        self, study_name: str, method: str | None, bits: str | None, run: str | None = None
    ) -> page.Opened:
        """A study with what was probed and learned of one method, by default of the latest."""
        study = self._study(study_name)
        rows, learnings = study.probes(), study.learnings()
        if method is None:
            known = [r for r in [*rows, *learnings] if r["method"] in self.keys]
            method = str(max(known, key=lambda r: r["created"])["method"]) if known else METHOD
        if method not in self.keys:
            raise unknown("method with views", method, self.keys)
        known = self._probed_bits(study, method)
        first = self._listed_bits(method)[0] if method in self.learnings.methods else BITS
        bits = bits or (known[-1] if known else first)
        bits = bits if bits in known else str(parse_bits(bits))
        every: dict[str, list[page.Probed]] = {}
        for row in rows:
            if (row["method"], row["bits"]) == (method, bits):
                every.setdefault(str(row["probe"]), []).append(self._probed(study, row))
        probed = {key: found[-1] for key, found in every.items()}
        model = study.manifest["model"]
        captures = [c for c in study.captures() if c["method"] == method] or study.captures()
        options = next((p.manifest.get("method_options") for p in probed.values()), None)
        return page.Opened(
            study=study_name,
            model=str(model.get("title") or model.get("key")),
            key=str(model.get("ref") or model.get("key") or "MODEL"),
            method=method,
            bits=bits,
            titles=self.titles,
            captured=self.captures.open(study_name, captures[-1]["name"]) if captures else None,
            probes=probed,
            earlier={key: found[:-1] for key, found in every.items()},
            model_facts=model,
            options=options or {},
            learns=method in self.learnings.methods,
            learnings=self.learnings.of(study, method, bits),
            run=run or "",
            to_learn=self.learnings.how(study_name, study, method, bits),
        )

    def request(self, query: Mapping[str, Any]) -> tuple[str, dict[str, Any]]:
        """Kind and request of the job that a query asks for: probes, or a capture with stages."""
        method = _text(query.get("method")) or METHOD
        plain = {"method": method, "bits": _text(query.get("bits")) or BITS}
        if name := _text(query.get("study")):
            study = self._study(name)
            model = study.manifest["model"]
            plain |= {"model": model.get("ref") or model.get("key")}
            plain |= {"outliers": model.get("outliers"), "out": str(place(study.folder))}
        else:
            plain |= {"model": query.get("model")}
        listed = [str(m["key"]) for m in self.bench.models]
        if plain["model"] not in listed:
            raise unknown("model", plain["model"], listed)
        if query.get("what") == "capture":
            if method in self.learnings.methods:  # what it learns is no part of a capture
                plain = {k: v for k, v in plain.items() if k not in ("method", "bits")}
            return "capture", CaptureRequest.parse(plain, "the page").to_json()
        asked = {k: query[k] for k in ("only", "options") if query.get(k)}
        return "probe", ProbeRequest.parse({**plain, **asked}, "the page").to_json()

    def start(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Queue it."""
        kind, request = self.request(query)
        return {"job": self.bench.desk.submit(kind, request).id}

    def state(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """How a job stands, and the study that it writes into: for a recorded one, its copy."""
        job = self.bench.store.get(query.get("job"))
        into = self.bench.library.name_of(job.study)
        return {**{name: getattr(job, name) for name in STATE}, "study": into}

    def cancel(self, query: Mapping[str, Any]) -> dict[str, Any]:
        """Cancel a job; what it has finished is kept."""
        return {"state": self.bench.desk.cancel(query.get("job")).state}

    def _jobs(self, study: str) -> dict[str, str]:
        """Jobs under way that write into a study: kind -> id."""
        folder = place(self.bench.library.folders()[study]).resolve()
        try:
            jobs = [job for job in self.bench.store.jobs() if job.active]
        except DQVizError:  # a broken list must not keep a page from opening; the Runs page says it
            return {}
        return {job.kind: job.id for job in jobs if job.study.resolve() == folder}

    def _bits(self, opened: page.Opened) -> list[str]:
        """Bits to choose from: what was probed, and what the method is listed with."""
        listed = self._listed_bits(opened.method)
        known = self._probed_bits(self._study(opened.study), opened.method)
        return list(dict.fromkeys([*known, *map(str, listed), opened.bits]))

    def _listed_bits(self, method: str) -> list[str]:
        """Bits that a method's card names."""
        return next((list(m["bits"]) for m in self.bench.methods if m["key"] == method), [BITS])

    def _missing(self, opened: page.Opened) -> dict[str, Any]:
        """What could be measured yet, with the command that does."""
        query = {"study": opened.study, "method": opened.method, "bits": opened.bits}
        cards = page.missing(opened)
        try:
            probe = probing.as_command(ProbeRequest.parse(self.request(query)[1]))
            asked = self.request({**query, "what": "capture"})[1]
            capture = capturing.as_command(CaptureRequest.parse(asked))
        except DQVizError as error:  # a model that is not listed here: the commands name it
            return {"probes": [], "problem": str(error)}
        folder = self.bench.library.folders()[opened.study]
        return {
            "copy": place(folder).name if place(folder) != folder else None,
            "probes": [{"key": c.key, "title": c.title, "summary": c.summary} for c in cards],
            "command": probe,
            "capture": capture,
        }

    def _first(self, names: list[str]) -> str | None:
        """The study to open first: one with probes, else one with a capture, else any."""
        tests = (lambda s: s.probes() or s.learnings(), lambda s: s.captures(), lambda s: True)
        for test in tests:
            for name in names:
                try:
                    if test(self._study(name)):
                        return name
                except DQVizError:
                    continue
        return None

    def _study(self, name: str) -> Study:
        return self.bench.library.open(name)

    def _probed_bits(self, study: Study, method: str) -> list[str]:
        """Bits at which a method was probed or has learned, the latest last."""
        rows = [r for r in [*study.probes(), *study.learnings()] if r["method"] == method]
        return list(dict.fromkeys(str(r["bits"]) for r in rows))

    def _probed(self, study: Study, row: Mapping[str, Any]) -> page.Probed:
        path = (study.folder / str(row["file"])).resolve()
        if not path.is_relative_to(study.folder.resolve()) or not path.is_file():
            raise BadInput(f"the file of probe {row['name']} is gone; probe again")
        data = self._read(path, lambda: read_json(path))
        return page.Probed(str(row["name"]), data, row["record"], row["manifest"], row["created"])

    def _read(self, file: Path, read: Callable[[], Any]) -> Any:
        """What a file holds, read once for as long as it stays the same."""
        facts = file.stat()
        key = (file, facts.st_mtime_ns, facts.st_size)
        with self._lock:
            data = self._parsed.pop(key, None) or read()
            self._parsed[key] = data
            while len(self._parsed) > KEPT:
                self._parsed.popitem(last=False)
        return data


def _mixed(opened: page.Opened) -> list[str]:
    """What to say where probes of one method were measured with different options."""
    options = [p.manifest.get("method_options") for p in opened.probes.values()]
    if all(o == options[0] for o in options):
        return []
    return ["Probes here were measured with different options of the method; each shows its latest."]  # fmt: skip


def _text(value: object) -> str | None:
    return value if isinstance(value, str) and value else None


def server_functions(bench: Bench) -> list[Callable[[Any], str]]:
    """What the browser may call; each answers with JSON text."""
    shown = Methods(bench)

    def safely(ask: Callable[[Mapping[str, Any]], dict[str, Any]], query: Any) -> str:
        query = query[0] if isinstance(query, list) and len(query) == 1 else query
        try:
            found = ask(query if isinstance(query, dict) else {})
        except DQVizError as error:
            found = {"error": str(error)}
        return json.dumps(found, allow_nan=False, separators=(",", ":"))

    def methods(query: Any) -> str:
        return safely(shown.answer, query)

    def methods_start(query: Any) -> str:
        return safely(shown.start, query)

    def methods_state(query: Any) -> str:
        return safely(shown.state, query)

    def methods_cancel(query: Any) -> str:
        return safely(shown.cancel, query)

    return [methods, methods_start, methods_state, methods_cancel]


def build(bench: Bench) -> None:
    """Put the page into the Blocks that is open."""
    components.component(
        "methods.js",
        "methods",
        "dq-methods",
        (),
        server_functions=server_functions(bench),
        elem_id="dq-methods",
    )
