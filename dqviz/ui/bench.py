"""What all pages work with: models, methods, studies, jobs. No Gradio."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from quant.errors import BadInput, DQVizError
from quant.schema import fingerprint

from ..catalogue import list_methods, list_models
from ..files import faults
from ..jobs import Job, JobStore
from ..pages import compare as page
from ..request import CompareRequest
from ..studies import place
from ..work import KINDS
from .desk import Desk, Processes, Threads
from .form import Form, ModelFacts, model_facts
from .library import Library
from .progress import IDLE, Follow, Screen, failed


@dataclass
class Bench:
    """What the handlers of every page work with."""

    compare: Callable[..., Any] | None = None  # instead of the engine's, and in this process: tests
    library: Library = field(default_factory=Library)
    local_folders: bool = True
    models: Sequence[Mapping[str, Any]] = field(default_factory=list_models)
    methods: Sequence[Mapping[str, Any]] = field(default_factory=list_methods)
    store: JobStore = field(default_factory=JobStore)

    def __post_init__(self) -> None:
        """One desk for the whole process."""
        self.desk = Desk(
            self.store, Processes() if self.compare is None else Threads(self._kinds())
        )

    def _kinds(self) -> dict[str, Any]:
        def run(request: Mapping[str, Any], *more: Any) -> Any:
            assert self.compare is not None
            return self.compare(CompareRequest.parse(request, "the job"), *more)

        return {**KINDS, "compare": replace(KINDS["compare"], run=run)}

    def facts(self, model: str | None) -> ModelFacts:
        """What the form needs to know of a model."""
        return model_facts(model, self.models, self.local_folders)

    # -- handlers of the Compare page: values in, screens out

    def submit(self, form: Form, study: str | None = None) -> Job:
        """Queue the comparison that a form asks for.

        Args:
            form: filled in.
            study: name of the study that is open: of the same model, it takes the runs.
        """
        request = form.request(self.local_folders)
        if request.plan is not None:
            request = request.model_copy(update={"plan": self._kept(request.plan)})
        request = request.model_copy(update={"out": self.folder_of(request.model, study)})
        return self.desk.submit("compare", request.to_json())

    def folder_of(self, model: str, study: str | None) -> Path | None:
        """Where runs go while a study is open: into it where it is of that model; None: the model's own."""
        folder = self.library.folders().get(study or "")
        return folder if folder is not None and self._holds(folder, model) else None

    def follow(self, job_id: str, study: str | None = None) -> Follow:
        """Follows a job, as any number of viewers may; a `study` that was open comes back if it makes nothing."""
        self.desk.wake()
        return Follow(self.store, job_id, self.library, self._known, study)

    def cancel(self, job_id: str) -> str:
        """Cancel the job that a page shows; returns the id of the job that it shows then.

        A job that only waited is gone at once: the page goes back to the one that runs, if any does.
        """
        job = self.desk.cancel(job_id)
        other = None if job.active else self.running()
        return other.id if other is not None else job.id

    def running(self) -> Job | None:
        """The comparison that a page re-attaches to when it is opened: it runs, or is next."""
        try:
            jobs = [j for j in self.store.jobs() if j.active and j.kind == "compare"]
        except DQVizError:  # a broken list must not keep a page from opening; the Runs page says it
            return None
        return jobs[0] if jobs else None

    def attached(
        self, job_id: str | None, study: str | None, comparison: int | None = None
    ) -> str | None:
        """The job that a page follows when it is opened under an address.

        The one that the address names, if it is still listed; else one under way that writes into the
        study of the address. An address that names a comparison wants that and no job.
        """
        try:
            listed = [job for job in self.store.jobs() if job.kind == "compare"]
            if job_id and (not study or any(job.id == job_id for job in listed)):
                return job_id
            if comparison is not None:
                return None
            active = [job for job in listed if job.active]
            if study:
                folder = self.library.folders().get(study)
                active = [j for j in active if folder is not None and _same(j.study, folder)]
        except DQVizError:
            return None
        return active[0].id if active else None

    def writes_into(self, job_id: str, study: str | None) -> bool:
        """Whether a job's runs go into the study of that name."""
        folder = self.library.folders().get(study or "")
        try:
            return folder is not None and _same(self.store.get(job_id).study, folder)
        except DQVizError:
            return False

    def opened(self, study: str | None, comparison: int | None = None) -> Screen:
        """The page when it is opened, or when a study is chosen."""
        try:
            return Screen(IDLE.status, self.library.first_view(study, comparison), running=False)
        except DQVizError as error:
            shown = failed(str(error), "Study not shown:")
            return Screen(shown.status, page.empty(), running=False)

    def form_of(self, study: str | None, comparison: int | None = None) -> Form | None:
        """The form that makes a study's comparison again; None when it cannot be filled in."""
        try:
            return Form.of_request(self.library.request(study, comparison))
        except DQVizError:
            return None

    def form_of_link(self, asked: Mapping[str, str]) -> Form | None:
        """The form that a link names; None when it names none, BadInput for what cannot be had."""
        first = str(self.models[0]["key"]) if self.models else None
        return Form.of_link(asked, first, self.facts)

    def form_of_job(self, job_id: str) -> Form | None:
        """The form that a job was made from."""
        try:
            return Form.of_request(CompareRequest.parse(self.store.get(job_id).request, "the job"))
        except DQVizError:
            return None

    def _holds(self, folder: Path, model: str) -> bool:
        """Whether a study is of that model."""
        try:
            held = self.library.open(self.library.name_of(folder)).manifest["model"]
        except DQVizError:
            return False
        return model in (held.get("key"), held.get("ref"))

    def _kept(self, plan: Path) -> Path:
        """An uploaded plan where its job finds it, whenever that begins."""
        try:
            data = json.loads(plan.read_text(encoding="utf-8"))
        except (OSError, ValueError):
            raise BadInput(f"plan {plan.name} is not JSON; upload a plan file") from None
        target = self.store.root / "plans" / f"{fingerprint(data)}.json"
        with faults(target):
            target.parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(plan, target)
        return target.absolute()

    def _known(self, model: str) -> dict[str, Any]:
        """What is known of a model before it is loaded."""
        facts = self.facts(model)
        listed = next((m for m in self.models if m["key"] == model), None)
        return {
            "key": model,
            "title": listed["title"] if listed else model,
            "classes": dict(facts.classes),
            "draws": facts.draws,
        }


def _same(written: Path, folder: Path) -> bool:
    """Whether work that writes there is on this study; on a recorded one it writes into a copy."""
    return written.resolve() == place(folder).resolve()
