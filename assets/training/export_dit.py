"""Turn a training checkpoint into the `DiTPipeline` folder that DQ-Viz ships.

Writes float16 weights, the scheduler, the class names and the card `dqviz.json`, then draws every
class at several guidance scales and asks the classifier what it sees. The report also says how far
each picture is from the nearest training picture of its class, because with four designs per class
the model memorises far more than it generalises.
"""

import argparse
import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    DiTPipeline,
    DiTTransformer2DModel,
    DPMSolverMultistepScheduler,
)
from emoji_data import CLASSES, save_grid
from safetensors.torch import load_file
from torch import Tensor
from train_dit import NOISE, new_dit

from quant.metrics.classifier import CONFIG, Classifier, load_classifier

STEPS = 20
TRAINING = (
    "{steps} steps of {batch} latents ({samples} samples, {per_class} per class) in {hours:.1f} "
    "hours on two shared CPU cores: v-prediction on 24 emoji in four designs (Fluent 3D, gradient "
    "and flat; Noto) with mirror images, 192 latents in all; averaged weights. It memorises these "
    "pictures and blends them; it does not generalise."
)


def averaged_dit(run: Path) -> tuple[DiTTransformer2DModel, dict]:
    """The averaged weights of the last checkpoint, and its `run.json`."""
    record = json.loads((run / "run.json").read_text())
    tensors = load_file(run / record["checkpoint"])
    dit = new_dit()
    with torch.no_grad():
        for name, p in dit.named_parameters():
            p.copy_(tensors[f"average.{name}"])
    return dit, record


def forget_paths(folder: Path) -> None:
    """Remove the path of this machine that diffusers writes into configurations."""
    for path in folder.rglob("*.json"):
        config = json.loads(path.read_text())
        if config.pop("_name_or_path", None) is not None:
            path.write_text(json.dumps(config, indent=2) + "\n")


def write_pipeline(dit: DiTTransformer2DModel, vae: Path, out: Path) -> None:
    """Save the pipeline in float16, with class names in `model_index.json`."""
    scheduler = DPMSolverMultistepScheduler(**NOISE, algorithm_type="dpmsolver++", solver_order=2)
    coder = AutoencoderKL.from_pretrained(vae, local_files_only=True)
    DiTPipeline(dit.half(), coder.half(), scheduler).save_pretrained(out)
    index = out / "model_index.json"
    config = json.loads(index.read_text())
    config["id2label"] = {str(i): name for i, name in enumerate(CLASSES.values())}
    index.write_text(json.dumps(config, indent=2) + "\n")
    forget_paths(out)


def write_card(record: dict, guidance: float, out: Path) -> None:
    """Write `dqviz.json`: what DQ-Viz should know before it draws."""
    settings = record["settings"]
    samples = record["step"] * settings["batch"]
    card = {
        "format": 1,
        "key": "dit-emoji",
        "title": "DiT Emoji, 24 classes at 64x64",
        "family": "dit",
        "task": "class-to-image",
        "guidance": guidance,
        "steps": STEPS,
        "classes": {str(i): name for i, name in enumerate(CLASSES.values())},
        "prompts": [],
        "licence": "weights Apache-2.0; training pictures MIT (Microsoft Fluent Emoji) and "
        "Apache-2.0 (Google Noto Emoji), see NOTICE",
        "training": TRAINING.format(
            steps=f"{record['step']:,}",
            batch=settings["batch"],
            samples=f"{samples:,}",
            per_class=f"{samples // len(CLASSES):,}",
            hours=record["seconds"] / 3600,
        ),
        "classifier": "emoji-classifier",
    }
    (out / "dqviz.json").write_text(json.dumps(card, indent=2) + "\n")


def draw(pipe: DiTPipeline, guidance: float, seed: int) -> Tensor:
    """One picture of every class: -> [24, 3, 64, 64] in [0, 1]."""
    pictures = pipe(
        class_labels=list(range(len(CLASSES))),
        guidance_scale=guidance,
        num_inference_steps=STEPS,
        generator=torch.Generator().manual_seed(seed),
        output_type="np",
    ).images
    return torch.from_numpy(pictures).permute(0, 3, 1, 2)


@torch.no_grad()
def distances(pipe: DiTPipeline, pictures: Tensor, latents: Tensor, ids: Tensor) -> Tensor:
    """Root mean square latent distance to the nearest training picture of the class: -> [n].

    Latents have unit variance, so 1.4 is the distance of unrelated pictures and 0 is a copy.
    Shapes: pictures [k * 24, 3, 64, 64]; latents [m, 4, 16, 16] with classes ids [m].
    """
    own = pipe.vae.encode(pictures * 2 - 1).latent_dist.mean
    classes = torch.arange(len(own)) % len(CLASSES)
    nearest = []
    for latent, label in zip(own, classes, strict=True):
        gaps = (latents[ids == label] - latent).square().mean((1, 2, 3)).sqrt()
        nearest.append(gaps.min())
    return torch.stack(nearest)


def judge(
    pipe: DiTPipeline, judge_net: Classifier | None, latents: dict[str, Tensor], args
) -> dict[str, dict]:
    """Draw at every guidance scale; save PNG grids; measure accuracy and memorisation."""
    report = {}
    for guidance in args.compare:
        pictures = torch.cat([draw(pipe, guidance, seed) for seed in range(args.draws)])
        path = args.report / f"samples_guidance_{guidance:g}.png"
        save_grid(pictures * 2 - 1, path, columns=len(CLASSES))
        gaps = distances(pipe, pictures, latents["latents"], latents["class"])
        result = {
            "pictures": len(pictures),
            "latent_distance": {
                "median": round(gaps.median().item(), 3),
                "least": round(gaps.min().item(), 3),
                "most": round(gaps.max().item(), 3),
            },
        }
        if judge_net:
            labels = torch.arange(len(pictures)) % len(CLASSES)
            right = (judge_net(pictures).argmax(1) == labels).float()
            by_class = right.view(-1, len(CLASSES)).mean(0)
            result["accuracy"] = round(right.mean().item(), 3)
            result["accuracy_below_one"] = {
                name: round(share, 2)
                for name, share in zip(CLASSES.values(), by_class.tolist(), strict=True)
                if share < 1
            }
        report[f"{guidance:g}"] = result
        print(guidance, json.dumps(result), flush=True)
    return report


def write_readme(
    report: dict, guidance: float, vae_report: dict, judge_net: Classifier | None, out: Path
) -> None:
    """Fill `dit_card.md` with what was measured; write the loss curve beside it."""
    settings, curve = report["settings"], report["curve"]
    samples = report["step"] * settings["batch"]
    shown = [curve[round(k * (len(curve) - 1) / 7)] for k in range(8)]
    rows = [
        "| {} | {} | {median} ({least} to {most}) |".format(
            scale,
            f"{result['accuracy']:.1%}" if "accuracy" in result else "not measured",
            **result["latent_distance"],
        )
        for scale, result in report["guidance"].items()
    ]
    missed = report["guidance"].get(f"{guidance:g}", {}).get("accuracy_below_one", {})
    confused = ", ".join(f"{name} ({share:.0%} right)" for name, share in missed.items())
    text = Path(__file__).with_name("dit_card.md").read_text()
    card = text.format(
        guidance=guidance,
        classes=", ".join(f"{i} {name}" for i, name in enumerate(CLASSES.values())),
        vae_train=vae_report["pictures"]["train"],
        vae_unseen=vae_report["pictures"]["held_out"],
        vae_steps=vae_report["steps"],
        vae_held_out=vae_report["psnr_db"]["held_out"],
        vae_classes=vae_report["psnr_db"]["classes"],
        steps=report["step"],
        planned=settings["steps"],
        batch=settings["batch"],
        samples=samples,
        per_class=samples // len(CLASSES),
        seed=settings["seed"],
        rate=settings["rate"],
        ema=settings["ema"],
        hours=report["seconds"] / 3600,
        curve=", ".join(f"{loss:.3f} at {step:,}" for step, _, loss in shown),
        table="\n".join(rows),
        confused=f"At guidance {guidance:g} it errs on: {confused}." if confused else "",
        pictures=max((r["pictures"] for r in report["guidance"].values()), default=0),
        judge=judge_net.held_out_accuracy if judge_net else 0.0,
    )
    (out / "README.md").write_text(card)
    points = [
        {"step": step, "seconds": seconds, "loss": round(loss, 5)} for step, seconds, loss in curve
    ]
    record = {"settings": settings, "curve": points}
    (out / "training_curve.json").write_text(json.dumps(record, indent=1) + "\n")


def main() -> None:
    """Read the command line, export, and judge the pictures."""
    parser = argparse.ArgumentParser(description="Export the embedded DiT as a DiTPipeline.")
    parser.add_argument("--run", type=Path, default=Path(".training/dit"))
    parser.add_argument("--vae", type=Path, default=Path(".training/vae"))
    parser.add_argument("--latents", type=Path, default=Path(".training/latents.safetensors"))
    parser.add_argument("--out", type=Path, default=Path("assets/models/dit-emoji"))
    parser.add_argument("--classifier", type=Path, default=Path("assets/models/emoji-classifier"))
    parser.add_argument("--report", type=Path, default=Path(".training/report"))
    parser.add_argument("--guidance", type=float, default=2.0, help="the card's guidance scale")
    parser.add_argument("--compare", type=float, nargs="*", default=[2.0, 3.0, 4.0])
    parser.add_argument("--draws", type=int, default=4, help="pictures per class and scale")
    parser.add_argument("--threads", type=int, default=2)
    args = parser.parse_args()
    torch.set_num_threads(args.threads)

    dit, record = averaged_dit(args.run)
    write_pipeline(dit, args.vae, args.out)
    write_card(record, args.guidance, args.out)
    pipe = DiTPipeline.from_pretrained(args.out, local_files_only=True, dtype=torch.float32)
    pipe.set_progress_bar_config(disable=True)
    judge_net = load_classifier(args.classifier) if (args.classifier / CONFIG).exists() else None
    report = {
        "step": record["step"],
        "seconds": record["seconds"],
        "settings": record["settings"],
        "guidance": judge(pipe, judge_net, load_file(args.latents), args),
        "curve": record["curve"],
    }
    args.report.mkdir(parents=True, exist_ok=True)
    (args.report / "report.json").write_text(json.dumps(report, indent=1) + "\n")
    vae_report = json.loads((args.vae / "report.json").read_text())
    write_readme(report, args.guidance, vae_report, judge_net, args.out)


if __name__ == "__main__":
    main()
