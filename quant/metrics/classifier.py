"""A small picture classifier: does a quantized model still draw what was asked for?

Pixel errors cannot tell a harmless change from a lost subject. The classifier can, to the extent
that its held-out accuracy allows: it never saw the designs that the embedded model was trained on,
so it judges what a picture shows and not whether it copies a training picture.

A folder holds `config.json` (architecture, labels, held-out accuracy) and `model.safetensors`
(float16; computing is float32). Shapes: n pictures, h and w pixels, d features, c classes.
"""

from __future__ import annotations

import itertools
import json
from dataclasses import dataclass
from pathlib import Path

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from quant.errors import BadCheckpoint

CONFIG = "config.json"
WEIGHTS = "model.safetensors"


@dataclass(frozen=True)
class ClassifierConfig:
    """What `config.json` says."""

    labels: tuple[str, ...]
    held_out_accuracy: float  # share in 0..1 of `held_out_pictures`, over `labels`
    held_out_pictures: int
    channels: tuple[int, ...]  # of the stages; each halves the resolution
    image_size: int  # pixels on a side; other sizes are resampled to it


class Block(nn.Module):
    """Two 3x3 convolutions around which the input is added back."""

    def __init__(self, inner: int, outer: int, stride: int) -> None:
        """Map [n, inner, h, w] to [n, outer, h / stride, w / stride]."""
        super().__init__()
        self.conv1 = nn.Conv2d(inner, outer, 3, stride, 1, bias=False)
        self.norm1 = nn.BatchNorm2d(outer)
        self.conv2 = nn.Conv2d(outer, outer, 3, 1, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(outer)
        self.skip = nn.Conv2d(inner, outer, 1, stride, bias=False)

    def forward(self, x: Tensor) -> Tensor:
        """Pre-addition normalisation, ReLU after the sum."""
        y = self.norm2(self.conv2(F.relu(self.norm1(self.conv1(x)))))
        return F.relu(y + self.skip(x))


class ConvNet(nn.Module):
    """A small residual network with a linear head over average-pooled features."""

    def __init__(self, channels: tuple[int, ...], classes: int) -> None:
        """Take the width of every stage; the last one is the feature size d."""
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv2d(3, channels[0], 5, 2, 2, bias=False),
            nn.BatchNorm2d(channels[0]),
            nn.ReLU(),
        )
        pairs = itertools.pairwise(channels)
        self.stages = nn.Sequential(*(Block(inner, outer, 2) for inner, outer in pairs))
        self.head = nn.Linear(channels[-1], classes)

    def features(self, images: Tensor) -> Tensor:
        """Average-pooled features of images [n, 3, h, w] in [0, 1]: -> [n, d]."""
        return self.stages(self.stem(images * 2 - 1)).mean((2, 3))

    def forward(self, images: Tensor) -> Tensor:
        """Logits of images [n, 3, h, w] in [0, 1]: -> [n, c]."""
        return self.head(self.features(images))


class Classifier:
    """A frozen network together with its labels and its measured accuracy."""

    def __init__(self, net: ConvNet, config: ClassifierConfig) -> None:
        """Freeze the network, in float32 and evaluation mode."""
        self.net = net.float().eval().requires_grad_(False)
        self.config = config

    @property
    def labels(self) -> tuple[str, ...]:
        """Name of each class, in the order of the logits."""
        return self.config.labels

    @property
    def held_out_accuracy(self) -> float:
        """Share in 0..1 of pictures of unseen designs that get the right label."""
        return self.config.held_out_accuracy

    def __call__(self, images: Tensor) -> Tensor:
        """Logits of images [n, 3, h, w], float in [0, 1]: -> float32 [n, c]."""
        return self.net.head(self.features(images))

    def features(self, images: Tensor) -> Tensor:
        """Features of images [n, 3, h, w], float in [0, 1]: -> float32 [n, d]."""
        weight = self.net.head.weight
        images = images.to(device=weight.device, dtype=torch.float32)
        size = self.config.image_size
        if images.shape[-2:] != (size, size):
            images = F.interpolate(images, (size, size), mode="bilinear", antialias=True)
        with torch.no_grad():
            return self.net.features(images)

    def to(self, device: torch.device | str) -> Classifier:
        """Move the network; returns self."""
        self.net.to(device)
        return self


def load_classifier(folder: Path | str) -> Classifier:
    """Read `config.json` and `model.safetensors` of a classifier folder."""
    folder = Path(folder)
    for name in (CONFIG, WEIGHTS):
        if not (folder / name).is_file():
            raise BadCheckpoint(
                f"{folder} has no {name}; a classifier needs {CONFIG} and {WEIGHTS}"
            )
    try:
        record = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        config = ClassifierConfig(
            labels=tuple(record["labels"]),
            held_out_accuracy=float(record["held_out_accuracy"]),
            held_out_pictures=int(record["held_out_pictures"]),
            channels=tuple(record["channels"]),
            image_size=int(record["image_size"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise BadCheckpoint(f"{folder / CONFIG} is not a classifier's: {error!r}") from error
    net = ConvNet(config.channels, len(config.labels))
    try:
        net.load_state_dict(load_file(folder / WEIGHTS))
    except (SafetensorError, RuntimeError) as error:
        raise BadCheckpoint(f"{folder / WEIGHTS} does not fit its {CONFIG}: {error}") from error
    return Classifier(net, config)
