"""How fast the integer linear is on this machine, against its simulation and against plain float32.

    python benchmarks/int_linear.py                  print the table
    python benchmarks/int_linear.py --save           and make it what `--backend auto` decides by

Each time is the minimum of interleaved runs in one process, with the whole op inside: quantizing the
input, the product, scales and bias; weights are prepared before. Before timing, the sums of both paths
are compared. `--save` refuses while other work keeps the processor busy.
"""

from __future__ import annotations

import argparse
import datetime
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import psutil
import torch
import torch.nn.functional as F

from dqviz.machine import with_threads
from kernels import tables
from kernels.int_linear import PackedWeight, accumulate, cpu, int_linear, prepare, tuned

ROWS = (64, 256, 1024)  # m
SHAPES = (  # (k, n): attention and the two layers of the MLP, of small and large transformers
    *((256, 256), (256, 1024), (1024, 256)),
    *((384, 384), (384, 1536), (1536, 384)),
    *((1152, 1152), (1152, 4608), (4608, 1152)),
)
BITS = ((8, 8), (8, 7), (4, 8))  # (weight, activation)
IDLE = 10.0  # largest share of the processor, in per cent, that others may use when --save starts
COLUMNS = ("m", "k", "n", "weight_bits", "act_bits", "corrected")


def weight_of(k: int, n: int, bits: int) -> PackedWeight:
    """A random symmetric weight."""
    codes = torch.randint(0, 2**bits, (n, k), dtype=torch.uint8)
    return PackedWeight.from_codes(codes, bits, torch.rand(n, 1) * 0.01 + 0.001)


def fastest(functions: dict[str, Callable[[], object]], runs: int) -> dict[str, float]:
    """Seconds of each function: minimum of `runs` (at least 7) interleaved calls after a warm-up."""
    best = dict.fromkeys(functions, float("inf"))
    for run in range(max(runs, 7) + 1):
        for name, function in functions.items():
            start = time.perf_counter()
            function()
            if run:
                best[name] = min(best[name], time.perf_counter() - start)
    return best


def measure(
    m: int, k: int, n: int, weight_bits: int, act_bits: int, corrected: bool, runs: int
) -> dict | None:
    """One row of the table; None where integer arithmetic would not be exact.

    The correction is provoked by asymmetric activations: it costs the same pass either way.
    """
    w = prepare(weight_of(k, n, weight_bits))
    if cpu.obstacle(w.weight, act_bits, torch.device("cpu")):
        return None
    x, bias = torch.randn(m, k), torch.randn(n)
    full = w.weight.dequantize()
    sums = [accumulate(x, w, act_bits, not corrected, b) for b in ("simulate", "integer")]
    if not torch.equal(*sums):
        raise SystemExit(f"integer sums differ at m={m} k={k} n={n} w{weight_bits}a{act_bits}")
    seconds = fastest(
        {
            "fp32": lambda: F.linear(x, full, bias),
            "simulate": lambda: int_linear(x, w, bias, act_bits, not corrected, "simulate"),
            "integer": lambda: int_linear(x, w, bias, act_bits, not corrected, "integer"),
        },
        runs,
    )
    return {
        **dict(zip(COLUMNS, (m, k, n, weight_bits, act_bits, corrected))),
        **{f"seconds_{name}": round(s, 7) for name, s in seconds.items()},
        "ratio": round(seconds["simulate"] / seconds["integer"], 3),
    }


def measured(runs: int, rows: tuple[int, ...]) -> list[dict]:
    """Measure and print every combination."""
    print(
        f"{'m':>5} {'k':>5} {'n':>5}  bits  corrected  fp32 ms  simulate  integer  ratio  to fp32"
    )
    found = []
    for k, n in SHAPES:
        for m in rows:
            for weight_bits, act_bits in BITS:
                for corrected in (False, True):
                    row = measure(m, k, n, weight_bits, act_bits, corrected, runs)
                    if row is None:
                        print(f"{m:5} {k:5} {n:5}  w{weight_bits}a{act_bits}  not exact here")
                        continue
                    found.append(row)
                    ms = [row[f"seconds_{name}"] * 1e3 for name in ("fp32", "simulate", "integer")]
                    print(
                        f"{m:5} {k:5} {n:5}  w{weight_bits}a{act_bits}  {corrected!s:>9} "
                        f"{ms[0]:8.3f}  {ms[1]:8.3f} {ms[2]:8.3f}  {row['ratio']:5.2f}  {ms[0] / ms[2]:7.2f}",
                        flush=True,
                    )
    return found


def save(rows: list[dict]) -> Path:
    """Write the table of this kind of device."""
    path = tables.file(tables.PACKAGED, tuned.device_name(), tuned.OP)
    path.parent.mkdir(parents=True, exist_ok=True)
    head = {
        "date": datetime.date.today().isoformat(),
        "torch": torch.__version__,
        "cpu": torch.cpu.get_capabilities().get("cpu_name", "unknown"),
        "cores": torch.get_num_threads(),
    }
    lines = ",\n".join(f"    {json.dumps(row)}" for row in rows)
    path.write_text(
        json.dumps(head, indent=2).rstrip("\n}") + f',\n  "rows": [\n{lines}\n  ]\n}}\n',
        encoding="utf-8",
    )
    return path


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--save", action="store_true", help="write kernels/configs/<device>/int_linear.json"
    )
    parser.add_argument(
        "--runs", type=int, default=15, help="timed runs of each function, at least 7"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="numbers of input rows")
    options = parser.parse_args()
    if not cpu.available():
        print(
            "this build of torch lacks oneDNN's integer linear: nothing to measure", file=sys.stderr
        )
        return 3
    busy = psutil.cpu_percent(interval=2.0)
    if options.save and busy > IDLE:
        print(
            f"the processor is {busy:.0f} % busy, above {IDLE:.0f} %: not saving times of a busy machine",
            file=sys.stderr,
        )
        return 3
    torch.manual_seed(0)
    print(
        f"{with_threads(tuned.device_name(), torch.get_num_threads())}, {busy:.0f} % busy, torch {torch.__version__}"
    )
    with torch.inference_mode():
        rows = measured(options.runs, tuple(options.rows))
    if options.save:
        print(f"written: {save(rows)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
