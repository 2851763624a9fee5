"""How alike the guidance branches attend: against the maps written out, whatever the batches."""

from __future__ import annotations

import pytest
import torch

from quant.errors import BadInput
from quant.generation import generate, predict, timesteps_of
from quant.outliers import inject
from quant.schema import Outliers, Sample
from quant.sharing import attach
from quant.sharing_choice import EVERY_STEP, Sharing, saving
from quant.similarity import measure_similarity
from quant.swapping import shallow_copy

from .test_sharing import counted


@pytest.fixture(scope="module")
def similarity(model, samples, sampler):
    return measure_similarity(model, samples, sampler)


def test_cosine_of_the_maps_written_out(model, reference, sampler, similarity) -> None:
    """First step, first sample, with hooks of the test's own; all queries are looked at."""
    maps = {}

    def keep(name: str):
        def hook(attn, args, kwargs) -> None:
            x = args[0]
            q, k = (p(x).reshape(2, -1, 2, 32).transpose(1, 2) for p in (attn.to_q, attn.to_k))
            maps[name] = torch.softmax(q @ k.transpose(2, 3) / 32**0.5, -1)

        return hook

    handles = [
        model.transformer.get_submodule(name).register_forward_pre_hook(
            keep(name), with_kwargs=True
        )
        for name in similarity.attentions
    ]
    latents, one = reference.trajectory.inputs[0][:1], reference.samples[:1]
    predict(model, latents, similarity.timesteps[0], one, sampler)
    for handle in handles:
        handle.remove()
    alone = measure_similarity(model, one, sampler)
    assert alone.queries == similarity.queries == 16  # tokens
    for index, name in enumerate(similarity.attentions):
        per_head = torch.cosine_similarity(*maps[name], dim=-1).mean(-1)  # [heads]
        assert alone.cosine[index][0] == pytest.approx(float(per_head.mean()), rel=1e-4)
        assert alone.minimum[index][0] == pytest.approx(float(per_head.min()), rel=1e-4)


def test_it_depends_on_neither_batches_nor_repetition(model, samples, sampler, similarity) -> None:
    again = measure_similarity(model, samples, sampler)
    assert again == similarity
    single = measure_similarity(model, samples, sampler, batch_size=1)
    assert torch.tensor(single.cosine).allclose(torch.tensor(similarity.cosine), atol=1e-4)
    fewer = measure_similarity(model, samples, sampler, queries=4)
    assert fewer.queries == 4
    assert fewer.cosine != similarity.cosine
    assert torch.tensor(fewer.cosine).allclose(torch.tensor(similarity.cosine), atol=0.2)
    assert similarity.timesteps == timesteps_of(sampler)


def test_equal_branches_are_alike(model, sampler) -> None:
    """Without a class, both branches are the unconditional one."""
    found = measure_similarity(model, (Sample(seed=0, class_id=1000),), sampler)
    assert torch.tensor(found.cosine).allclose(torch.tensor(1.0))
    assert torch.tensor(found.output_error.map).abs().max() < 1e-5
    assert torch.tensor(found.output_error.output).abs().max() < 1e-5


def test_outliers_that_keep_the_function_keep_the_similarity(
    model, samples, sampler, similarity
) -> None:
    heavy = inject(model, Outliers(kind="token", factor=16))
    found = measure_similarity(heavy, samples, sampler)
    assert torch.tensor(found.cosine).allclose(torch.tensor(similarity.cosine), atol=0.02)


def test_a_shared_map_errs_by_what_was_measured_and_less_than_a_shared_output(similarity) -> None:
    errors = similarity.output_error
    assert torch.tensor(errors.map).mean() < torch.tensor(errors.output).mean()


def test_predicted_savings_are_the_rows_that_run(model, samples, sampler, similarity) -> None:
    transformer = shallow_copy(model.transformer)
    sharing = Sharing(mode="map", attentions={similarity.attentions[0]: EVERY_STEP})
    rows = []
    for shared in (False, True):
        if shared:
            attach(transformer, model.adapter, sharing)
        with counted(transformer) as found:
            generate(model, samples, sampler, transformer=transformer)
        rows.append(sum(n for name, n in found.items() if name.endswith(("to_q", "to_k"))))
    work = dict(zip(similarity.attentions, similarity.work))
    saved = saving(sharing, similarity.timesteps, work, similarity.network)
    assert 1 - rows[1] / rows[0] == pytest.approx(saved["qk_rows"])
    assert rows[0] == len(samples) * sampler.steps * sum(w.rows for w in similarity.work)


def test_without_guidance_there_is_nothing_to_compare(model, samples, sampler) -> None:
    with pytest.raises(BadInput, match="guidance above 1"):
        measure_similarity(model, samples, sampler.model_copy(update={"guidance": 1.0}))
