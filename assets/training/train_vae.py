"""Train the autoencoder that turns a 64x64 picture into a 16x16x4 latent.

A small `AutoencoderKL` (0.65 million weights). Most steps use random 32x32 crops, which give four
times the pictures per second of whole ones; the last tenth uses whole pictures, so that borders
and GroupNorm statistics match use. At the end the latents are standardised per channel inside
`quant_conv` and `post_quant_conv`, because `DiTPipeline` knows only one scalar scaling factor.

Loss, with y the reconstruction of x and z the latent:

    L = |y - x| + 2 (y - x)^2 + 0.5 |grad y - grad x| + 2e-4 KL(q(z|x) || N(0, 1))
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL
from emoji_data import DATA, Emoji, held_out_concepts, load, psnr, save_grid, to_signed
from torch import Tensor

CROP = 32  # pixels
BATCH = 16  # crops; whole pictures come in batches with the same number of pixels
PEAK_RATE = 2e-3
EMA_DECAY = 0.998
CLASS_SHARE = 0.2  # of each batch is drawn from the concepts the transformer will learn


def new_vae() -> AutoencoderKL:
    """Build the autoencoder: 3x64x64 <-> 4x16x16, no attention."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        down_block_types=("DownEncoderBlock2D",) * 3,
        up_block_types=("UpDecoderBlock2D",) * 3,
        block_out_channels=(16, 32, 64),
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=8,
        sample_size=64,
        mid_block_add_attention=False,
    ).to(memory_format=torch.channels_last)


def random_crops(images: Tensor, rows: Tensor, size: int) -> Tensor:
    """Cut one crop, flipped half the time, from each chosen picture: -> signed [b, 3, s, s]."""
    room = images.shape[-1] - size + 1
    top, left = torch.randint(0, room, (2, len(rows), 1))
    columns = left + torch.arange(size)  # [b, s]
    flip = torch.rand(len(rows), 1) < 0.5
    columns = torch.where(flip, columns.flip(1), columns)
    lines = top + torch.arange(size)  # [b, s]
    crops = images[rows[:, None, None], :, lines[:, :, None], columns[:, None, :]]  # [b, s, s, 3]
    return to_signed(crops.permute(0, 3, 1, 2)).contiguous(memory_format=torch.channels_last)


def draw_rows(class_rows: Tensor, total: int, batch: int) -> Tensor:
    """Choose pictures, a fixed share of them from the transformer's classes: -> [batch]."""
    rows = torch.randint(0, total, (batch,))
    favoured = class_rows[torch.randint(0, len(class_rows), (batch,))]
    return torch.where(torch.rand(batch) < CLASS_SHARE, favoured, rows)


def loss_terms(vae: AutoencoderKL, x: Tensor) -> dict[str, Tensor]:
    """Reconstruct x [b, 3, s, s] from a sampled latent; give the four terms of the loss."""
    posterior = vae.encode(x).latent_dist
    latent = posterior.sample()
    error = vae.decode(latent).sample - x
    across = (error[..., 1:] - error[..., :-1]).abs().mean()
    down = (error[:, :, 1:] - error[:, :, :-1]).abs().mean()
    return {
        "l1": error.abs().mean(),
        "mse": error.square().mean(),
        "gradient": across + down,
        "kl": posterior.kl().mean() / latent[0].numel(),
    }


def rate_at(step: int, steps: int) -> float:
    """Learning rate: 50 steps of warm-up, then a cosine down to 1 %."""
    warm = min(1.0, (step + 1) / 50)
    return PEAK_RATE * warm * (0.99 * 0.5 * (1 + math.cos(math.pi * step / steps)) + 0.01)


def fit(vae: AutoencoderKL, emoji: Emoji, steps: int, log: Path) -> None:
    """Train in place; leaves the averaged weights in `vae` and the curve in `log`."""
    average = {name: value.detach().clone() for name, value in vae.state_dict().items()}
    optimizer = torch.optim.AdamW(
        vae.parameters(), lr=PEAK_RATE, betas=(0.9, 0.99), weight_decay=1e-4
    )
    class_rows = (emoji.class_ids() >= 0).nonzero().flatten()
    curve, start = [], time.monotonic()
    for step in range(steps):
        whole = step >= 0.9 * steps
        size = emoji.images.shape[-1] if whole else CROP
        batch = BATCH * CROP**2 // size**2
        rows = draw_rows(class_rows, len(emoji.images), batch)
        terms = loss_terms(vae, random_crops(emoji.images, rows, size))
        loss = terms["l1"] + 2 * terms["mse"] + 0.5 * terms["gradient"] + 2e-4 * terms["kl"]
        for group in optimizer.param_groups:
            group["lr"] = rate_at(step, steps)
        optimizer.zero_grad()
        loss.backward()
        torch.nn.utils.clip_grad_norm_(vae.parameters(), 1.0)
        optimizer.step()
        decay = min(EMA_DECAY, (1 + step) / (10 + step))
        with torch.no_grad():
            current = vae.state_dict()
            torch._foreach_lerp_(list(average.values()), list(current.values()), 1 - decay)
        if (step + 1) % 200 == 0:
            point = {name: round(value.item(), 5) for name, value in terms.items()}
            point |= {"step": step + 1, "seconds": round(time.monotonic() - start, 1)}
            curve.append(point)
            print(point, flush=True)
            log.write_text(json.dumps(curve, indent=1) + "\n")
    vae.load_state_dict(average)


@torch.no_grad()
def encode(vae: AutoencoderKL, images: Tensor, batch: int = 64) -> Tensor:
    """Posterior means of uint8 [n, 3, 64, 64]: -> [n, 4, 16, 16]."""
    parts = images.split(batch)
    return torch.cat([vae.encode(to_signed(part)).latent_dist.mean for part in parts])


@torch.no_grad()
def decode(vae: AutoencoderKL, latents: Tensor, batch: int = 64) -> Tensor:
    """Signed pictures [n, 3, 64, 64] of latents [n, 4, 16, 16]."""
    return torch.cat([vae.decode(part).sample for part in latents.split(batch)])


@torch.no_grad()
def standardise(vae: AutoencoderKL, latents: Tensor) -> None:
    """Fold z -> (z - mean) / std, per channel of latents [n, 4, h, w], into the two 1x1 convs.

    The encoder's last 1x1 convolution gives mean and log-variance, the decoder's first one takes
    the latent, so the change is exact and decoded pictures stay the same.
    """
    mean, std = latents.mean((0, 2, 3)), latents.std((0, 2, 3))  # [4] each
    channels = len(mean)
    into, out = vae.quant_conv, vae.post_quant_conv
    into.weight[:channels] /= std.view(-1, 1, 1, 1)
    into.bias[:channels] = (into.bias[:channels] - mean) / std
    into.bias[channels:] -= 2 * std.log()
    out.bias += out.weight[:, :, 0, 0] @ mean
    out.weight *= std.view(1, -1, 1, 1)
    vae.register_to_config(scaling_factor=1.0)


def report(vae: AutoencoderKL, groups: dict[str, Tensor], folder: Path) -> dict[str, float]:
    """Mean PSNR in dB of each group of uint8 pictures, and a PNG of pictures over their copies."""
    scores = {}
    for name, images in groups.items():
        copies = decode(vae, encode(vae, images))
        scores[name] = round(psnr(copies, to_signed(images)).mean().item(), 2)
        some = torch.linspace(0, len(images) - 1, 16).long()
        pair = torch.cat([to_signed(images[some]), copies[some]])
        save_grid(pair, folder / f"vae_{name}.png", columns=16)
    return scores


def main() -> None:
    """Read the command line, train, standardise, report, save."""
    parser = argparse.ArgumentParser(description="Train the 64x64 -> 16x16x4 autoencoder.")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--out", type=Path, default=Path(".training/vae"))
    parser.add_argument("--steps", type=int, default=14000)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    args.out.mkdir(parents=True, exist_ok=True)

    emoji = load(args.data).used_by("dit")
    unseen = torch.isin(emoji.concept, held_out_concepts(emoji))
    seen = emoji.where(~unseen)
    vae = new_vae()
    fit(vae, seen, args.steps, args.out / "curve.json")

    vae = vae.eval().to(memory_format=torch.contiguous_format)
    standardise(vae, encode(vae, seen.images))
    vae.save_pretrained(args.out)
    groups = {
        "held_out": emoji.where(unseen).images,
        "classes": seen.where(seen.class_ids() >= 0).images,
        "train": seen.images[::16],
    }
    scores = {
        "psnr_db": report(vae, groups, args.out),
        "steps": args.steps,
        "seed": args.seed,
        "pictures": {"train": len(seen.images), "held_out": int(unseen.sum())},
    }
    (args.out / "report.json").write_text(json.dumps(scores, indent=1) + "\n")
    print(json.dumps(scores))


if __name__ == "__main__":
    main()
