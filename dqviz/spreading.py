"""The cells of a sweep spread over a Ray cluster: same rows as in one process, some at once.

    parts     cells that one worker measures in one go, so that they share what they have in common
    workers   processes of the cluster with one thread each; each loads the model from its source, once
    rows      come back as a part ends, and are kept by the process that asked

A part whose node is lost is measured again elsewhere; those that had ended are kept already. What a row depends on
is in its request, so it is the same wherever it is measured: on processors of one kind to the bit.
"""

from __future__ import annotations

import itertools
import json
import logging
import os
import platform
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from types import ModuleType
from typing import Any

from quant.errors import BadInput, DQVizError, EnvironmentFault
from quant.sensitivity import TierCard, list_tiers
from quant.sensitivity.cells import Cell, Row

from .files import dump
from .sweep_inputs import Inputs, Keep, inputs_of, measure_cells
from .sweep_request import SweepRequest

KNOCK, PATIENCE = 3, 30  # seconds for a port to open, and for what listens there to answer as Ray
EVERY = 0.25  # seconds between two looks at what has ended
PARTS_PER_WORKER = 4
FEWEST, MOST = 8, 64  # cells of a part: full precision is drawn once for each
RETRIES = 3  # of a part whose worker or node is lost
NO_IMPORT = "failed to import on the worker"  # Ray's RuntimeError of a node without dqviz

Part = tuple[Cell, ...]


def check_cluster(address: str) -> None:
    """Stop, within seconds, where Ray is not installed or no cluster answers at an address.

    Ray itself asks a dead address again and again, for minutes.
    """
    ray = _ray()
    if ray.is_initialized():
        raise EnvironmentFault(
            "this process is connected to a Ray cluster already; call ray.shutdown() first"
        )
    start = "start one with: ray start --head --disable-usage-stats"
    if address != "auto":
        host, _, port = address.rpartition(":")
        try:
            socket.create_connection((host, int(port)), timeout=KNOCK).close()
        except (OSError, OverflowError) as error:
            raise EnvironmentFault(
                f"no Ray cluster answers at {address} ({error}); {start}"
            ) from None
    question = [sys.executable, "-m", "ray.scripts.scripts", "health-check", "--address", address]
    try:
        answer = subprocess.run(
            question, capture_output=True, text=True, timeout=PATIENCE, check=False
        )
        said = answer.stderr.strip().splitlines()[-1:] if answer.returncode else None
    except subprocess.TimeoutExpired:
        said = ["what listens there does not answer as Ray does"]
    if said is not None:
        raise EnvironmentFault(f"no Ray cluster answers at {address} ({' '.join(said)}); {start}")


def spread(
    inputs: Inputs,
    statistics: Path | None,
    done: Collection[Cell],
    keep: Keep,
    on_progress: Callable[[int, int], None],
) -> None:
    """Measure every cell that is not done on the cluster of the request.

    Args:
        inputs: the model as it is here, which says what the workers are to have.
        statistics: file of the calibration, where the tier or the method reads one.
        done: cells whose rows are there already.
        keep: called with the rows of each cell, and what it took, as parts end.
        on_progress: called every quarter of a second with (cells done, cells left at first); may raise `Cancelled`.

    Raises EnvironmentFault where the cluster cannot do it; what a worker raises is raised here.
    """
    left = [cell for cell in inputs.cells if cell not in set(done)]
    with _connected(str(inputs.request.ray)) as ray:
        workers, wanted = _workers(ray, inputs)
        parts = parts_of(left, list_tiers()[inputs.request.tier], workers)
        # max_calls: a worker is kept, and with it the model, on GPUs as well.
        work = ray.remote(**wanted, max_retries=RETRIES, max_calls=0)(_measured)
        order = ray.put(_order(inputs, statistics))
        pending = {work.remote(order, [c.to_json() for c in part]): part for part in parts}
        try:
            while pending:
                on_progress(len(left) - sum(map(len, pending.values())), len(left))
                for ended in ray.wait(list(pending), timeout=EVERY)[0]:
                    for line in _result(ray, ended):
                        keep([Row.parse(row, "a worker") for row in line["rows"]], line["took"])
                    del pending[ended]
        finally:
            for reference in pending:
                ray.cancel(reference, force=True)
    on_progress(len(left), len(left))


def parts_of(cells: Sequence[Cell], card: TierCard, workers: int) -> list[Part]:
    """Cut cells for so many workers, each cell into one part.

    Where one pass of the sampler serves all cells, every worker gets some sites with all their cells, in one part.
    Else cells of one operand and one width stay together, since they share rounded layers, in parts that are
    small enough to keep all workers busy to the end and large enough for what each of them draws first.
    """
    if card.at_once:
        sites = list(dict.fromkeys(cell.site for cell in cells))
        size = max(1, -(-len(sites) // workers))
        runs = [set(sites[i : i + size]) for i in range(0, len(sites), size)]
        return [tuple(cell for cell in cells if cell.site in run) for run in runs]
    size = min(max(len(cells) // (PARTS_PER_WORKER * workers), FEWEST), MOST)
    parts: list[Part] = []
    for _, group in itertools.groupby(cells, lambda cell: (cell.operand, cell.bits)):
        alike = tuple(group)
        parts += [alike[i : i + size] for i in range(0, len(alike), size)]
    return parts


# -- the cluster


def _ray() -> ModuleType:
    """Ray, which reports nothing to anybody."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    try:
        import ray
    except ImportError:
        raise EnvironmentFault(
            'Ray is not installed here; install it with: pip install "dq-viz[ray]", or leave --ray away'
        ) from None
    return ray


@contextmanager
def _connected(address: str) -> Iterator[ModuleType]:
    """The cluster during a block of code; nothing of ours is left running there."""
    ray = _ray()
    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.CRITICAL)
    except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise EnvironmentFault(
            f"the Ray cluster at {address} does not let this process in ({error}); it must run on a machine "
            "of the cluster, with the same versions of Python and Ray"
        ) from None
    try:
        yield ray
    finally:
        ray.shutdown()


def _workers(ray: ModuleType, inputs: Inputs) -> tuple[int, dict[str, Any]]:
    """How many workers there is room for, and what each takes of a node."""
    wanted: dict[str, Any] = {"num_cpus": 1, "memory": inputs.memory_bytes}
    if inputs.model.device.type == "cuda":
        wanted["num_gpus"] = 1
    names = {"num_cpus": "CPU", "num_gpus": "GPU", "memory": "memory"}
    count = sum(
        int(min(node["Resources"].get(names[name], 0) // much for name, much in wanted.items()))
        for node in ray.nodes()
        if node["Alive"]
    )
    if not count:
        each = ", a GPU" if "num_gpus" in wanted else ""
        raise EnvironmentFault(
            f"no node of the Ray cluster has a core{each} and {inputs.memory_bytes / 2**20:.0f} MiB of memory for "
            "a worker; add a node, or leave --ray away"
        )
    return count, wanted


def _result(ray: ModuleType, reference: Any) -> list[dict[str, Any]]:
    """What a part gave; its error as it was raised there."""
    try:
        return ray.get(reference)
    except ray.exceptions.RayTaskError as error:
        if NO_IMPORT in str(error.cause):
            raise EnvironmentFault(
                "a node of the Ray cluster cannot import dqviz; install it there as it is here, in the environment "
                "that its Ray runs in"
            ) from None
        raise error.cause from None
    except ray.exceptions.RayError as error:
        reason = " ".join(str(error).split())
        raise EnvironmentFault(
            f"a worker of the Ray cluster was lost {RETRIES + 1} times ({reason}); finished cells are kept, and "
            "the same sweep goes on from there"
        ) from None


# -- what a worker does


def _order(inputs: Inputs, statistics: Path | None) -> dict[str, Any]:
    """All that a worker needs beside its cells, as plain values."""
    from .records import describe, versions

    model = inputs.model
    as_here = {
        "device": model.device.type,
        "dtype": str(model.dtype).removeprefix("torch."),
        "ray": None,
        "out": None,
    }
    return {
        "request": inputs.request.model_copy(update=as_here).to_json(),
        "weights": describe(model)["weights"],
        "versions": versions(),
        "folder": os.getcwd(),  # what relative paths of the request start from
        "statistics": None if statistics is None else statistics.read_bytes(),
    }


def _measured(order: Mapping[str, Any], cells: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The rows of some cells, a line for each: rows, and what they took. Runs in a worker."""
    import torch

    from quant.seen import Seen

    torch.set_num_threads(1)  # sums are cut alike everywhere
    lines: list[dict[str, Any]] = []

    def keep(rows: Sequence[Row], took: Mapping[str, float]) -> None:
        lines.append({"rows": [row.to_json() for row in rows], "took": dict(took)})

    try:
        told = {name: value for name, value in order.items() if name != "statistics"}
        inputs = _opened(dump(told))
        seen = None
        if order["statistics"] is not None:
            with tempfile.TemporaryDirectory() as folder:
                file = Path(folder) / "seen.safetensors"
                file.write_bytes(order["statistics"])
                seen = Seen.load(file, stages=())
        mine = {Cell.parse(cell, "the driver") for cell in cells}
        measure_cells(inputs, seen, [c for c in inputs.cells if c not in mine], keep)
    except DQVizError as error:
        raise type(error)(f"on {platform.node()} of the Ray cluster: {error}") from None
    return lines


@lru_cache(maxsize=1)
def _opened(told: str) -> Inputs:
    """The inputs of a request, the same as where it was made; loaded once by each worker."""
    from .records import versions, weights_digest

    order = json.loads(told)
    if order["versions"] != versions():
        raise EnvironmentFault(f"{_listed(versions())}, but here {_listed(order['versions'])}")
    if Path(order["folder"]).is_dir():
        os.chdir(order["folder"])
    request = SweepRequest.parse(order["request"], "the driver")
    inputs = inputs_of(request)
    if weights_digest(inputs.model) != order["weights"]:
        raise BadInput(f"model {request.model} has other weights than here; copy it there")
    return inputs


def _listed(versions: Mapping[str, str]) -> str:
    return ", ".join(f"{name} {version}" for name, version in versions.items())
