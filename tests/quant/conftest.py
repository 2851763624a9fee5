"""The tiny model, loaded, calibrated and drawn once for all engine tests."""

from __future__ import annotations

import pytest

from quant.calibration import CalibrationOptions, calibrate
from quant.generation import generate
from quant.loading import load_model


@pytest.fixture(scope="session")
def model(tiny_dit):
    """The tiny random DiT pipeline in float32 on the CPU; never changed by a test."""
    return load_model(str(tiny_dit), device="cpu")


@pytest.fixture(scope="session")
def sampler(model):
    """Its card's sampler: 4 steps, guidance 3."""
    return model.sampler()


@pytest.fixture(scope="session")
def samples(model):
    """Three samples, one of each class."""
    return model.samples(range(3))


@pytest.fixture(scope="session")
def reference(model, samples, sampler):
    """Full precision, with its trajectory."""
    return generate(model, samples, sampler, record=True)


@pytest.fixture(scope="session")
def seen(model, sampler):
    """Statistics of four samples on seeds that nothing else uses."""
    return calibrate(
        model, model.samples(range(1000, 1004)), sampler, CalibrationOptions(reservoir=256)
    )
