"""The generated blocks of the documentation: `make docs` writes them, `tests/test_docs.py` checks them.

A block stands between `<!-- generated: NAME -->` and `<!-- end of NAME -->` in a tracked .md file;
`BLOCKS` below says how each is made. All come from files of the repository (cards, model folders,
results), so that they are the same on every machine.
"""

from __future__ import annotations

import argparse
import json
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

from .measured import measured, measured_first
from .recipe_tables import devices, recipe_floors, recipe_memory, recipe_sizes
from .tables import ROOT, results, table

BLOCK = re.compile(
    r"(<!-- generated: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end of (?P=name) -->)", re.DOTALL
)


def methods() -> str:
    """Every method that is in this repository, from its card."""
    from quant.cards import FILES

    rows = [
        (f"`{c.key}`", c.title, f"[paper]({c.paper})", ", ".join(c.bits), c.summary)
        for c in FILES.cards.values()
    ]
    return table(("method", "name", "source", "presets", "what it does"), rows)


def models() -> str:
    """The embedded models, from their cards."""
    rows = []
    for path in sorted((ROOT / "assets" / "models").glob("*/dqviz.json")):
        card = json.loads(path.read_text(encoding="utf-8"))
        weights = path.parent / "transformer" / "diffusion_pytorch_model.safetensors"
        size = f"{weights.stat().st_size / 1e6:.1f} MB" if weights.is_file() else "?"
        rows.append(
            (
                f"`{card['key']}`",
                card["title"],
                card["task"],
                str(len(card.get("classes", {})) or len(card.get("prompts", []))),
                size,
                card.get("licence", "unknown"),
            )
        )
    return table(
        ("model", "what it is", "task", "classes or prompts", "transformer", "licence"), rows
    )


def presets(learns: bool) -> str:
    """Every preset of the methods of this repository that learn, or of those that do not, from their cards."""
    from quant.cards import FILES

    rows = [
        (
            f"`{card.key}`",
            f"`{preset.name}`",
            preset.bits,
            ", ".join(f"`{name}={value}`" for name, value in preset.options.items()),
            preset.source,
            preset.text,
        )
        for card in FILES.cards.values()
        if card.learns == learns
        for preset in card.presets
    ]
    return table(("method", "preset", "made for", "sets", "source", ""), rows)


def rotations() -> str:
    """Cost of Hadamard rotations, at widths of public models."""
    from kernels.hadamard import cost, factors

    rows = []
    for width in (1152, 1536, 2432, 3072):
        inner = 4 * width
        block = 3 * width * cost(width) + inner * cost(inner)
        rows.append(
            (
                str(width),
                " x ".join(str(n) for n in factors(width)),
                str(cost(width)),
                f"{100 * cost(width) / width:.1f} %",
                f"{100 * block / (12 * width**2):.2f} %",
            )
        )
    return table(("width", "factors", "multiply-adds", "of one layer", "of a DiT block"), rows)


def stepwise() -> str:
    """ViDiT-Q-MP's released plan, by what it computes with and by what it stores."""
    from quant.stepwise_bits import CLAIMED, RELEASED, SHARES, storage_of

    found = storage_of(RELEASED, SHARES)
    total = sum(part.weights for part in RELEASED)
    rows = [
        (
            part.name,
            f"{part.weights / 1e6:.1f} M ({100 * part.weights / total:.1f} %)",
            ", ".join(str(bits) for bits in part.bits),
            " + ".join(str(bits) for bits in sorted(set(part.bits), reverse=True)),
        )
        for part in RELEASED
    ]
    counted = table(("weights", "how many", "bits by window, noisiest first", "stored bits"), rows)
    return (
        f"{counted}\nA step computes with {found.computed:.2f} bits per weight on average, and 16 / {found.computed:.2f} = "
        f"{16 / found.computed:.2f}: about the {CLAIMED}x that is claimed (second-hand). Stored are {found.stored:.1f} bits per weight: "
        f"16 / {found.stored:.1f} = **{found.saving:.2f}x**.\n"
    )


def support() -> str:
    """Method by family; where not all bits work, which do, with the reasons numbered below."""
    found = results("support")
    if found is None:
        return "Nothing has been tried yet.\n"
    reasons: dict[str, int] = {}
    rows = []
    for method, families in found["matrix"].items():
        cells = [f"`{method}`"]
        for bits in families.values():
            able = [name for name, said in bits.items() if said == "works"]
            said = [text.partition(", not ")[0] for text in bits.values() if text != "works"]
            notes = [reasons.setdefault(reason, len(reasons) + 1) for reason in said]
            marks = "".join(f"<sup>{n}</sup>" for n in sorted(set(notes)))
            cells.append(f"{_works(able, list(bits))} {marks}".strip())
        rows.append(tuple(cells))
    families = next(iter(found["matrix"].values()))
    listed = "".join(f"{n}. {reason}\n" for reason, n in reasons.items())
    return f"{table(('method', *families), rows)}\nRefused because the method:\n\n{listed}"


def _works(able: list[str], tried: list[str]) -> str:
    """Which of the bits that were tried work, in a word where there is one."""
    if able == tried:
        return "works"
    if able == [name for name in tried if name.startswith("w")]:
        return "integers"
    return ", ".join(name.upper() for name in able) or "no"


def attention_sharing() -> str:
    """Which families can share attention between the guidance branches, and why others cannot."""
    from quant.adapters import adapters

    known = adapters().values()
    rows = [
        (f"`{a.transformer_class}`", f"no: {a.unshared}" if a.unshared else "yes") for a in known
    ]
    return table(("transformer", "attention sharing"), sorted(rows))


def exports() -> str:
    """Every export format, from its card."""
    from quant.exports import list_exports

    rows = [
        (
            f"`{c.key}`",
            f"{c.title}, a {f'{c.suffix} {c.writes}'.strip()}",
            c.holds,
            c.loses,
            c.source,
            c.checked,
        )
        for c in list_exports().values()
    ]
    head = ("format", "writes", "holds exactly", "loses", "layout from", "opened by")
    return table(head, rows)


def kernels_ahead() -> str:
    """What compilers say of every Triton kernel, from the newest stored table."""
    from kernels.ahead import TARGETS, newest

    triton, rows = newest()
    found = {(row.op, row.config, row.target): row for row in rows}
    names = dict.fromkeys((row.op, row.config) for row in rows)

    def cell(op: str, config: str, target: str) -> str:
        row = found.get((op, config, target))
        if row is None:  # the target lacks the numbers
            return "-"
        said = [str(row.registers), f"{row.shared_bytes / 1024:.1f}", str(row.instructions)]
        return " / ".join(said) + "".join(f"; **{fault}**" for fault in row.faults())

    head = ("op", "config", *TARGETS)
    lines = [(f"`{op}`", config, *(cell(op, config, t) for t in TARGETS)) for op, config in names]
    used = {t: {row.mma for row in rows if row.target == t and row.mma} for t in TARGETS}
    units = "".join(
        f"- {target}: {', '.join(f'`{name}`' for name in sorted(used[target]))}\n"
        for target in TARGETS
    )
    return f"Triton {triton}:\n\n{table(head, lines)}\nMatrix instructions found:\n\n{units}"


def gpu() -> str:
    """What was measured on a GPU, or that nothing was."""
    found = results("gpu")
    if found is None:
        return (
            "**The kernels are not yet measured on a GPU.** Nothing here says how fast they are. `make gpu` measures them, "
            "`make gpu-results` puts what it found here.\n"
        )
    from benchmarks.gpu_tables import HEADLINE, headline

    said = f"Measured on {found['device']}, {found['date']}, ratios in one run: [all of it](results/gpu.md)."
    rows = headline(found)
    return f"{said}\n\n{table(HEADLINE, rows)}" if rows else f"{said}\n"


def gpu_stages() -> str:
    """What `make gpu` does, in order."""
    from benchmarks.gpu.stage import stages

    rows = [(n, m.STAGE.what, f"{m.STAGE.minutes:g}") for n, m in stages().items()]
    return table(("stage", "what", "minutes"), rows)


BLOCKS: dict[str, Callable[[], str]] = {
    "methods": methods,
    "models": models,
    "measured": measured,
    "measured-first": measured_first,
    "presets": lambda: presets(learns=False),
    "learned-presets": lambda: presets(learns=True),
    "rotations": rotations,
    "stepwise": stepwise,
    "support": support,
    "attention-sharing": attention_sharing,
    "exports": exports,
    "gpu": gpu,
    "gpu-stages": gpu_stages,
    "kernels-ahead": kernels_ahead,
    "recipe-sizes": recipe_sizes,
    "recipe-memory": recipe_memory,
    "recipe-floors": recipe_floors,
    "devices": devices,
}


def renewed(text: str) -> str:
    """The text with every block made anew."""

    def made(match: re.Match[str]) -> str:
        name = match["name"]
        if name not in BLOCKS:
            raise SystemExit(
                f"no generated block is called '{name}'; known: {', '.join(sorted(BLOCKS))}"
            )
        return f"{match[1]}\n{BLOCKS[name]()}\n{match[4]}"

    return BLOCK.sub(made, text)


def pages() -> list[Path]:
    """Every Markdown file that git tracks or would track."""
    listing = subprocess.run(
        ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard", "*.md"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    if listing.returncode:
        return sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
    return sorted(ROOT / name for name in set(listing.stdout.split("\0")) if name)


def stale() -> dict[Path, str]:
    """Pages whose blocks are not current, with what they should be."""
    current = {path: path.read_text(encoding="utf-8") for path in pages() if path.is_file()}
    return {path: new for path, text in current.items() if (new := renewed(text)) != text}


def main() -> int:
    """Check, or with --write mend."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--write", action="store_true")
    write = parser.parse_args().write
    found = stale()
    for path, text in found.items():
        if write:
            path.write_text(text, encoding="utf-8")
        sys.stdout.write(
            f"{path.relative_to(ROOT)}: {'written' if write else 'not current; run make docs'}\n"
        )
    return int(bool(found) and not write)


if __name__ == "__main__":
    sys.exit(main())
