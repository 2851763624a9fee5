"""A pipeline that is not loaded says of latents and refuses what the loaded one does."""

from __future__ import annotations

import pytest

from quant.errors import BadInput
from quant.loading import load_model
from quant.sources import Source, locate
from quant.streaming import empty_transformer
from quant.unloaded import latent_shape, unloaded

FAMILIES = ("pixart-alpha", "latte", "sd3.5", "flux", "cogvideox", "cogvideox-1.5", "wan", "sana")


@pytest.fixture(scope="module")
def both(pipelines):
    def get(family: str):
        located = locate(Source(ref=str(pipelines[family])))
        pipe = unloaded(located.folder, empty_transformer(located.config))
        return load_model(str(pipelines[family]), device="cpu"), pipe

    return get


@pytest.mark.parametrize("family", FAMILIES)
def test_latents_are_those_of_the_loaded_pipeline(both, family):
    model, pipe = both(family)
    side = 16 if family == "cogvideox-1.5" else 32
    for size in (None, (side, 16)):
        sampler = model.sampler(size=size)
        assert latent_shape(pipe, model.adapter, sampler) == tuple(model.latent_shape(sampler))


@pytest.mark.parametrize(
    ("family", "asked", "said"),
    [
        ("latte", {"frames": 7}, "draws clips of 3 frames"),
        ("wan", {"frames": 4}, r"makes 2 n \+ 1 frames"),
        ("flux", {"size": (18, 16)}, "multiples of 4"),
        ("sana", {"frames": 5}, "draws pictures, not clips"),
    ],
)
def test_what_cannot_be_drawn_is_refused_alike(both, family, asked, said):
    model, pipe = both(family)
    with pytest.raises(BadInput, match=said):
        model.sampler(**asked)
    sampler = model.sampler().model_copy(update=asked)
    with pytest.raises(BadInput, match=said):
        latent_shape(pipe, model.adapter, sampler)


def test_decoding_counts_pixels_and_channels_at_full_size(both):
    _, pipe = both("flux")  # 8 and 16 channels, two pixels for an element of a latent
    assert pipe.decoded_bytes((4, 10, 20), 4) == 4 * (20 * 40) * 2 * (8 + 16)
    _, clips = both("wan")  # twice the frames, at most 16 of them at once
    assert clips.decoded_bytes((4, 3, 8, 8), 4) == 4 * 6 * 16 * 16 * 2 * (4 + 4)
    assert clips.decoded_bytes((4, 99, 8, 8), 4) == 4 * 16 * 16 * 16 * 2 * (4 + 4)
