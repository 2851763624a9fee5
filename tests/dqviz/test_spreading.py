"""Sweeps on a Ray cluster of two nodes inside this machine: the table of one process, whatever happens to a node."""

from __future__ import annotations

import json
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest
import ray
from ray.cluster_utils import Cluster
from ray.exceptions import RayTaskError, WorkerCrashedError

from dqviz import spreading, work
from dqviz.cli import main
from dqviz.events import Done, Progress
from dqviz.spreading import check_cluster, parts_of
from dqviz.sweep_inputs import inputs_of
from dqviz.sweep_log import SweepLog
from dqviz.sweeping import SweepRequest, as_command, check_fields, sweep
from quant.errors import BadInput, Cancelled, EnvironmentFault
from quant.sensitivity import list_tiers
from quant.sensitivity.cells import Cell, cells_of

NODE = {"num_cpus": 1, "memory": 2**31, "object_store_memory": 80 * 2**20}
DRAWN = 2 * 4  # evaluations of one pass: samples, steps
# A lost node is noticed after a second, not after Ray's quarter of a minute.
SOON = {"health_check_period_ms": 300, "health_check_failure_threshold": 3}


@pytest.fixture(scope="module")
def cluster() -> Iterator[Cluster]:
    """Two nodes of one core each, in a folder with a short name: there are sockets in it."""
    with (
        tempfile.TemporaryDirectory(prefix="ray-", dir="/tmp") as folder,
        pytest.MonkeyPatch.context() as patch,
    ):
        patch.setenv("RAY_TMPDIR", folder)
        head = {"include_dashboard": False, "_system_config": SOON}
        found = Cluster(initialize_head=True, head_node_args={**NODE, **head})
        found.add_node(**NODE)
        processes = workers_of(found)
        yield found
        found.shutdown()
        assert not psutil.wait_procs(processes, timeout=10)[1], "nothing is left running"


def workers_of(cluster: Cluster) -> list[psutil.Process]:
    """Every process below the nodes' own."""
    nodes = [cluster.head_node, *cluster.worker_nodes]
    roots = [p.process.pid for node in nodes for p in node.all_processes["raylet"]]
    return [below for pid in roots for below in psutil.Process(pid).children(recursive=True)]


def asked(model: Path, folder: Path, **more: Any) -> SweepRequest:
    """Exact flips of two layers, two widths and two windows: four parts of six cells."""
    plain = {
        "model": str(model), "out": folder, "tier": "exact", "bits": "4,8", "windows": 2, "pictures": False,
        "sites": "attn1.to_q", "seeds": "300-301", "calibration_seeds": "100-101", "device": "cpu",
    }  # fmt: skip
    return SweepRequest.parse({**plain, **more})


@pytest.fixture(scope="module")
def alone(tiny_dit: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The sweep in one process; read only."""
    return sweep(asked(tiny_dit, tmp_path_factory.mktemp("alone") / "study"))


def table(made: dict[str, Any]) -> bytes:
    return (Path(made["study"]) / made["file"]).read_bytes()


# -- on the cluster


def test_two_nodes_make_the_table_of_one_process(
    cluster: Cluster, alone: dict[str, Any], tiny_dit: Path, tmp_path: Path
) -> None:
    request, events = asked(tiny_dit, tmp_path / "s", ray=cluster.address), []
    made = sweep(request, events.append)
    assert table(made) == table(alone)
    assert made["noise_floor"] == alone["noise_floor"]
    again = 3 * DRAWN
    assert made["denoiser_calls"] == alone["denoiser_calls"] + again, "four parts draw it first"
    assert isinstance(events[-1], Done)
    shares = [e.done for e in events if isinstance(e, Progress)]
    assert shares == sorted(shares)
    assert sweep(request.model_copy(update={"ray": None}))["reused"]


def test_a_cancelled_sweep_leaves_no_worker_busy(
    cluster: Cluster, tiny_dit: Path, tmp_path: Path
) -> None:
    looked: list[Any] = []
    before = set(workers_of(cluster))
    with pytest.raises(Cancelled, match="goes on from there"):
        sweep(
            asked(tiny_dit, tmp_path / "s", ray=cluster.address),
            lambda e: looked.append(e) if isinstance(e, Progress) else None,
            lambda: len(looked) > 8,
        )
    made = [p for p in workers_of(cluster) if p not in before]
    assert not [p for p in psutil.wait_procs(made, timeout=10)[1] if "_measured" in p.name()]


def test_stopped_here_and_taken_up_on_a_cluster_that_loses_a_node(
    cluster: Cluster,
    alone: dict[str, Any],
    tiny_dit: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    request, add, lost = asked(tiny_dit, tmp_path / "s"), SweepLog.add, []

    def stop(self: SweepLog, *given: Any) -> None:
        add(self, *given)
        if len(self) == 6:
            raise Cancelled("stop")

    monkeypatch.setattr(SweepLog, "add", stop)
    with pytest.raises(Cancelled, match="goes on from there"):
        sweep(request)

    def lose_one(event: Any) -> None:
        if isinstance(event, Progress) and event.done > 0 and not lost:
            lost.append(event.done)
            cluster.remove_node(*cluster.worker_nodes, allow_graceful=False)

    made = sweep(request.model_copy(update={"ray": cluster.address}), lose_one)
    assert lost
    assert made["resumed_cells"] == 6
    assert table(made) == table(alone)
    again = 3 * DRAWN
    assert made["denoiser_calls"] == alone["denoiser_calls"] + again, "no cell counts twice"


# -- parts, in one process


@pytest.mark.parametrize("tier", list_tiers())
def test_parts_together_are_the_sweep(tier: str, tiny_dit: Path, tmp_path: Path) -> None:
    """What workers do, one after another: no row depends on the part that it is in."""
    request = asked(tiny_dit, tmp_path / "s", tier=tier, both_ways=tier == "exact")
    made = sweep(request)
    inputs, file = inputs_of(request), next((tmp_path / "s").glob("seen*.safetensors"), None)
    assert (file is not None) == (tier == "weight")
    order = spreading._order(inputs, file)
    found = []
    for part in reversed(parts_of(inputs.cells, list_tiers()[tier], 2)):
        found += spreading._measured(order, [cell.to_json() for cell in part])
    by_cell = {Cell.parse(line["rows"][0]["cell"], "a row"): line["rows"] for line in found}
    lines = [json.loads(line) for line in table(made).splitlines()]
    rows = [row for cell in inputs.cells for row in by_cell[cell]]
    assert len(rows) == len(lines)
    for row, line in zip(rows, lines):
        assert row["metric"] == line["metric"]
        for name in ("value", "lo", "hi", "noise", "per_sample", "per_step"):
            assert row[name] == line[name]


@pytest.mark.parametrize("workers", [1, 2, 7, 1000])
@pytest.mark.parametrize("tier", list_tiers())
def test_every_cell_is_in_one_part(tier: str, workers: int) -> None:
    card = list_tiers()[tier]
    cells = cells_of([f"s{i}" for i in range(30)], ("4", "8"), 4, card.operands)
    parts = parts_of(cells, card, workers)
    assert sorted(map(str, (c for part in parts for c in part))) == sorted(map(str, cells))
    if card.at_once:
        assert len(parts) <= workers, "each part is a pass of the sampler"
    else:
        assert all(len({(c.operand, c.bits) for c in part}) == 1 for part in parts)
        assert max(map(len, parts)) <= spreading.MOST
    assert parts_of([], card, workers) == []


def test_a_worker_refuses_another_model_and_other_versions(tiny_dit: Path, tmp_path: Path) -> None:
    order = spreading._order(inputs_of(asked(tiny_dit, tmp_path / "s")), None)
    with pytest.raises(BadInput, match=r"of the Ray cluster: model .* has other weights than here"):
        spreading._measured({**order, "weights": "0"}, [])
    with pytest.raises(EnvironmentFault, match=r"of the Ray cluster: .*, but here torch 1.0"):
        spreading._measured({**order, "versions": {"torch": "1.0"}}, [])


# -- what cannot be done


NO_PACKAGE = RuntimeError(f"The remote function {spreading.NO_IMPORT}: No module named 'dqviz'")


@pytest.mark.parametrize(
    ("raised", "kind", "says"),
    [
        (RayTaskError("f", "", NO_PACKAGE), EnvironmentFault, "cannot import dqviz; install it"),
        (RayTaskError("f", "", BadInput("no")), BadInput, "no"),
        (WorkerCrashedError(), EnvironmentFault, "lost 4 times .* finished cells are kept"),
    ],
)
def test_what_a_worker_raises_is_one_error(
    raised: Exception, kind: type[Exception], says: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    def get(_: object) -> None:
        raise raised

    monkeypatch.setattr(ray, "get", get)
    with pytest.raises(kind, match=says) as error:
        spreading._result(ray, None)
    assert "\n" not in str(error.value)


def test_an_address_that_is_dead_is_one_error_and_ray_is_not_left_to_ask_it_again_and_again(
    tiny_dit: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(ray, "init", lambda **_: pytest.fail("Ray asks for minutes"))
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))  # and nobody listens
        address = f"127.0.0.1:{held.getsockname()[1]}"
        words = as_command(asked(tiny_dit, tmp_path / "s", ray=address)).split()[1:]
        assert main([*words, "--json"]) == 3
    said = capsys.readouterr()
    assert said.out == ""
    assert f"no Ray cluster answers at {address}" in said.err
    assert "ray start --head" in said.err
    assert len(said.err.splitlines()) == 1
    assert not (tmp_path / "s").exists()


def test_what_listens_but_is_no_ray_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(spreading, "PATIENCE", 2)
    with socket.socket() as other:
        other.bind(("0.0.0.0", 0))
        other.listen()
        with pytest.raises(EnvironmentFault, match="does not answer as Ray does"):
            check_cluster(f"127.0.0.1:{other.getsockname()[1]}")


def test_without_ray_the_error_says_how_to_install_it(
    tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(EnvironmentFault, match=r'pip install "dq-viz\[ray\]"'):
        sweep(asked(tiny_dit, tmp_path / "s", ray="auto"))
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("address", ["", "here", "ray://a:10001", "http://a:8265", "a:"])
def test_an_address_that_cannot_be_one_is_bad_input(address: str, tmp_path: Path) -> None:
    with pytest.raises(BadInput, match="write HOST:PORT"):
        check_fields(asked(Path("dit-emoji"), tmp_path, ray=address))


def test_a_job_and_a_command_name_the_cluster_and_old_requests_stay_what_they_were() -> None:
    plain = SweepRequest(model="dit-emoji", bits=("4",))
    assert "ray" not in plain.to_json()
    on = plain.model_copy(update={"ray": "auto"})
    assert work.KINDS["sensitivity"].command(on.to_json()) == as_command(on)
    assert as_command(on).endswith("--ray auto")


def test_a_log_in_any_order_is_the_same_table(
    alone: dict[str, Any], tiny_dit: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    add, held = SweepLog.add, []

    def late(self: SweepLog, *given: Any) -> None:
        """Two cells change places, again and again."""
        held.append(given)
        if len(held) == 2:
            add(self, *held.pop())
            add(self, *held.pop())

    monkeypatch.setattr(SweepLog, "add", late)
    assert table(sweep(asked(tiny_dit, tmp_path / "s"))) == table(alone)
