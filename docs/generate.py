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
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
RESULTS = ROOT / "docs" / "results"
BLOCK = re.compile(
    r"(<!-- generated: (?P<name>[\w-]+) -->\n)(?P<body>.*?)(<!-- end of (?P=name) -->)", re.DOTALL
)


def table(head: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table."""
    lines = [head, ("---",) * len(head), *rows]
    return "".join("| " + " | ".join(line) + " |\n" for line in lines)


def methods() -> str:
    """Every method that is in this repository, from its card."""
    from quant.cards import read_card

    cards = [read_card(path) for path in sorted((ROOT / "quant" / "methods").glob("*.py"))]
    rows = [
        (f"`{c.key}`", c.title, f"[paper]({c.paper})", ", ".join(c.bits), c.summary)
        for c in cards
        if c is not None
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


def results(name: str) -> dict[str, Any] | None:
    """A result file, if it has been written."""
    path = RESULTS / f"{name}.json"
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def interval(value: dict[str, Any] | None, sign: str = "") -> str:
    """`12.34 (12.00 to 12.70)`; a dash where there is no number."""
    if not value or value.get("mean") is None:
        return "identical"
    mean = format(value["mean"], f"{sign}.2f")
    if value.get("lo") is None:
        return mean
    return f"{mean} ({format(value['lo'], f'{sign}.2f')} to {format(value['hi'], f'{sign}.2f')})"


def measured() -> str:
    """What was measured where: one row per comparison of the result files."""
    rows = []
    quality = results("quality")
    if quality:
        n = str(len(quality["seeds"]))
        place = f"{quality['device']}, {quality['date']}"
        for entry in quality["bits"]:
            for pair in entry["pairs"]:
                what = f"{quality['model']} {entry['bits']}: `{pair['a']}` minus `{pair['b']}`, PSNR in dB"
                rows.append((what, interval(pair["diff_db"], "+"), n, place, "`make quality`"))
    peers = results("peers")
    if peers:
        n = str(len(peers["seeds"]))
        place = f"{peers['device']}, {peers['date']}"
        for row in peers["rows"]:
            for ours in row["ours"]:
                what = f"{peers['model']} {row['bits']}: `{ours['method']}` minus {row['library']}, PSNR in dB"
                rows.append((what, interval(ours["diff_db"], "+"), n, place, "`make peers`"))
            if row["error"]:
                rows.append(
                    (
                        f"{peers['model']} {row['bits']}: {row['library']}",
                        "did not run",
                        n,
                        place,
                        "`make peers`",
                    )
                )
    transforms = results("transforms")
    if transforms:
        rows += of_transforms(transforms)
    sharing = results("sharing")
    if sharing:
        rows += of_sharing(sharing)
    learned = results("learned")
    if learned:
        rows += of_learned(learned)
    if not rows:
        return "Nothing has been measured yet.\n"
    return table(("what", "mean (95 %)", "seeds", "where, when", "made by"), rows)


def of_transforms(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """Two methods at W4A8 on every kind of outlier, out of a page of many."""
    from quant.intervals import paired_difference

    rows: list[tuple[str, ...]] = []
    for kind in found["kinds"]:
        decibels = {
            row["way"]: row["psnr_db"]["per_sample"]
            for row in kind["rows"]
            if row["bits"] == "w4a8"
        }
        where = "as trained" if kind["kind"] == "plain" else f"{kind['kind']} outliers"
        for a, b in (("viditq", "rtn"), ("trdq", "viditq")):
            pair = paired_difference(decibels[a], decibels[b]).diff
            rows.append(
                (
                    f"{found['model']} w4a8, {where}: `{a}` minus `{b}`, PSNR in dB",
                    interval(pair and pair.to_json(), "+"),
                    str(len(found["seeds"])),
                    f"{found['device']}, {found['date']}",
                    "`make transforms`",
                )
            )
    return rows


def of_learned(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """What is learned against what it starts from, its parts and its peers, out of a page of many."""
    from quant.intervals import paired_difference

    decibels = {
        (row["way"], row["bits"]): row["psnr_db"]["per_sample"]
        for part in found["parts"]
        for row in part["rows"]
    }
    pairs = [
        ("w2a16", "vq4dit, 2 candidates", "kmeans-vq"),
        ("w2a16", "vq4dit, 2 candidates", "vq4dit, 1 candidate"),
        ("w2a16", "vq4dit, 2 candidates", "quanto int2, group 128"),
        ("w4a8", "taqdit, joint", "taqdit, plain"),
        ("w4a8", "taqdit, joint", "taqdit, separate"),
    ]
    rows: list[tuple[str, ...]] = []
    for bits, a, b in pairs:
        if (a, bits) not in decibels or (b, bits) not in decibels:
            continue
        pair = paired_difference(decibels[a, bits], decibels[b, bits]).diff
        rows.append(
            (
                f"{found['model']} {bits}: `{a}` minus `{b}`, PSNR in dB",
                interval(pair and pair.to_json(), "+"),
                str(len(found["seeds"])),
                f"{found['device']}, {found['date']}",
                "`make learned`",
            )
        )
    return rows


def of_sharing(found: dict[str, Any]) -> list[tuple[str, ...]]:
    """What shared attention costs `trdq` at every threshold of similarity."""
    from quant.intervals import paired_difference

    rows: list[tuple[str, ...]] = []
    decibels = {
        (row["base"], row["variant"]): row["psnr_db"]["per_sample"] for row in found["rows"]
    }
    for base, variant in decibels:
        if base == "full-precision" or not variant.startswith("map, similarity"):
            continue
        pair = paired_difference(decibels[base, variant], decibels[base, "off"]).diff
        rows.append(
            (
                f"{found['model']} {base}: `trdq` with attention sharing ({variant}) minus without, PSNR in dB",
                interval(pair and pair.to_json(), "+"),
                str(len(found["seeds"])),
                f"{found['device']}, {found['date']}",
                "`make sharing`",
            )
        )
    return rows


def presets(learns: bool) -> str:
    """Every preset of the methods of this repository that learn, or of those that do not, from their cards."""
    from quant.cards import read_card

    cards = [read_card(path) for path in sorted((ROOT / "quant" / "methods").glob("*.py"))]
    rows = [
        (
            f"`{card.key}`",
            f"`{preset.name}`",
            preset.bits,
            ", ".join(f"`{name}={value}`" for name, value in preset.options.items()),
            preset.source,
            preset.text,
        )
        for card in cards
        if card is not None and card.learns == learns
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


BLOCKS: dict[str, Callable[[], str]] = {
    "methods": methods,
    "models": models,
    "measured": measured,
    "presets": lambda: presets(learns=False),
    "learned-presets": lambda: presets(learns=True),
    "rotations": rotations,
    "stepwise": stepwise,
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
    sys.path.insert(0, str(ROOT))
    sys.exit(main())
