"""The blocks of docs/recipes.md: what public models take, predicted from shapes alone."""

from __future__ import annotations

from typing import Any, NamedTuple

from .tables import table


class Recipe(NamedTuple):
    """One model of docs/recipes.md, as its commands draw it."""

    title: str
    shape: str  # of `quant/shapes/`
    texts: tuple[str, ...]  # text encoders of `quant/shapes/parts/`
    vae: str
    size: tuple[int, int]  # height and width in pixels
    text: int  # tokens of a prompt in its pipeline
    frames: int | None = None


RECIPES = (
    Recipe("DiT-XL/2", "dit-xl-2", (), "vae-4", (256, 256), 0),
    Recipe("PixArt-Sigma", "pixart-xl-2", ("t5-xxl",), "vae-4", (1024, 1024), 300),
    Recipe("Latte", "latte-1", ("t5-xxl",), "vae-4", (512, 512), 120, 16),
    Recipe("SD3 medium", "sd3-medium", ("clip-l", "clip-g", "t5-xxl"), "vae-16", (1024, 1024), 333),
    Recipe("FLUX.1-dev", "flux-dev", ("clip-l", "t5-xxl"), "vae-16", (1024, 1024), 512),
)
RECIPE_DEVICES = ("rtx-4090", "a100-80gb", "h100-sxm")
SMALL_CARD = "rtx-4090"


def outlined(recipe: Recipe) -> Any:
    """A model of the page without its weights, in bfloat16."""
    from quant.outlines import outline_of

    parts = (*recipe.texts, recipe.vae)
    return outline_of(recipe.shape, parts, size=recipe.size, frames=recipe.frames, text=recipe.text)


def gb(size_bytes: float) -> str:
    """10^9 bytes, as cards are sold."""
    return f"{size_bytes / 1e9:.2f}" if size_bytes < 1e10 else f"{size_bytes / 1e9:.1f}"


def recipe_sizes() -> str:
    """Which part of a model takes how much, and what quantizing its transformer leaves."""
    from quant.outlines import part_numbers
    from quant.schema import parse_bits
    from quant.sizes import size_of

    rows = []
    for recipe in RECIPES:
        target = outlined(recipe).target
        made = [size_of(target, "viditq", parse_bits(bits)) for bits in ("w8a8", "w4a8")]
        texts = 2 * sum(map(part_numbers, recipe.texts))
        rows.append(
            (
                recipe.title,
                gb(made[0].fp16_bytes),
                *(gb(size.total_bytes) for size in made),
                gb(texts) if texts else "none",
                gb(2 * part_numbers(recipe.vae)),
            )
        )
    head = ("GB", "transformer, 16 bit", "`viditq` w8a8", "`viditq` w4a8", "text encoders", "VAE")
    return table(head, rows)


def recipe_memory() -> str:
    """What the commands of the page take at most, and whether a card with 24 GB has it."""
    from quant.preflight import Run, need
    from quant.residency import predicted
    from quant.roofline import DEVICES
    from quant.schema import parse_bits
    from quant.sizes import size_of, stored_forms

    room, needs, rows = DEVICES[SMALL_CARD].memory_bytes, dict[str, int](), []
    for recipe in RECIPES:
        model, bits = outlined(recipe), parse_bits("w8a8")
        run, given = Run("viditq", {}, bits), {"sampler": model.target.sampler, "batch_size": 1}
        made = need(model, "quantize", [run], **given)
        compared = need(model, "compare", [run], **given)
        assert made.streamed_bytes is not None
        forms = stored_forms(model.target, "viditq", bits)
        held = predicted(size_of(model.target, "viditq", bits), model.target.sites, *forms)
        beside = model.other_bytes + made.parts["activations"]
        needs = {
            "`quantize`": made.memory_bytes,
            "`quantize --low-memory`": made.streamed_bytes,
            "`compare`": compared.memory_bytes,
            "drawing simulated": held.stored_bytes + held.expanded_bytes + beside,
        }
        too_large = ", ".join(name for name, size in needs.items() if size > room)
        fits = f"all but {too_large}" if too_large else "all four"
        rows.append((recipe.title, *map(gb, needs.values()), fits))
    return table(("GB, at most", *needs, "into 24 GB fits"), rows)


def recipe_floors() -> str:
    """Seconds of all denoising steps of one picture or clip in bfloat16, at least."""
    from quant.roofline import DEVICES, floor

    rows = []
    for recipe in RECIPES:
        model = outlined(recipe)
        sampler = model.target.sampler
        batch = model.network.branches(sampler.guidance)
        found = []
        for name in RECIPE_DEVICES:
            once = floor(DEVICES[name], model.network, model.shapes, model.frames, batch=batch)
            found.append(f"{sampler.steps * once.seconds:.2g} s")
        high, wide = recipe.size
        clip = f", {recipe.frames} frames" if recipe.frames else ""
        drawn = f"{high} x {wide}{clip}, {sampler.steps} steps"
        rows.append((recipe.title, drawn, str(batch), *found))
    titles = tuple(DEVICES[name].title for name in RECIPE_DEVICES)
    return table(("at least", "drawn", "branches", *titles), rows)


def devices() -> str:
    """The devices that floors are known for."""
    from quant.roofline import DEVICES

    rows = [
        (
            f"`{key}`",
            d.title,
            f"{d.memory_bytes / 1e9:.0f} GB",
            f"{d.bandwidth / 1e12:.2f} TB/s",
            f"{d.bf16 / 1e12:.0f}",
            f"{d.int8 / 1e12:.0f}",
            d.source,
        )
        for key, d in DEVICES.items()
    ]
    head = ("device", "", "memory", "bandwidth", "bf16, 10^12/s", "int8, 10^12/s", "source")
    return table(head, rows)
