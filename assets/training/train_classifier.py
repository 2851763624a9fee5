"""Train the classifier that judges what the embedded transformer draws.

It learns from four emoji designs that the transformer never saw and is tested on the four that it
was trained on, so its accuracy is one of transfer between designs. All 1,107 concepts take part,
which gives better features than 24 alone; the shipped head keeps the rows of the 24 classes.
Pictures are turned, scaled, sheared, recoloured, blurred and made noisy, because generated ones
are softer and less regular than drawn ones.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
import torch.nn.functional as F
from emoji_data import CLASSES, DATA, Emoji, load
from safetensors.torch import save_file
from torch import Tensor

from quant.metrics.classifier import CONFIG, WEIGHTS, ConvNet, load_classifier

CHANNELS = (24, 48, 96, 192)
PEAK_RATE = 3e-3
EMA_DECAY = 0.99
LUMA = (0.299, 0.587, 0.114)


def between(low: float, high: float, shape: tuple[int, ...]) -> Tensor:
    """Uniform random numbers of a shape."""
    return torch.rand(shape) * (high - low) + low


def warp(images: Tensor) -> Tensor:
    """Turn, scale, shear, shift and mirror [n, 3, h, w] on white ground."""
    n = len(images)
    angle = between(-0.35, 0.35, (n,))  # radians
    scale = between(0.8, 1.35, (n, 2)) * between(0.9, 1.1, (n, 1))
    mirror = torch.where(torch.rand(n) < 0.5, -1.0, 1.0)
    shear = between(-0.2, 0.2, (n,))
    cos, sin = angle.cos(), angle.sin()
    rows = [
        torch.stack([cos * scale[:, 0] * mirror, shear - sin, between(-0.15, 0.15, (n,))], 1),
        torch.stack([sin * mirror, cos * scale[:, 1], between(-0.15, 0.15, (n,))], 1),
    ]
    grid = F.affine_grid(torch.stack(rows, 1), list(images.shape), align_corners=False)
    return 1 + F.grid_sample(images - 1, grid, align_corners=False)


def recolour(images: Tensor) -> Tensor:
    """Change hue, saturation, contrast and brightness of [n, 3, h, w] in [0, 1]."""
    n = len(images)
    grey = (images * torch.tensor(LUMA).view(1, 3, 1, 1)).sum(1, keepdim=True)
    turn = torch.where(
        torch.rand(n) < 0.3, between(-math.pi, math.pi, (n,)), between(-0.3, 0.3, (n,))
    )
    third = 2 * math.pi / 3
    taps = torch.stack([(1 + 2 * (turn - k * third).cos()) / 3 for k in range(3)], 1)  # [n, 3]
    mix = torch.stack([taps.roll(k, 1) for k in range(3)], 1)  # [n, 3, 3], keeps the grey axis
    colour = torch.einsum("nij,njhw->nihw", mix, images)
    saturation = torch.where(torch.rand(n) < 0.1, 0.0, between(0.5, 1.5, (n,))).view(n, 1, 1, 1)
    colour = grey + (colour - grey) * saturation
    contrast = between(0.7, 1.2, (n, 1, 1, 1))
    return (1 + (colour - 1) * contrast - between(0, 0.1, (n, 1, 1, 1))).clamp(0, 1)


def soften(images: Tensor) -> Tensor:
    """Blur half of the batch [n, 3, h, w] by resampling, then add noise, fine and coarse."""
    n, _, height, width = images.shape
    factor = float(between(0.3, 0.9, (1,)))
    small = F.interpolate(images, scale_factor=factor, mode="bilinear", antialias=True)
    soft = F.interpolate(small, (height, width), mode="bilinear")
    images = torch.where(torch.rand(n, 1, 1, 1) < 0.5, soft, images)
    fine = torch.randn_like(images) * between(0, 0.06, (n, 1, 1, 1))
    coarse = F.interpolate(
        torch.randn(n, 3, height // 8, width // 8), (height, width), mode="bilinear"
    )
    return (images + fine + coarse * between(0, 0.12, (n, 1, 1, 1))).clamp(0, 1)


def erase(images: Tensor) -> Tensor:
    """Paint a random grey box over a third of the batch [n, 3, h, w]."""
    n, _, height, width = images.shape
    top, left = between(0, 0.8, (2, n, 1, 1))
    size = between(0.1, 0.35, (n, 1, 1))
    y, x = (torch.arange(k).div(k) for k in (height, width))
    inside = (y[:, None] > top) & (y[:, None] < top + size) & (x > left) & (x < left + size)
    inside &= torch.rand(n, 1, 1) < 0.33
    return torch.where(inside[:, None], torch.rand(n, 1, 1, 1), images)


def augment(images: Tensor) -> Tensor:
    """Draw a new variant of each picture uint8 [n, 3, h, w]: -> float [n, 3, h, w] in [0, 1]."""
    return erase(soften(recolour(warp(images.float() / 255))))


def loss_of(logits: Tensor, concept: Tensor, class_concepts: Tensor) -> Tensor:
    """Cross-entropy over all concepts, plus one over the classes for pictures of a class.

    Shapes: logits [n, concepts]; concept [n]; class_concepts [classes], the classes' concepts.
    """
    loss = F.cross_entropy(logits, concept, label_smoothing=0.1)
    match = concept[:, None] == class_concepts  # [n, classes]
    rows = match.any(1)
    narrow = logits[rows][:, class_concepts]
    return loss + F.cross_entropy(narrow, match[rows].long().argmax(1), label_smoothing=0.1)


def fit(net: ConvNet, emoji: Emoji, class_concepts: Tensor, args: argparse.Namespace) -> list:
    """Train in place and leave the averaged weights in `net`; gives the loss curve."""
    optimizer = torch.optim.AdamW(net.parameters(), lr=PEAK_RATE, weight_decay=0.05)
    average = {name: value.clone() for name, value in net.state_dict().items()}
    class_rows = torch.isin(emoji.concept, class_concepts).nonzero().flatten()
    curve, losses, start = [], [], time.monotonic()
    for step in range(args.steps):
        anything = torch.randint(0, len(emoji.images), (args.batch // 2,))
        of_class = class_rows[torch.randint(0, len(class_rows), (args.batch // 2,))]
        rows = torch.cat([anything, of_class])
        loss = loss_of(net(augment(emoji.images[rows])), emoji.concept[rows], class_concepts)
        warm = min(1.0, (step + 1) / 50)
        for group in optimizer.param_groups:
            group["lr"] = PEAK_RATE * warm * 0.5 * (1 + math.cos(math.pi * step / args.steps))
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with torch.no_grad():
            for name, value in net.state_dict().items():
                if value.is_floating_point():
                    average[name].lerp_(value, 1 - EMA_DECAY)
        losses.append(loss.item())
        if (step + 1) % 50 == 0:
            curve.append([step + 1, round(time.monotonic() - start, 1), sum(losses) / len(losses)])
            losses.clear()
            print(curve[-1], flush=True)
    net.load_state_dict(average)
    return curve


def ship(net: ConvNet, class_concepts: Tensor, out: Path, config: dict) -> None:
    """Write the network, its head cut to the classes, as float16, and its configuration."""
    state = net.state_dict()
    for name in ("head.weight", "head.bias"):
        state[name] = state[name][class_concepts]
    kept = {k: v.half().contiguous() for k, v in state.items() if v.is_floating_point()}
    kept |= {k: v for k, v in state.items() if not v.is_floating_point()}
    out.mkdir(parents=True, exist_ok=True)
    save_file(kept, out / WEIGHTS)
    (out / CONFIG).write_text(json.dumps(config, indent=2) + "\n")


def measure(folder: Path, emoji: Emoji) -> dict[str, float]:
    """Accuracy, 24-way, of the shipped files on each design of `emoji`, and on all of them."""
    emoji = emoji.where(emoji.class_ids() >= 0)
    guess = load_classifier(folder)(emoji.images.float() / 255).argmax(1)
    right = (guess == emoji.class_ids()).float()
    styles = {
        emoji.styles[i]["key"]: right[emoji.style == i] for i in emoji.style.unique().tolist()
    }
    for row in (right == 0).nonzero().flatten().tolist():
        labels = list(CLASSES.values())
        style = emoji.styles[int(emoji.style[row])]["key"]
        print(f"{style}: {labels[emoji.class_ids()[row]]} taken for {labels[guess[row]]}")
    return {"all": right.mean().item()} | {key: r.mean().item() for key, r in styles.items()}


def write_readme(folder: Path) -> None:
    """Fill `classifier_card.md` with what `config.json` says."""
    config = json.loads((folder / CONFIG).read_text())
    rows = [f"| {style} | {share:.1%} |" for style, share in config["held_out_by_style"].items()]
    net = load_classifier(folder).net
    text = Path(__file__).with_name("classifier_card.md").read_text()
    card = text.format(
        weights=sum(p.numel() for p in net.parameters()),
        size_mb=(folder / WEIGHTS).stat().st_size / 1e6,
        trained_on=", ".join(config["trained_on"]),
        steps=config["steps"],
        batch=config["batch"],
        seed=config["seed"],
        accuracy=config["held_out_accuracy"],
        pictures=config["held_out_pictures"],
        table="\n".join(rows),
    )
    (folder / "README.md").write_text(card)


def main() -> None:
    """Read the command line, train, ship, measure on the unseen designs."""
    parser = argparse.ArgumentParser(description="Train the emoji classifier.")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path("assets/models/emoji-classifier"))
    parser.add_argument("--log", type=Path, default=Path(".training/classifier.json"))
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--batch", type=int, default=48)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    emoji = load(args.data)
    seen, unseen = emoji.used_by("classifier"), emoji.used_by("dit")
    names = [concept["short_name"] for concept in emoji.concepts]
    class_concepts = torch.tensor([names.index(name) for name in CLASSES])
    net = ConvNet(CHANNELS, len(names))
    curve = fit(net, seen, class_concepts, args)
    config = {
        "labels": list(CLASSES.values()),
        "held_out_accuracy": 0.0,
        "held_out_pictures": int((unseen.class_ids() >= 0).sum()),
        "channels": list(CHANNELS),
        "image_size": seen.images.shape[-1],
        "trained_on": sorted({seen.styles[i]["key"] for i in seen.style.tolist()}),
        "steps": args.steps,
        "batch": args.batch,
        "seed": args.seed,
    }
    ship(net, class_concepts, args.out, config)
    accuracy = {key: round(value, 4) for key, value in measure(args.out, unseen).items()}
    config |= {"held_out_accuracy": accuracy.pop("all"), "held_out_by_style": accuracy}
    ship(net, class_concepts, args.out, config)
    write_readme(args.out)
    args.log.write_text(json.dumps({"config": config, "curve": curve}, indent=1) + "\n")
    print(json.dumps(config))


if __name__ == "__main__":
    main()
