"""Render emoji of eight designs to 64x64 RGB pictures with one label per concept.

The embedded models are trained on emoji because they are small, clean, freely licensed and
labelled: a few dozen of them are enough for a Diffusion Transformer of 10 million weights, and
anyone can tell at a glance whether a quantized copy still draws them. Four designs train the
autoencoder and the transformer; four others are kept unseen for the classifier that judges them.

Writes `emoji64.npz` (images uint8 [n, 64, 64, 3], concept int [n], style int [n]) and `meta.json`
(concepts, styles, and the licence that each package states).
"""

import argparse
import io
import json
import subprocess
import tarfile
from dataclasses import dataclass
from multiprocessing import Pool
from pathlib import Path

import numpy as np
import resvg_py
from PIL import Image

SIZE = 64  # pixels on a side
RENDER = 128  # pixels on a side, before the picture is cropped to its drawing
MARGIN = 1.10  # side of the square / longer side of the drawing
METADATA = "emoji-datasource@16.0.0"
SKIPPED_CATEGORIES = {"Flags", "People & Body", "Component", "Symbols"}
KEPT_SUBCATEGORIES = {"geometric", "zodiac", "arrow", "warning"}


@dataclass(frozen=True)
class Style:
    """One emoji design: where its drawings come from and which model may train on them."""

    key: str
    package: str  # npm name@version
    licence: str  # SPDX, as the package states it
    owner: str
    used_by: str  # "dit" (autoencoder and transformer) or "classifier"


STYLES = (
    Style("fluent-3d", "@lobehub/fluent-emoji-3d@1.1.0", "MIT", "Microsoft", "dit"),
    Style("fluent", "@iconify-json/fluent-emoji@1.2.7", "MIT", "Microsoft", "dit"),
    Style("fluent-flat", "@iconify-json/fluent-emoji-flat@1.2.6", "MIT", "Microsoft", "dit"),
    Style("noto", "@iconify-json/noto@1.2.9", "Apache-2.0", "Google", "dit"),
    Style("noto-v1", "@iconify-json/noto-v1@1.2.5", "Apache-2.0", "Google", "classifier"),
    Style("fxemoji", "@iconify-json/fxemoji@1.2.2", "Apache-2.0", "Mozilla", "classifier"),
    Style("twemoji", "@iconify-json/twemoji@1.2.5", "CC-BY-4.0", "Twitter", "classifier"),
    Style("emojione", "@iconify-json/emojione@1.2.3", "CC-BY-4.0", "Emoji One", "classifier"),
)
NAMING_PACKAGES = tuple(s.package for s in STYLES if s.key in ("fluent-flat", "noto", "twemoji"))


def codepoints(text: str) -> str:
    """Spell a codepoint sequence one way: lower case, without the variation selector."""
    return "-".join(part for part in text.lower().split("-") if part != "fe0f")


def open_package(folder: Path, package: str) -> tarfile.TarFile:
    """Open an npm tarball of `folder`; fetch it with `npm pack` when it is not there."""
    name, version = package.rsplit("@", 1)
    path = folder / f"{name.lstrip('@').replace('/', '-')}-{version}.tgz"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        subprocess.run(["npm", "pack", package, "--pack-destination", str(folder)], check=True)
    return tarfile.open(path)


def read_json(archive: tarfile.TarFile, name: str) -> dict | list:
    """Parse `package/<name>` of an npm tarball."""
    member = archive.extractfile(f"package/{name}")
    if member is None:
        raise FileNotFoundError(f"{archive.name} has no file package/{name}")
    return json.load(member)


def load_concepts(folder: Path) -> list[dict]:
    """List what an emoji can show, leaving out people, flags and most symbols."""
    with open_package(folder, METADATA) as archive:
        records = read_json(archive, "emoji.json")
    return [
        {
            "short_name": record["short_name"],
            "name": record["name"].lower(),
            "category": record["category"],
            "subcategory": record["subcategory"],
            "codepoints": codepoints(record["unified"]),
        }
        for record in records
        if record["category"] not in SKIPPED_CATEGORIES
        or record["subcategory"] in KEPT_SUBCATEGORIES
    ]


def load_webp(folder: Path, package: str) -> dict[str, bytes]:
    """Map codepoints to encoded pictures for a package of WebP files."""
    pictures = {}
    with open_package(folder, package) as archive:
        for member in archive.getmembers():
            if member.name.endswith(".webp"):
                data = archive.extractfile(member)
                pictures[codepoints(Path(member.name).stem)] = data.read()
    return pictures


def icon_names(folder: Path, concepts: list[dict]) -> dict[str, list[str]]:
    """Map codepoints to the icon names they may have in packages without a codepoint table.

    Three packages do have the table; their names come first, then the Unicode name, then all of
    them without hyphens (fxemoji writes `redapple`).
    """
    names = {concept["codepoints"]: [] for concept in concepts}
    for package in NAMING_PACKAGES:
        with open_package(folder, package) as archive:
            for code, name in read_json(archive, "chars.json").items():
                names.get(codepoints(code), []).append(name)
    for concept in concepts:
        names[concept["codepoints"]].append(concept["name"].replace(" ", "-"))
    return {code: known + [n.replace("-", "") for n in known] for code, known in names.items()}


def svg_text(icons: dict, name: str) -> str | None:
    """Wrap one iconify icon as a whole SVG document; None when the set lacks it."""
    while name in icons.get("aliases", {}):
        name = icons["aliases"][name]["parent"]
    if name not in icons["icons"]:
        return None
    icon = icons["icons"][name]
    left, top, width, height = (
        icon.get(key, icons.get(key, default))
        for key, default in (("left", 0), ("top", 0), ("width", 16), ("height", 16))
    )
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}" width="{width}" height="{height}">'
        f"{icon['body']}</svg>"
    )


def load_svg(
    folder: Path, package: str, names: dict[str, list[str]]
) -> tuple[dict[str, str], dict]:
    """Map codepoints to SVG documents for an iconify package; also give its `info.json`."""
    with open_package(folder, package) as archive:
        icons, info = (read_json(archive, name) for name in ("icons.json", "info.json"))
    drawings = {}
    for code, known in names.items():
        found = (svg_text(icons, name) for name in known)
        text = next((text for text in found if text), None)
        if text:
            drawings[code] = text
    return drawings, info


def fit(picture: Image.Image) -> np.ndarray | None:
    """Centre a drawing on a white square: RGBA of any size -> uint8 [64, 64, 3]."""
    box = picture.getchannel("A").point(lambda alpha: 255 if alpha > 16 else 0).getbbox()
    if box is None:
        return None
    picture = picture.crop(box)
    side = round(max(picture.size) * MARGIN)
    canvas = Image.new("RGBA", (side, side), (255, 255, 255, 255))
    canvas.alpha_composite(picture, tuple((side - length) // 2 for length in picture.size))
    return np.asarray(canvas.convert("RGB").resize((SIZE, SIZE), Image.Resampling.LANCZOS))


def render(source: str | bytes) -> np.ndarray | None:
    """Draw an SVG document or decode a picture: -> uint8 [64, 64, 3], None when it is blank."""
    if isinstance(source, str):
        source = bytes(resvg_py.svg_to_bytes(svg_string=source, width=RENDER, height=RENDER))
    return fit(Image.open(io.BytesIO(source)).convert("RGBA"))


def render_style(
    folder: Path, style: Style, names: dict[str, list[str]], pool: Pool
) -> tuple[dict, dict]:
    """Render the concepts a style has: ({concept index: uint8 [64, 64, 3]}, licence record)."""
    record = {
        "key": style.key,
        "package": style.package,
        "licence": style.licence,
        "owner": style.owner,
        "used_by": style.used_by,
    }
    if style.key == "fluent-3d":
        sources = load_webp(folder, style.package)
    else:
        sources, info = load_svg(folder, style.package, names)
        if info["license"]["spdx"] != style.licence:
            raise ValueError(f"{style.package} states {info['license']}, not {style.licence}")
        record |= {"url": info["author"]["url"], "licence_url": info["license"]["url"]}
    wanted = [(index, sources[code]) for index, code in enumerate(names) if code in sources]
    pictures = pool.map(render, [source for _, source in wanted], chunksize=16)
    drawn = {
        index: picture
        for (index, _), picture in zip(wanted, pictures, strict=True)
        if picture is not None
    }
    return drawn, record


def build(packages: Path, out: Path, workers: int) -> None:
    """Render every style and write `emoji64.npz` and `meta.json` to `out`."""
    concepts = load_concepts(packages)
    names = icon_names(packages, concepts)
    images, concept_ids, style_ids, records = [], [], [], []
    with Pool(workers) as pool:
        for style_id, style in enumerate(STYLES):
            drawn, record = render_style(packages, style, names, pool)
            images += drawn.values()
            concept_ids += drawn.keys()
            style_ids += [style_id] * len(drawn)
            records.append(record | {"images": len(drawn)})
            print(f"{style.key}: {len(drawn)} pictures", flush=True)
    for index, concept in enumerate(concepts):
        concept["styles"] = sorted(
            s for c, s in zip(concept_ids, style_ids, strict=True) if c == index
        )
    out.mkdir(parents=True, exist_ok=True)
    np.savez_compressed(
        out / "emoji64.npz",
        images=np.stack(images),
        concept=np.array(concept_ids, dtype=np.int64),
        style=np.array(style_ids, dtype=np.int64),
    )
    meta = {"size": SIZE, "styles": records, "concepts": concepts}
    (out / "meta.json").write_text(json.dumps(meta, indent=1) + "\n")
    print(f"{len(images)} pictures of {len(concepts)} concepts in {out}")


def main() -> None:
    """Read the command line and build the data."""
    parser = argparse.ArgumentParser(description="Render emoji packages to 64x64 pictures.")
    parser.add_argument(
        "--packages",
        type=Path,
        default=Path(".training/packages"),
        help="folder of npm tarballs; a missing one is fetched with npm pack",
    )
    parser.add_argument("--out", type=Path, default=Path(".training/data"), help="output folder")
    parser.add_argument("--workers", type=int, default=2, help="rendering processes")
    args = parser.parse_args()
    build(args.packages, args.out, args.workers)


if __name__ == "__main__":
    main()
