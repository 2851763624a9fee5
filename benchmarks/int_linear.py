"""How fast the integer linear is on this machine, against its simulation and against plain float32.

    python benchmarks/int_linear.py                  print the table
    python benchmarks/int_linear.py --save           and make it what comes along for `--backend auto`

Shapes of small and large transformers; `dqviz bench --tune` measures those of one model, the same way
(`dqviz/benching/tuning.py`). `--save` refuses while other work keeps the processor busy.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent))

import torch

from dqviz import machine
from dqviz.benching import stored, tuning
from dqviz.benching.request import FEWEST_TUNED
from dqviz.benching.run import IDLE
from kernels import tables
from kernels.int_linear import cpu, tuned
from quant.errors import DQVizError

ROWS = (64, 256, 1024)  # m
SHAPES = (  # (k, n): attention and the two layers of the MLP, of small and large transformers
    *((256, 256), (256, 1024), (1024, 256)),
    *((384, 384), (384, 1536), (1536, 384)),
    *((1152, 1152), (1152, 4608), (4608, 1152)),
)


def measured(cases: list[tuning.Case], runs: int) -> list[dict]:
    """Measure and print every case."""
    print(
        f"{'m':>5} {'k':>5} {'n':>5}  bits  corrected  fp32 ms  simulate  integer  ratio  to fp32"
    )
    found = []
    for case in cases:
        shape = f"{case.m:5} {case.k:5} {case.n:5}  w{case.weight_bits}a{case.act_bits}"
        row = tuning.measure(case, runs, tuned.CPU)
        if isinstance(row, str):
            print(f"{shape}  {row}")
            continue
        found.append(row)
        ms = [row[f"seconds_{name}"] * 1e3 for name in ("fp32", "simulate", "integer")]
        print(
            f"{shape}  {case.corrected!s:>9} {ms[0]:8.3f}  {ms[1]:8.3f} {ms[2]:8.3f}  "
            f"{row['ratio']:5.2f}  {ms[0] / ms[2]:7.2f}",
            flush=True,
        )
    return found


def main() -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument(
        "--save", action="store_true", help="write kernels/configs/<device>/int_linear.json"
    )
    parser.add_argument(
        "--runs", type=int, default=15, help=f"timed runs of each way, at least {FEWEST_TUNED}"
    )
    parser.add_argument("--rows", type=int, nargs="+", default=ROWS, help="numbers of input rows")
    options = parser.parse_args()
    if not cpu.available():
        print(
            "this build of torch lacks oneDNN's integer linear: nothing to measure", file=sys.stderr
        )
        return 3
    busy = machine.busy()
    if options.save and busy > IDLE:
        print(
            f"the processor is {busy:.0f} % busy, above {IDLE:.0f} %: not saving times of a busy machine",
            file=sys.stderr,
        )
        return 3
    torch.manual_seed(0)
    threads = machine.with_threads(tuned.device_name(), torch.get_num_threads())
    print(f"{threads}, {busy:.0f} % busy, torch {torch.__version__}")
    cases = tuning.of_shapes([(m, k, n) for k, n in SHAPES for m in options.rows], tuned.CPU)
    path, place = stored.file(tables.PACKAGED, tuned.CPU, tuned.OP), stored.place(tuned.CPU)
    try:
        if options.save:
            stored.check(path, place)
        with torch.inference_mode():
            rows = measured(cases, max(options.runs, FEWEST_TUNED))
        if options.save:
            print(f"written: {stored.save(path, place, cases, rows)}")
    except DQVizError as error:
        print(f"error: {error}", file=sys.stderr)
        return error.exit_code
    return 0


if __name__ == "__main__":
    sys.exit(main())
