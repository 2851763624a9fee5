"""Compile the Triton kernels for GPUs that are not here, and read what the compilers say of them.

A kernel's `BUILDS`, in `kernels/<op>/triton_impl.py`, say for which types and sizes. What comes out is
counted, not measured: registers, spills and shared memory from the assembler's own report, instructions from
the disassembly. Nothing runs, and nothing is said of speed. `python -m kernels.ahead --write` stores the table, which
the tests hold the kernels to and `docs/kernels.md` shows.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

from packaging.version import Version

FOLDER = Path(__file__).parent
STORED = FOLDER / "configs" / "ahead"


class Target(NamedTuple):
    """A kind of GPU: Triton's backend and name for it, threads of a warp, shared memory of a block in bytes."""

    backend: str
    arch: int | str
    warp: int
    shared_limit: int
    int8: str  # in the assembly wherever 8-bit integers are multiplied by the matrix unit
    half: str  # ... and 16-bit floats
    float8: str = ""  # ... and 8-bit floats (e4m3), empty where there are none


TARGETS = {
    "sm_80": Target("cuda", 80, 32, 166912, r"mma\.sync\S*\.s8\.s8", r"mma\.sync\S*\.bf16\.bf16"),
    "sm_89": Target(
        "cuda",
        89,
        32,
        101376,
        r"mma\.sync\S*\.s8\.s8",
        r"mma\.sync\S*\.bf16\.bf16",
        r"mma\.sync\S*\.e4m3\.e4m3",
    ),
    "sm_90": Target(
        "cuda",
        90,
        32,
        232448,
        r"wgmma\S*\.s8\.s8",
        r"(?:wgmma|mma\.sync)\S*\.bf16\.bf16",
        r"wgmma\S*\.e4m3\.e4m3",
    ),
    "sm_100": Target(
        "cuda",
        100,
        32,
        232448,
        r"(?:tcgen05\.mma\S*kind::i8|mma\.sync\S*\.s8\.s8)\S*",
        r"tcgen05\.mma\S*kind::f16\S*|mma\.sync\S*\.bf16\.bf16\S*",  # kind::f16 is bfloat16 too
        r"tcgen05\.mma\S*kind::f8f6f4\S*",
    ),
    "gfx942": Target("hip", "gfx942", 64, 65536, r"v_mfma_i32\w*_i8", r"v_mfma_f32\w*_bf16"),
}


AMD_STAGES = 2  # what its 64 KiB of shared memory hold of a pipeline


@dataclass(frozen=True)
class Build:
    """One kernel with the types of its arguments and its constants.

    `types`: of each argument that is not constant, as Triton writes them ("*bf16", "i32"); pointers are
    taken as divisible by 16, integers where they end with ":16". `constants` holds launch options too.
    `matrix`: which products the matrix unit must do, "int8", "half", "float8", or "" for none.
    """

    name: str
    kernel: Any
    types: Mapping[str, str]
    constants: Mapping[str, Any] = field(default_factory=dict)
    matrix: str = ""

    def fits(self, target: str) -> bool:
        """Whether a target has the numbers that it is about."""
        return "*fp8e4nv" not in self.types.values() or bool(TARGETS[target].float8)


class Row(NamedTuple):
    """What came of one build for one target; spills and shared memory in bytes."""

    op: str
    config: str
    target: str
    registers: int
    spills: int
    shared_bytes: int
    mma: str | None  # the matrix instruction, None where none is wanted, "" where it is missing
    instructions: int

    def faults(self) -> list[str]:
        """What is wrong with it; spills and shared memory would cost time or stop a launch."""
        limit = TARGETS[self.target].shared_limit
        found = [f"{self.spills} bytes spilled"] if self.spills else []
        if self.shared_bytes > limit:
            found.append(f"{self.shared_bytes} bytes of shared memory, {limit} at most")
        return [*found, "no matrix instruction"] if self.mma == "" else found


def obstacle(target: str) -> str | None:
    """What prevents compiling for a target on this machine, or None. Raises ValueError for other names."""
    if target not in TARGETS:
        raise ValueError(f"target is '{target}'; use one of {', '.join(TARGETS)}")
    if find_spec("triton") is None:
        return "triton is not installed; pip install 'triton>=3.7.1,<3.8' (Linux)"
    if os.environ.get("TRITON_INTERPRET", "0") not in ("", "0"):
        return "TRITON_INTERPRET is set, which replaces the compiler; unset it"
    from triton.backends import backends

    wanted = {"cuda": "nvidia", "hip": "amd"}[TARGETS[target].backend]
    if wanted not in backends:
        return f"this build of triton has no {wanted} backend"
    return None


def builds() -> Iterator[tuple[str, Build]]:
    """Every build of every op, by the op's name."""
    for path in sorted(FOLDER.glob("*/triton_impl.py")):
        op = path.parent.name
        for build in import_module(f"kernels.{op}.triton_impl").BUILDS:
            yield op, build


def compiled(op: str, build: Build, target: str) -> Row:
    """Compile one build for one target and read what came out."""
    from triton.backends.compiler import GPUTarget
    from triton.compiler import ASTSource
    from triton.compiler import compile as compile_kernel

    kind = TARGETS[target]
    names = build.kernel.arg_names
    options = {k: v for k, v in build.constants.items() if k in ("num_warps", "num_stages")}
    if kind.backend == "hip" and "num_stages" in options:
        options["num_stages"] = min(AMD_STAGES, options["num_stages"])
    constants = {k: v for k, v in build.constants.items() if k not in options}
    constants |= {name: None for name in names if name not in build.types and name not in constants}
    signature = {
        n: build.types[n].partition(":")[0] if n in build.types else "constexpr" for n in names
    }
    aligned = {
        (i,): [["tt.divisibility", 16]]
        for i, name in enumerate(names)
        if build.types.get(name, "").startswith("*") or build.types.get(name, "").endswith(":16")
    }
    source = ASTSource(build.kernel, signature, constexprs=constants, attrs=aligned)
    made = compile_kernel(
        source,
        target=GPUTarget(kind.backend, kind.arch, kind.warp),
        options={**options, "enable_fp_fusion": True},
    )
    read = _nvidia if kind.backend == "cuda" else _amd
    registers, spills, instructions, assembly = read(made.asm, kind)
    mma = None
    if build.matrix:
        found = re.search(getattr(kind, build.matrix), assembly)
        mma = found[0] if found else ""
    shared = made.metadata.shared
    return Row(op, build.name, target, registers, spills, shared, mma, instructions)


def table(targets: Iterable[str]) -> list[Row]:
    """Every build for every target that it fits. `obstacle` comes first."""
    targets = tuple(targets)
    return [
        compiled(op, build, target)
        for op, build in builds()
        for target in targets
        if build.fits(target)
    ]


def stored(folder: Path = STORED) -> dict[str, list[Row]]:
    """The tables that came with the repository, by the version of Triton that made them."""
    return {
        path.stem.removeprefix("triton-"): [Row(**row) for row in json.loads(path.read_text())]
        for path in sorted(folder.glob("triton-*.json"))
    }


def newest() -> tuple[str, list[Row]]:
    """The newest version of Triton that has a stored table, and the table."""
    return max(stored().items(), key=lambda item: Version(item[0]))


def main() -> None:
    """Print the rows of the targets named, as JSON; with --write, store the table of all of them."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("targets", nargs="*", metavar="TARGET")
    parser.add_argument("--write", action="store_true")
    asked = parser.parse_args()
    targets = list(TARGETS) if asked.write else asked.targets
    for target in targets:
        if reason := obstacle(target):
            raise SystemExit(f"{target}: {reason}")
    lines = ",\n".join(json.dumps(row._asdict()) for row in table(targets))
    text = f"[\n{lines}\n]\n"
    if asked.write:
        import triton

        STORED.mkdir(exist_ok=True)
        (STORED / f"triton-{triton.__version__}.json").write_text(text, encoding="utf-8")
    sys.stdout.write(text)


def _nvidia(asm: Mapping[str, Any], kind: Target) -> tuple[int, int, int, str]:
    """Registers, bytes spilled, instructions, and the PTX."""
    import triton
    from triton.backends.nvidia.compiler import get_ptxas

    tools = Path(triton.__file__).parent / "backends" / "nvidia" / "bin"
    name = re.search(r"\.target\s+(sm_\w+)", asm["ptx"])
    assert name is not None, "PTX names its target"
    with tempfile.TemporaryDirectory() as folder:
        ptx, cubin = Path(folder) / "kernel.ptx", Path(folder) / "kernel.cubin"
        ptx.write_text(asm["ptx"])
        command = [get_ptxas(int(kind.arch)).path, "-v", f"--gpu-name={name[1]}", ptx, "-o", cubin]
        told = subprocess.run(command, capture_output=True, text=True, check=True).stderr
        path = f"{tools}{os.pathsep}{os.environ.get('PATH', '')}"
        cubin.write_bytes(asm["cubin"])
        listing = subprocess.run(
            [tools / "cuobjdump", "-sass", cubin],
            capture_output=True,
            text=True,
            check=True,
            env={**os.environ, "PATH": path},
        ).stdout
    instructions = len(re.findall(r"/\*[0-9a-f]{4,}\*/\s+\S", listing))
    spilled = _number(r"(\d+) bytes spill stores", told) + _number(r"(\d+) bytes spill loads", told)
    return _number(r"Used (\d+) registers", told), spilled, instructions, asm["ptx"]


def _amd(asm: Mapping[str, Any], kind: Target) -> tuple[int, int, int, str]:
    """Vector registers, bytes spilled by a thread, instructions, and the assembly."""
    text = asm["amdgcn"]
    instructions = len(re.findall(r"^\t[a-z]\w+_", text, re.MULTILINE))
    spilled = 4 * _number(r"\.vgpr_spill_count:\s+(\d+)", text)
    return _number(r"\.vgpr_count:\s+(\d+)", text), spilled, instructions, text


def _number(pattern: str, text: str) -> int:
    found = re.search(pattern, text)
    if found is None:
        raise RuntimeError(f"the compiler's report has no '{pattern}'")
    return int(found[1])


if __name__ == "__main__":
    main()
