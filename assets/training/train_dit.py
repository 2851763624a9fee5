"""Train the embedded class-conditional Diffusion Transformer on emoji latents.

A `DiTTransformer2DModel` of 9.57 million weights over 16x16x4 latents (64 tokens), v-prediction.
The null class must be 1000 because `DiTPipeline` hard-codes it. The model stays in `eval()` mode:
in `train()` mode each block would drop the label on its own, so labels are dropped here instead.

Training can be killed at any time: running it again continues from the last checkpoint. Weights,
averaged weights, optimizer state and the random state are safetensors; the rest is JSON.
`--steps` may be lowered on the way, which brings the learning rate's decay forward.
"""

import argparse
import json
import math
import time
from pathlib import Path

import torch
from diffusers import AutoencoderKL, DDPMScheduler, DiTTransformer2DModel
from emoji_data import CLASSES, DATA, load
from muon import Muon
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from train_vae import encode

NULL_CLASS = 1000
LABEL_DROP = 0.1
NOISE = {
    "num_train_timesteps": 1000,
    "beta_schedule": "linear",
    "beta_start": 1e-4,
    "beta_end": 0.02,
    "prediction_type": "v_prediction",
}


def new_dit() -> DiTTransformer2DModel:
    """Build the transformer and give it the DiT paper's initialisation."""
    dit = DiTTransformer2DModel(
        num_attention_heads=4,
        attention_head_dim=64,
        in_channels=4,
        out_channels=4,
        num_layers=6,
        sample_size=16,
        patch_size=2,
        num_embeds_ada_norm=NULL_CLASS,
    ).eval()
    initialise(dit)
    return dit


@torch.no_grad()
def initialise(dit: DiTTransformer2DModel) -> None:
    """Xavier everywhere, zero adaLN and output layers: every block starts as the identity."""
    for module in dit.modules():
        if isinstance(module, nn.Linear):
            nn.init.xavier_uniform_(module.weight)
            nn.init.zeros_(module.bias)
    for block in dit.transformer_blocks:
        nn.init.zeros_(block.norm1.linear.weight)
        nn.init.normal_(block.norm1.emb.class_embedder.embedding_table.weight, std=0.3)
        embedder = block.norm1.emb.timestep_embedder
        for layer in (embedder.linear_1, embedder.linear_2):
            nn.init.normal_(layer.weight, std=0.02)
    nn.init.zeros_(dit.proj_out_1.weight)
    nn.init.zeros_(dit.proj_out_2.weight)


def encode_classes(data: Path, vae: Path, cache: Path) -> tuple[Tensor, Tensor]:
    """Latents [n, 4, 16, 16] of every class picture and its mirror image, with class ids [n]."""
    if not cache.exists():
        emoji = load(data).used_by("dit")
        emoji = emoji.where(emoji.class_ids() >= 0)
        both = torch.cat([emoji.images, emoji.images.flip(3)])
        latents = encode(AutoencoderKL.from_pretrained(vae, local_files_only=True).eval(), both)
        ids = emoji.class_ids().repeat(2)
        save_file({"latents": latents, "class": ids, "style": emoji.style.repeat(2)}, cache)
    arrays = load_file(cache)
    return arrays["latents"], arrays["class"]


def optimizers(dit: nn.Module, kind: str, rate: float) -> list[torch.optim.Optimizer]:
    """AdamW for everything, or Muon for the blocks' matrices and AdamW for the rest."""
    matrices, rest = [], []
    for name, p in dit.named_parameters():
        in_block = ".attn1." in name or ".ff." in name
        (matrices if kind == "muon" and in_block and p.ndim == 2 else rest).append(p)
    adam = torch.optim.AdamW(rest, lr=rate, betas=(0.9, 0.98), weight_decay=0.01)
    return [adam, Muon(matrices, lr=rate)] if matrices else [adam]


def rate_at(step: int, steps: int, peak: float, flat: float = 0.4) -> float:
    """Learning rate: 100 steps of warm-up, flat for a share of the run, cosine down to 1 %."""
    through = max(0.0, step / steps - flat) / (1 - flat)
    return (
        peak * min(1.0, (step + 1) / 100) * (0.99 * 0.5 * (1 + math.cos(math.pi * through)) + 0.01)
    )


def draw_timesteps(batch: int, kind: str) -> Tensor:
    """Training timesteps [batch] in 0..999: uniform, or half of them where shapes form.

    With linear betas every t above 700 is nearly pure noise; "middle" draws half of the batch
    from a logit-normal around t = 350.
    """
    uniform = torch.rand(batch)
    if kind == "uniform":
        return (uniform * 1000).long()
    middle = torch.sigmoid(torch.randn(batch) * 0.9 - 0.6)
    return (torch.where(torch.rand(batch) < 0.5, uniform, middle) * 1000).long().clamp(max=999)


def v_error(
    dit: nn.Module, noise: DDPMScheduler, latents: Tensor, labels: Tensor, t: Tensor
) -> Tensor:
    """Squared error of the predicted velocity, mean over each latent: -> [b]."""
    epsilon = torch.randn_like(latents)
    noisy = noise.add_noise(latents, epsilon, t)
    target = noise.get_velocity(latents, epsilon, t)
    guess = dit(noisy, timestep=t, class_labels=labels, return_dict=False)[0]
    return (guess - target).square().mean((1, 2, 3))


@torch.no_grad()
def evaluate(
    weights: dict[str, Tensor], noise: DDPMScheduler, latents: Tensor, ids: Tensor
) -> list[float]:
    """Error of the given weights at ten evenly spaced timesteps, same noise at every call."""
    dit = new_dit()
    dit.load_state_dict(weights, strict=False)
    with torch.random.fork_rng():
        torch.manual_seed(1)
        rows = torch.randperm(len(latents))[:96]
        return [
            v_error(dit, noise, latents[rows], ids[rows], torch.full((96,), t)).mean().item()
            for t in range(50, 1000, 100)
        ]


class Run:
    """Everything that changes while training, and how it is written and read back."""

    def __init__(self, dit: nn.Module, kind: str, rate: float, folder: Path) -> None:
        """Start at step 0, or at the checkpoint in `folder` when there is one."""
        self.dit, self.folder = dit, folder
        self.optimizers = optimizers(dit, kind, rate)
        self.average = {name: p.detach().clone() for name, p in dit.named_parameters()}
        self.step, self.seconds, self.curve = 0, 0.0, []
        if (folder / "run.json").exists():
            self._restore()

    def average_in(self, decay: float) -> None:
        """Move the averaged weights towards the current ones."""
        decay = min(decay, (1 + self.step) / (10 + self.step))
        current = [p.detach() for p in self.dit.parameters()]
        torch._foreach_lerp_(list(self.average.values()), current, 1 - decay)

    def save(self, settings: dict) -> None:
        """Write the checkpoint; `run.json` comes last, so a killed save leaves the older one."""
        name = f"step-{self.step:06d}"
        self.folder.mkdir(parents=True, exist_ok=True)
        tensors = {f"dit.{k}": p.detach() for k, p in self.dit.named_parameters()}
        tensors |= {f"average.{k}": value for k, value in self.average.items()}
        for number, optimizer in enumerate(self.optimizers):
            for index, state in optimizer.state_dict()["state"].items():
                tensors |= {f"optimizer.{number}.{index}.{k}": v for k, v in state.items()}
        tensors["random"] = torch.get_rng_state()
        save_file(tensors, self.folder / f"{name}.safetensors")
        record = {
            "checkpoint": f"{name}.safetensors",
            "step": self.step,
            "seconds": round(self.seconds, 1),
            "settings": settings,
            "curve": self.curve,
        }
        partial = self.folder / "run.json.partial"
        partial.write_text(json.dumps(record, indent=1) + "\n")
        partial.replace(self.folder / "run.json")
        for old in self.folder.glob("step-*.safetensors"):
            if old.name != record["checkpoint"]:
                old.unlink()

    def _restore(self) -> None:
        """Read the last checkpoint back, the random state included."""
        record = json.loads((self.folder / "run.json").read_text())
        self.step, self.seconds = record["step"], record["seconds"]
        self.curve = record["curve"]
        tensors = load_file(self.folder / record["checkpoint"])
        with torch.no_grad():
            for name, p in self.dit.named_parameters():
                p.copy_(tensors[f"dit.{name}"])
                self.average[name].copy_(tensors[f"average.{name}"])
        for number, optimizer in enumerate(self.optimizers):
            states: dict[int, dict[str, Tensor]] = {}
            for name, value in tensors.items():
                kind, _, rest = name.partition(".")
                if kind == "optimizer" and rest.startswith(f"{number}."):
                    _, index, key = rest.split(".")
                    states.setdefault(int(index), {})[key] = value
            optimizer.load_state_dict(optimizer.state_dict() | {"state": states})
        torch.set_rng_state(tensors["random"])


def train(run: Run, latents: Tensor, ids: Tensor, args: argparse.Namespace) -> None:
    """Take steps until `args.steps` (or `args.minutes` of this process), saving now and then."""
    noise = DDPMScheduler(**NOISE)
    settings = {
        key: value
        for key, value in vars(args).items()
        if key in ("steps", "batch", "rate", "optimizer", "timesteps", "ema", "seed")
    }
    model = torch.compile(run.dit) if args.compile else run.dit
    began, earlier = time.monotonic(), run.seconds
    saved, losses = began, []
    first = run.step
    while run.step < args.steps:
        rows = torch.randint(0, len(latents), (args.batch,))
        dropped = torch.rand(args.batch) < LABEL_DROP
        labels = torch.where(dropped, NULL_CLASS, ids[rows])
        t = draw_timesteps(args.batch, args.timesteps)
        loss = v_error(model, noise, latents[rows], labels, t).mean()
        for optimizer in run.optimizers:
            optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(run.dit.parameters(), 1.0)
        for optimizer in run.optimizers:
            for group in optimizer.param_groups:
                group["lr"] = rate_at(run.step, args.steps, args.rate)
            optimizer.step()
        run.step += 1
        run.average_in(args.ema)
        losses.append(loss.item())
        now = time.monotonic()
        run.seconds = earlier + now - began
        if run.step % 50 == 0:
            speed = (run.step - first) * args.batch / (now - began)
            run.curve.append([run.step, round(run.seconds, 1), sum(losses) / len(losses)])
            losses.clear()
            print(f"step {run.step} loss {run.curve[-1][2]:.4f} {speed:.1f} img/s", flush=True)
        over = args.minutes and now - began > 60 * args.minutes
        if over or run.step == args.steps or now - saved > 60 * args.save_minutes:
            run.save(settings)
            saved = now
            errors = evaluate(run.average, noise, latents, ids)
            text = " ".join(f"{e:.3f}" for e in errors)
            print(f"step {run.step} averaged {sum(errors) / 10:.4f} by t: {text}", flush=True)
        if over:
            return


def main() -> None:
    """Read the command line and train."""
    parser = argparse.ArgumentParser(description="Train the embedded DiT on emoji latents.")
    parser.add_argument("--data", type=Path, default=DATA)
    parser.add_argument("--vae", type=Path, default=Path(".training/vae"))
    parser.add_argument("--out", type=Path, default=Path(".training/dit"))
    parser.add_argument("--latents", type=Path, default=Path(".training/latents.safetensors"))
    parser.add_argument("--steps", type=int, default=2300)
    parser.add_argument("--minutes", type=float, default=0, help="stop early; 0 means never")
    parser.add_argument("--save-minutes", type=float, default=3.5)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--rate", type=float, default=2e-3)
    parser.add_argument("--ema", type=float, default=0.998)
    parser.add_argument("--optimizer", choices=("adamw", "muon"), default="muon")
    parser.add_argument("--timesteps", choices=("uniform", "middle"), default="middle")
    parser.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)
    torch.manual_seed(args.seed)
    latents, ids = encode_classes(args.data, args.vae, args.latents)
    print(f"{len(latents)} latents, {len(CLASSES)} classes", flush=True)
    train(Run(new_dit(), args.optimizer, args.rate, args.out), latents, ids, args)


if __name__ == "__main__":
    main()
