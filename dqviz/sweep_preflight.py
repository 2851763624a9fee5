"""What a sweep will take of evaluations, memory, time and disk on this machine: said before the start, or a refusal.

Everything is predicted, from configuration and file headers; nothing is loaded for it.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from quant.sensitivity import list_tiers

from . import machine
from .preflight import Preflight, check_subjects, free_memory, outlined, sampler_asked, untimed
from .projection import projected, rates
from .request import check_windows, split_options
from .sweep_inputs import found_sites, reads_statistics, settings_of
from .terminal import counted

if TYPE_CHECKING:
    from quant.preflight import Need, Outline
    from quant.schema import Sampler
    from quant.sensitivity.effort import Swept
    from quant.sources import Located

    from .sweep_request import SweepRequest

# Bytes of what plans need to know of the model, and of a site, about.
_BLUEPRINT, _OF_SITE = 8192, 2048


@dataclass(frozen=True)
class SweepPreflight(Preflight):
    """Of a sweep in one process, from its first cell to its last."""

    cells: int = 0
    evaluations: int = 0  # of the network, of one sample with all its guidance branches
    backward_calls: int = 0  # tier gradient: backward passes of a batch
    naive_evaluations: int = 0  # drawing every cell whole and by itself
    remark: str = ""  # on the numbers

    def sentence(self) -> str:
        """One line for people."""
        drawn = counted(self.evaluations, "evaluation")
        said = f"{counted(self.cells, 'cell')} by {drawn} of the network"
        if self.evaluations:
            said += f" instead of {self.naive_evaluations}"
        if self.backward_calls:
            said += f" and {counted(self.backward_calls, 'backward pass')}"
        return f"{said}; {super().sentence()}{self.remark and '; ' + self.remark}"


def look(request: SweepRequest, located: Located, folder: Path) -> SweepPreflight:
    """What a sweep takes of a model on this machine, when it writes to `folder`.

    Raises BadInput for layers, steps or windows that the model does not have.
    """
    from quant.loading import check_device
    from quant.preflight import need
    from quant.sensitivity import effort

    check_device(request.device)
    model = outlined(located, request)
    check_subjects(model, request)
    sampler, network = sampler_asked(model, request), model.target.sites
    check_windows(request.windows, sampler.steps)
    sites = set(found_sites(request, network, located.source.ref))
    swept = effort.Swept(
        tier=request.tier,
        sites=tuple(site for site in network if site.name in sites),
        bits=request.bits,
        windows=request.windows,
        samples=len(request.seeds),
        steps=sampler.steps,
        branches=model.network.branches(sampler.guidance),
        settings=settings_of(request),
    )
    copies = int(request.outliers is not None)
    drawn, least = (
        need(model, "capture", (), sampler=sampler, batch_size=size, copies=copies)
        for size in (request.batch_size, 1)
    )
    one = replace(swept, settings=swept.settings.model_copy(update={"batch_size": 1}))
    own, clips = effort.memory_bytes(swept, network, model.shapes), model.frames > 1
    made = _projected(request, model, sampler, swept)
    statistics = reads_statistics(request)

    def memory(found: Need, layers: int) -> int:
        """With everything in memory."""
        untaken = 0 if statistics else found.parts["statistics"]
        return found.memory_bytes - untaken + layers + made["method_memory_bytes"]

    wanted, small = (
        memory(drawn, own),
        memory(least, effort.memory_bytes(one, network, model.shapes)),
    )
    disk = effort.table_bytes(swept, clips) + _BLUEPRINT + _OF_SITE * len(swept.sites)
    disk += drawn.disk_bytes if statistics else 0
    scratch = effort.unfinished_bytes(swept, clips)
    free, room = free_memory(request.device), machine.free_disk(folder)
    refusal = ""
    if wanted > free:
        advice = "use fewer --bits or --sites, a smaller model, or a larger machine"
        if small <= free:
            advice = f"--batch-size 1 takes {machine.mib(small)}"
        refusal = f"{request.model} needs about {machine.mib(wanted)} of memory and {machine.mib(free)} are free; {advice}"
    elif disk + scratch > room:
        refusal = (
            f"{folder} needs about {machine.mib(disk + scratch)} on disk and {machine.mib(room)} are free; "
            "free some, or write elsewhere with --study"
        )
    return SweepPreflight(
        work="sensitivity",
        memory_bytes=wanted,
        low_memory_bytes=None,
        free_memory_bytes=free,
        disk_bytes=disk,
        scratch_bytes=scratch,
        free_disk_bytes=room,
        read_bytes=None,
        seconds=made["seconds"],
        untimed=untimed(model, ()),
        drawing_known=bool(model.shapes),
        low_memory=False,
        why="everything is in memory",
        fits=not refusal,
        refusal=refusal,
        size=request.size,
        cells=len(swept.cells),
        evaluations=swept.evaluations(),
        backward_calls=swept.backward_calls(),
        naive_evaluations=swept.naive_evaluations(),
        remark=_remark(request),
    )


def of_request(request: SweepRequest, folder: Path) -> SweepPreflight:
    """`look` of a request by itself, before anything else is done with it."""
    from quant.sources import check_source, locate

    check_source(request.source)
    return look(request, locate(request.source), folder)


def _remark(request: SweepRequest) -> str:
    judged = list_tiers()[request.tier].flips and request.pictures
    told = ["without decoding and judging pictures"] if judged else []
    if request.ray is not None:
        told.append("of one process: the cluster's share the cells")
    return ", ".join(told)


def _projected(
    request: SweepRequest, model: Outline, sampler: Sampler, swept: Swept
) -> dict[str, Any]:
    """Seconds of everything, None where they are not known, and bytes of a method at its largest input."""
    from quant.sensitivity import effort

    (given,) = split_options((request.method,), request.options)
    made = projected(
        model.network,
        model.shapes,
        sampler,
        len(request.calibration_seeds),
        [(request.method, given)],
        batch_size=request.batch_size,
        frames=model.frames,
    )
    own, seconds = made["methods"][request.method], None
    if model.shapes:
        done = effort.work(swept, model.target.sites, model.shapes, model.frames)
        seconds = done.seconds(rates()) + swept.formats * own["seconds"]
        seconds += made["seconds"] if reads_statistics(request) else 0
    return {"seconds": seconds, "method_memory_bytes": own["memory_bytes"]}
