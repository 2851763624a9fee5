"""Read the rendered emoji: which pictures each model sees, and which it never does.

`CLASSES` are the concepts that the embedded transformer can draw; every design has all of them
(fxemoji lacks six). Shapes: pictures are uint8 [n, 3, 64, 64], or float [n, 3, 64, 64] in [-1, 1].
"""

import json
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor

DATA = Path(".training/data")

CLASSES = {  # short name in emoji-datasource -> label shown to people
    "apple": "apple",
    "banana": "banana",
    "strawberry": "strawberry",
    "pizza": "pizza",
    "doughnut": "doughnut",
    "cat": "cat face",
    "panda_face": "panda",
    "tiger": "tiger face",
    "penguin": "penguin",
    "frog": "frog",
    "fox_face": "fox",
    "tropical_fish": "tropical fish",
    "octopus": "octopus",
    "butterfly": "butterfly",
    "car": "car",
    "rocket": "rocket",
    "boat": "sailboat",
    "sunflower": "sunflower",
    "cactus": "cactus",
    "heart": "heart",
    "smiley": "smiling face",
    "sunglasses": "sunglasses face",
    "robot_face": "robot",
    "crescent_moon": "crescent moon",
}


@dataclass(frozen=True)
class Emoji:
    """Pictures uint8 [n, 3, 64, 64] with the concept [n] and the style [n] of each."""

    images: Tensor
    concept: Tensor
    style: Tensor
    concepts: tuple[dict, ...]
    styles: tuple[dict, ...]

    def where(self, mask: Tensor) -> "Emoji":
        """Keep the pictures where mask [n] is true."""
        return Emoji(
            self.images[mask], self.concept[mask], self.style[mask], self.concepts, self.styles
        )

    def used_by(self, model: str) -> "Emoji":
        """Keep the styles set aside for one model: "dit" or "classifier"."""
        ids = [i for i, style in enumerate(self.styles) if style["used_by"] == model]
        return self.where(torch.isin(self.style, torch.tensor(ids)))

    def class_ids(self) -> Tensor:
        """Index in CLASSES of each picture, [n]; -1 for a concept that is not a class."""
        order = {name: k for k, name in enumerate(CLASSES)}
        table = torch.tensor([order.get(c["short_name"], -1) for c in self.concepts])
        return table[self.concept]


def load(folder: Path = DATA) -> Emoji:
    """Read what build_emoji_data.py wrote."""
    with np.load(folder / "emoji64.npz") as arrays:
        images = torch.from_numpy(arrays["images"]).permute(0, 3, 1, 2).contiguous()
        concept, style = (torch.from_numpy(arrays[name]) for name in ("concept", "style"))
    meta = json.loads((folder / "meta.json").read_text())
    return Emoji(images, concept, style, tuple(meta["concepts"]), tuple(meta["styles"]))


def held_out_concepts(emoji: Emoji, share: float = 0.05, seed: int = 0) -> Tensor:
    """Choose concepts, never a class, that the autoencoder must not train on: ids [k]."""
    order = torch.randperm(len(emoji.concepts), generator=torch.Generator().manual_seed(seed))
    names = [emoji.concepts[i]["short_name"] for i in order.tolist()]
    free = order[torch.tensor([name not in CLASSES for name in names])]
    return free[: round(share * len(emoji.concepts))]


def to_signed(images: Tensor) -> Tensor:
    """Map uint8 0..255 to float32 -1..1."""
    return images.float() / 127.5 - 1


def psnr(a: Tensor, b: Tensor) -> Tensor:
    """Peak signal-to-noise ratio in dB per picture of signed [n, 3, h, w]: -> [n]."""
    mse = ((a.clamp(-1, 1) - b) / 2).square().mean((1, 2, 3))
    return -10 * mse.clamp(min=1e-10).log10()


def save_grid(images: Tensor, path: Path, columns: int, zoom: int = 1) -> None:
    """Write signed pictures [n, 3, h, w] as one PNG, row by row."""
    count, _, height, width = images.shape
    rows = -(-count // columns)
    sheet = torch.ones(rows * columns, 3, height, width)
    sheet[:count] = images.detach().clamp(-1, 1)
    sheet = sheet.view(rows, columns, 3, height, width).permute(0, 3, 1, 4, 2)
    pixels = ((sheet.reshape(rows * height, columns * width, 3) + 1) * 127.5).round().byte()
    picture = Image.fromarray(pixels.numpy())
    path.parent.mkdir(parents=True, exist_ok=True)
    picture.resize((picture.width * zoom, picture.height * zoom), Image.Resampling.BICUBIC).save(
        path
    )
