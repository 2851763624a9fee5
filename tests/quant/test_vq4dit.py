"""VQ4DiT: assignments and codebooks learned from the model's own trajectories (P1-P11 of its specification)."""

from __future__ import annotations

import itertools
import subprocess
import sys
from functools import cache
from pathlib import Path

import pytest
import torch
from diffusers import DiTTransformer2DModel

from benchmarks.block_errors import block_errors
from quant.cards import load_method
from quant.checkpoint import WEIGHTS, save_checkpoint
from quant.errors import BadInput, Cancelled
from quant.learning import Asked, Diverged, Learning, learn
from quant.method_options import parse_options
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits
from quant.site_groups import groups_of
from quant.sizes import size_of
from quant.vectors import vectors_of
from quant.walks import HELD_OUT, Walk, calibration_samples, outputs_of

ROOT = Path(__file__).parents[2]

STEPS = 4  # of a trajectory
BUDGET = {"trajectories": 60, "steps": STEPS, "samples": 2, "iterations": 20}
FEW = {"trajectories": 2, "steps": STEPS, "samples": 1, "iterations": 5}


def plan_of(model, bits="w2a16"):
    return uniform_plan(model, parse_bits(bits), also=("adaln",))


def learner_of(model, options, seed=0, bits="w2a16"):
    chosen = parse_options("vq4dit", options)
    plan, groups = groups_of(model, "vq4dit", plan_of(model, bits), chosen, None, seed=seed)
    module = load_method("vq4dit")
    return module.learner(Asked(model, plan, groups, None, chosen, seed))


class Course:
    """One learning, watched: held-out errors with hard weights where its stages meet."""

    def __init__(self, model, options):
        self.model, self.learner = model, learner_of(model, options)
        self.losses, self.measures, self.errors = [], [], {}
        first = self.learner.clusterings.steps
        for k in range(self.learner.steps):
            stage = self.learner.stage
            if stage == "codebooks" and "tuned from" not in self.errors:
                self.errors["tuned from"] = self.error()
            self.losses.append((stage, self.learner.step(k)))
            if k >= first and (k - first) % 20 == 0:
                self.measures.append(self.learner.measures()["sites"])
        self.measures.append(self.learner.measures()["sites"])
        self.errors["end"] = self.error()

    def error(self):
        """Relative error of all block outputs on a fixed held-out trajectory, everything decided."""
        for site in self.learner.sites.values():
            site.hard = True
        found = mean_error(self.model, self.learner.student)
        for site in self.learner.sites.values():
            site.hard = False
        return found


def mean_error(model, transformer):
    samples = calibration_samples(model, 0, 4, 0, HELD_OUT)
    errors = block_errors(model, transformer, samples, model.sampler(STEPS))
    shares = [e / p for e, p in zip(errors["mse"], errors["power"], strict=True)]
    return sum(shares) / len(shares)


@pytest.fixture(scope="module")
def course(model):
    return cache(lambda n: Course(model, {**BUDGET, "candidates": n}))


@pytest.fixture(scope="module")
def by_kmeans(model):
    return quantize(model, "kmeans-vq", plan_of(model), {"iterations": 20})


def test_hardened_weights_are_made_of_codewords(course):
    """P1."""
    for site in course(2).learner.sites.values():
        found = site.found()
        vectors = vectors_of(found.decode(), found.codebook.shape[1])
        assert torch.equal(vectors, found.codebook[found.codes.reshape(-1).long()])


@pytest.mark.parametrize("block_input", ["student", "teacher"])
def test_at_the_end_everything_is_decided_whatever_the_deadline(model, block_input):
    options = {"trajectories": 1, "steps": 4, "samples": 1, "iterations": 2, "deadline": 1.0, "block_input": block_input}  # fmt: skip
    learner = Course(model, options).learner
    assert all(site.hardened for site in learner.sites.values())
    told = learner.measures()["sites"]
    notes = {name: made.notes["changed"] for name, made in learner.rounded().items()}
    assert notes == {name: told[name]["changed"] for name in notes}


def test_a_loss_that_grows_is_told_with_its_block(model):
    options = {"trajectories": 2, "steps": 8, "samples": 1, "iterations": 2, "codebook_rate": 1.0}
    with pytest.raises(Diverged, match=r"most of it in transformer_blocks\.\d"):
        learn(learner_of(model, options), "vq4dit", "key")


@pytest.mark.parametrize("method", ["vq4dit", "kmeans-vq"])
def test_codebooks_are_made_in_the_place_of_integers_alone(model, method):
    plan = uniform_plan(model, parse_bits("mxfp4"))
    with pytest.raises(BadInput, match=r"place of integers alone, not mxfp4; try w4a8"):
        quantize(model, method, plan)


def test_learning_cuts_the_error_of_block_outputs(model, course, by_kmeans):
    """P4, on noise and classes that nothing was learned from: against k-means, against codebooks alone.

    Of the output, not of the weight, whose error rises.
    """
    learned, tuned, start = (
        course(2).errors["end"],
        course(1).errors["end"],
        mean_error(model, by_kmeans.transformer),
    )
    assert learned < 0.75 * start
    assert learned < tuned < start
    worse = 0
    for name, site in course(2).learner.sites.items():
        weight = model.transformer.get_submodule(name).weight.detach()
        first = by_kmeans.transformer.get_submodule(name).dequantized_weight()
        worse += (site.found().decode() - weight).norm() > (first - weight).norm()
    assert worse > len(course(2).learner.sites) / 2


def test_everything_is_decided_in_time(course):
    """P5: the share of frozen vectors only grows, the entropy ends at 0, codes differ from k-means."""
    found = course(2)
    for name, site in found.learner.sites.items():
        frozen = [m[name]["frozen"] for m in found.measures if "frozen" in m[name]]
        assert all(a <= b for a, b in itertools.pairwise(frozen)), name
        entropy = [m[name]["entropy"] for m in found.measures]
        assert entropy[0] > 0.1
        assert entropy[-1] == 0
        assert site.hardened
    last = found.measures[-1].values()
    changed = sum(m["changed"] for m in last) / len(last)
    assert 0.1 < changed < 0.5
    assert all(m["ranks"][0] > m["ranks"][1] for m in last)
    assert all(abs(sum(m["ranks"]) - 1) < 1e-6 for m in last)


def test_assigning_helps_and_tuning_does_not_hurt(model, course, by_kmeans):
    """P6, with hard weights on a fixed batch."""
    errors = course(2).errors
    assert errors["tuned from"] < mean_error(model, by_kmeans.transformer)
    assert errors["end"] <= 1.01 * errors["tuned from"]


@pytest.mark.parametrize("annealing", [True, False])
def test_annealing_decides_little_by_little(model, annealing):
    """Not at the deadline at once: one step before it, nearly all is frozen, or hardly anything."""
    options = {**FEW, "trajectories": 10, "annealing": annealing, "deadline": 0.5}
    found = learner_of(model, options)
    shares = []
    for k in range(found.clusterings.steps + 20):
        found.step(k)
        if k >= found.clusterings.steps:
            sites = found.measures()["sites"].values()
            shares.append(sum(m["frozen"] for m in sites) / len(sites))
    assert all(a <= b for a, b in itertools.pairwise(shares))
    assert (shares[-1] >= 0.9) if annealing else (shares[-1] < 0.5)
    assert any(0.05 < share < 0.9 for share in shares) or not annealing


def test_one_candidate_is_the_tuning_of_codebooks(model):
    """P7: no logits, no penalty, the codes of k-means; the numbers of torch's own RMSprop."""
    options = {**FEW, "candidates": 1}
    found = learner_of(model, options)
    first = found.clusterings.steps
    for k in range(first):
        found.step(k)
    codes = {n: found.clusterings.found(n) for n in found.clusterings.codes}
    name = "transformer_blocks.1.ff.net.2"
    for k in range(first, found.steps):
        losses = found.step(k)
        assert losses["penalty"] == 0
        assert "hard" not in losses
        assert all(site.z is None for site in found.sites.values())
    books, biases = _tuned(model, codes, found)
    for site_name, site in found.sites.items():
        assert torch.equal(site.codes, codes[site_name].codes.reshape(-1))
    assert torch.allclose(found.sites[name].codebook, books[name], atol=2e-6)
    assert torch.allclose(found.sites[name].bias, biases[name], atol=2e-6)
    assert not torch.allclose(books[name], codes[name].codebook, atol=2e-6)


def _tuned(model, codes, found):
    """The same by ordinary modules: weights gathered from codebooks, one optimizer for all."""
    from torch.func import functional_call

    layers = {n: model.transformer.get_submodule(n) for n in codes}
    books = {n: c.codebook.clone().requires_grad_() for n, c in codes.items()}
    biases = {n: layers[n].bias.detach().clone().requires_grad_() for n in codes}
    rule = torch.optim.RMSprop([*books.values(), *biases.values()], lr=1e-4, alpha=0.9)
    walk = Walk(model, model.transformer, model.sampler(STEPS), 1, 0)
    blocks = model.adapter.blocks(model.transformer)

    class Called(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.inside = model.transformer

        def forward(self, *args, **kwargs):
            given = {f"{n}.bias": b for n, b in biases.items()}
            for n, book in books.items():
                given[f"{n}.weight"] = book[codes[n].codes.long()].reshape(layers[n].weight.shape)
            return functional_call(self.inside, given, args, kwargs)

    from quant.walks import distance, outputs_of

    network = Called()
    for k in range(found.each):
        walk.to(k)
        with torch.no_grad(), outputs_of(model.transformer, blocks) as wanted:
            guided = walk.evaluate(model.transformer).guided
        with outputs_of(model.transformer, blocks) as made:
            walk.evaluate(network)
        rule.zero_grad()
        sum(distance(made[b], wanted[b]) for b in blocks).div(len(blocks)).backward()
        rule.step()
        walk.advance(guided)
    return books, biases


def test_published_sizes():
    """P8: 162.08 and 241.14 MiB; codebooks and the learned biases in float32."""
    two = size_of("dit-xl-2", "vq4dit", parse_bits("w2a16"))
    three = size_of("dit-xl-2", "vq4dit", parse_bits("w3a16"))
    assert round(two.blocks_mib, 2) == 162.08
    assert round(three.blocks_mib, 2) == 241.14
    assert round(two.bits_per_weight, 4) == 2.0096
    assert round(three.bits_per_weight, 4) == 3.0012
    assert two.codebooks == 196
    assert two.parts["biases"] == 4 * 483_840
    half = size_of("dit-xl-2", "vq4dit", parse_bits("w2a16"), options={"codebook": "fp16"})
    assert round(half.blocks_mib, 2) == 161.70


@pytest.mark.parametrize("bits", ["w2a16", "w3a16"])
def test_bits_per_weight_are_the_packed_bytes(model, tmp_path, bits):
    """P8, on disk."""
    made = quantize(model, "vq4dit", plan_of(model, bits), FEW)
    report = save_checkpoint(made, model, tmp_path / "c")
    layers = [made.transformer.get_submodule(n) for n in made.scope.quantized]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    held = sum(layer.codes.nbytes + layer.codebook.nbytes for layer in layers)
    assert report.bits_per_weight == pytest.approx(8 * held / weights)
    by_formula = sum(
        layer.in_features * layer.out_features / d * (k - 1).bit_length() + k * d * 32
        for layer in layers
        for k, d in [layer.codebook.shape]
    )
    assert 8 * held == pytest.approx(by_formula, rel=1e-3)


def test_what_is_not_quantized_stays_bit_identical(model):
    """P9: embedders, patches and head, and all of the teacher."""
    before = {n: t.clone() for n, t in model.transformer.state_dict().items()}
    made = quantize(model, "vq4dit", plan_of(model), FEW)
    assert model.transformer.training is False
    assert all(p.grad is None for p in model.transformer.parameters())
    for name, tensor in model.transformer.state_dict().items():
        assert torch.equal(tensor, before[name])
    kept = made.transformer.state_dict()
    inside = set(made.scope.quantized)
    outside = [n for n in before if n.rpartition(".")[0] not in inside]
    assert {"pos_embed.proj.weight", "proj_out_2.weight"} <= set(outside)
    assert any("norm1.emb" in n for n in outside)
    assert all(torch.equal(kept[n], before[n]) for n in outside)


def test_the_seed_alone_decides(model):
    """P10."""
    first, same, other = (
        quantize(model, "vq4dit", plan_of(model), FEW, seed=s).transformer for s in (0, 0, 1)
    )
    assert _equal(first, same)
    assert not _equal(first, other)


def _equal(one, other):
    pairs = zip(one.state_dict().values(), other.state_dict().values(), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


def test_gradients_of_vectors_that_share_a_codeword_agree_better(course):
    """P11: the paper's own diagnostic."""
    pairs = course(2).learner.measures()["coherence"].values()
    now = sum(p["now"] for p in pairs) / len(pairs)
    assert now > sum(p["kmeans"] for p in pairs) / len(pairs)


@pytest.mark.parametrize(
    ("block_input", "order", "stop"),
    [
        ("student", "trajectory", 5),
        ("student", "trajectory", 25),
        ("student", "shuffled", 16),
        ("student", "shuffled", 26),
        ("teacher", "trajectory", 18),
        ("teacher", "trajectory", 33),
        ("teacher", "trajectory", 45),
    ],
)
def test_a_stopped_learning_goes_on_to_the_same_result(model, tmp_path, block_input, order, stop):
    """In k-means, while trajectories are drawn or recorded, in the middle of one, in either block."""
    options = {
        **FEW,
        "iterations": 5,
        "block_input": block_input,
        "order": order,
        "trajectories": 4,
        "cached": 2,
        "assignment_rate": 0.5,
        "deadline": 0.8,
    }
    whole = quantize(model, "vq4dit", plan_of(model), options).transformer

    def told(progress):
        if progress.step == stop:
            raise Cancelled("enough")

    with pytest.raises(Cancelled):
        quantize(
            model, "vq4dit", plan_of(model), options, learning=Learning(tmp_path, on_step=told)
        )
    again = quantize(model, "vq4dit", plan_of(model), options, learning=Learning(tmp_path))
    assert _equal(again.transformer, whole)


@pytest.mark.parametrize("block_input", ["student", "teacher"])
def test_learning_that_runs_away_names_the_layer(model, block_input):
    options = {**FEW, "codebook_rate": 1e30, "block_input": block_input}
    with pytest.raises(Diverged, match=r"transformer_blocks\.0"):
        quantize(model, "vq4dit", plan_of(model), options)


def test_one_block_at_a_time_helps_as_well(model, by_kmeans):
    options = {**BUDGET, "trajectories": 40, "cached": 5, "block_input": "teacher"}
    made = quantize(model, "vq4dit", plan_of(model), options)
    assert mean_error(model, made.transformer) < 0.75 * mean_error(model, by_kmeans.transformer)


def test_a_checkpoint_loads_bit_identical_with_learned_biases(model, tmp_path):
    made = quantize(model, "vq4dit", plan_of(model), {**FEW, "codebook": "fp16"})
    report = save_checkpoint(made, model, tmp_path / "c")
    loaded = DiTTransformer2DModel.from_pretrained(tmp_path / "c").eval()
    name = "transformer_blocks.0.attn1.to_q"
    bias = loaded.get_submodule(name).bias
    assert bias.dtype == torch.float32
    assert not torch.equal(bias, bias.half().float()), "what was learned does not fit in 16 bit"
    assert torch.equal(bias, made.transformer.get_submodule(name).bias)
    assert loaded.get_submodule(name).to(torch.float16).bias.dtype == torch.float32
    assert report.total_bytes == (tmp_path / "c" / WEIGHTS).stat().st_size


def test_relative_losses_weigh_blocks_alike(model):
    """The loss is the mean over blocks of error over power, or of the error alone."""
    for loss in ("absolute", "relative"):
        found = learner_of(model, {**FEW, "loss": loss, "candidates": 1})
        for k in range(found.clusterings.steps):
            found.step(k)
        found._begin(0)
        found.walk.to(0)
        names = found.parts[0]
        with torch.no_grad():
            with outputs_of(found.teacher, names) as exact:
                found.walk.evaluate(found.teacher)
            with outputs_of(found.student, names) as made:
                found.walk.evaluate(found.student)
        errors = [float((made[n][0] - exact[n][0]).square().mean()) for n in names]
        powers = [float(exact[n][0].square().mean()) for n in names]
        each = (
            errors if loss == "absolute" else [e / p for e, p in zip(errors, powers, strict=True)]
        )
        assert float(found.loss(0, 0).detach()) == pytest.approx(sum(each) / len(each), rel=1e-4)


def test_options_are_checked():
    with pytest.raises(BadInput, match="candidates"):
        parse_options("vq4dit", {"candidates": 5})


MEMORY = """
import psutil, sys, threading, time, torch
torch.set_num_threads(2)
from benchmarks.one_block import one_block
from quant.plans import uniform_plan
from quant.quantization import quantize
from quant.schema import parse_bits

model = one_block()
plan = uniform_plan(model, parse_bits("w2a16"), also=("adaln",))
model.transformer(torch.zeros(2, 4, 32, 32), timestep=torch.zeros(2), class_labels=torch.zeros(2, dtype=torch.long))
held, most, done = psutil.Process().memory_info, [0], threading.Event()
before = held().rss
def watch():
    while not done.wait(0.005):
        most[0] = max(most[0], held().rss)
watching = threading.Thread(target=watch)
watching.start()
options = dict(block_input=sys.argv[1], steps=3, trajectories=1, samples=1, iterations=2)
quantize(model, "vq4dit", plan, options)
done.set()
watching.join()
print(most[0] - before)
"""


def test_one_wide_block_fits_in_four_times_its_weights():
    """DiT-XL/2's width, one block at a time: beside the model, in a process of its own."""
    run = subprocess.run(
        [sys.executable, "-c", MEMORY, "teacher"],
        capture_output=True,
        text=True,
        check=True,
        cwd=ROOT,
    )
    weights = 4 * 18 * 1152**2
    cache = 3 * 2 * 2 * 256 * 1152 * 4  # 3 moments, both branches, in and out of the block
    assert int(run.stdout) <= 4 * weights + cache + 200e6
