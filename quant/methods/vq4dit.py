"""VQ4DiT: codebooks and, together with them, which codeword every vector takes, learned without data.

Deng et al., AAAI 2025, https://arxiv.org/abs/2408.17131

Shapes: W [o, i] weight; d neighbours of a row per vector w; C [k, d] codebook; n candidates of a vector
with ratios r [n, S]; h_l the output of block l of L.

    W   = sum_j r_j C[A_c,j],   A_c = the n codewords nearest to w after k-means,   r = softmax(z)
    L   = L_d, and + L_r where L_r is above its least in this trajectory
    L_d = (1 / L) sum_l mean((h_l^student - h_l^teacher)^2),   L_r = mean over layers of sum r (1 - r) / unfrozen
    x_t : the teacher's own trajectory from noise, both guidance branches; nothing else goes in

Stage A learns z and biases, with codebooks beside them; a vector with max r > 0.99 is frozen, a layer with
99 % frozen vectors takes argmax r and drops z. Stage B learns codebooks and biases. RMSprop throughout.
k and d are those of `kmeans-vq`; candidates=1 is the tuning of codebooks alone.

Read in the released code: inverse-distance ratios, n = 2, L_r and when it counts, freezing, hardening,
rates. Second-hand from the paper: codebooks learn from the start (`codebook_from_start=false` is the
code), q, k and v have codebooks of their own, uniform ratios as an option. Ours: student in eval mode
(the code drops labels in the student alone), guidance and sampler of the model's card, and a deadline after
which everything is decided. Ours, as options: `annealing` lowers the 0.99 linearly to 1 / n at the deadline, so
that codebooks and the undecided follow what is decided; `order=shuffled` draws all trajectories first
and learns from their moments at random, as else what is decided last suits one picture at low noise;
`loss=relative` divides each block's error by mean(h_l^teacher ^ 2); `block_input=teacher` has each block learn
alone on the teacher's inputs, at shuffled moments too, so that one block is in memory at a time. Inputs of 8 bits
and fewer are rounded as they come, beside what was learned without; codewords in int8 are rounded after learning.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import Literal

from pydantic import Field

from ..assignments import Ratios
from ..calibration import InputStatistics
from ..cards import Card, Option, Preset
from ..clustering import clustered, clustering_work, with_codebooks
from ..codebook_learner import CodebookLearner
from ..effort import GroupShape, Work
from ..learning import Asked
from ..schema import CODEBOOKS, Plan, SitePlan, Value
from ..site_tensors import Transform
from ..vectors import CodebookKind
from .base import Group, Rounded

DECODE, CHOOSE, AMONG = (
    200,
    70,
    90,
)  # passes over a weight: codewords, a choice, a candidate of it; timed on a CPU
KEPT = 2.2  # numbers that a training pass keeps for each that goes into a linear layer or comes out; measured

CARD = Card(
    key="vq4dit",
    title="VQ4DiT",
    paper="https://arxiv.org/abs/2408.17131",
    bits=("w2a16", "w3a16", "w4a16", "w2a8"),
    beats="rtn",
    beats_at=("w2a16",),
    widths=(2, 3, 4),
    codebooks=True,
    also=("adaln",),
    learns=True,
    trajectories=True,
    summary="Codebooks and the codeword of every vector learned together, from the model's own trajectories.",
    options=(
        Option(
            "candidates",
            2,
            "codewords that a vector chooses among, 1 to 4; 1 tunes codebooks alone",
        ),
        Option("ratios", "inverse_distance", "first ratios: inverse_distance or uniform"),
        Option("trajectories", 20, "from noise to picture, in full precision"),
        Option("steps", 50, "of a trajectory, each a step of learning"),
        Option("samples", 4, "drawn together in a trajectory"),
        Option("guidance", None, "of the trajectories; the model card's where it is not said"),
        Option("deadline", 0.6, "share of the steps after which what is undecided is decided"),
        Option(
            "annealing",
            False,
            "freeze at ever smaller ratios until the deadline, not at 0.99 alone",
        ),
        Option(
            "codebook_from_start", True, "codebooks learn beside the ratios, not only after them"
        ),
        Option(
            "block_input", "student", "student: all blocks at once; teacher: one block at a time"
        ),
        Option(
            "order",
            "trajectory",
            "of what is learned from: one trajectory after another, or all of their moments shuffled",
        ),
        Option("cached", 2, "trajectories kept for a block where it learns alone"),
        Option("loss", "absolute", "of a block: absolute, or relative to what it puts out"),
        Option("assignment_rate", 0.05, "learning rate of the logits"),
        Option("codebook_rate", 0.0001, "learning rate of the codebooks"),
        Option("bias_rate", 0.0001, "learning rate of the biases"),
        Option("iterations", 100, "steps of k-means, 1 to 1000"),
        Option("codebook", "fp32", "how codewords are stored: fp32, fp16 or int8"),
    ),
    presets=(
        Preset(
            "quick",
            {
                "trajectories": 35,
                "steps": 20,
                "samples": 4,
                "iterations": 40,
                "order": "shuffled",
                "loss": "relative",
                "annealing": True,
            },
            "ours",
            "w2a16",
            "an embedded model on two cores in 10 minutes",
        ),
        Preset(
            "paper",
            {"trajectories": 100, "steps": 50, "samples": 4},
            "read in released code, where learning has no end: 100 trajectories are ours",
            "w2a16",
            "hours on a GPU for DiT-XL/2",
        ),
        Preset(
            "brief",
            {"trajectories": 2, "steps": 4, "samples": 1, "iterations": 10},
            "ours",
            "",
            "a few steps, to see that everything runs",
        ),
    ),
)


class Options(Value):
    """Knobs; see the card for what they mean."""

    candidates: int = Field(default=2, ge=1, le=4)
    ratios: Ratios = "inverse_distance"
    trajectories: int = Field(default=20, ge=1)
    steps: int = Field(default=50, ge=1, le=1000)
    samples: int = Field(default=4, ge=1)
    guidance: float | None = Field(default=None, ge=0, le=100)
    deadline: float = Field(default=0.6, ge=0, le=1)
    annealing: bool = False
    codebook_from_start: bool = True
    block_input: Literal["student", "teacher"] = "student"
    order: Literal["trajectory", "shuffled"] = "trajectory"
    cached: int = Field(default=2, ge=1)
    loss: Literal["absolute", "relative"] = "absolute"
    assignment_rate: float = Field(default=0.05, gt=0)
    codebook_rate: float = Field(default=1e-4, ge=0)
    bias_rate: float = Field(default=1e-4, ge=0)
    iterations: int = Field(default=100, ge=1, le=1000)
    codebook: CodebookKind = "fp32"


def planned(
    plan: Plan,
    groups: Iterable[tuple[Group, InputStatistics | None]],
    timesteps: Sequence[float],
    options: Options,
    seed: int,
) -> Plan:
    """Codebooks in the place of integers, site by site with the bits that it has."""
    return plan.each(with_codebooks)


def stored_formats(site: SitePlan, in_features: int, options: Options, steps: int) -> SitePlan:
    """A codebook of the same bits."""
    return with_codebooks(site)


def stored_transform(options: Options) -> Transform:
    """Beside codes and codebook, biases in float32."""
    return Transform(codebook=options.codebook, learned_bias=True)


def work(shape: GroupShape, options: Options) -> Work:
    """k-means, then for every step a pass of the teacher, and forward and backward of the student.

    Shuffled moments are drawn before, which is another pass of the teacher.
    """
    start = clustering_work(shape, options.iterations)
    if not shape.tokens:
        return start
    rows = shape.branches * options.samples * shape.tokens
    steps = options.trajectories * options.steps
    decoding = (
        DECODE + (options.candidates > 1) * (CHOOSE + AMONG * options.candidates)
    ) * shape.weights
    passes = 5 if options.order == "shuffled" and options.block_input == "student" else 4
    each = Work(
        passes * rows * shape.weights, decoding + 30 * rows * shape.width, 60 * len(shape.outputs)
    )
    return start + each * steps


def memory(shapes: Sequence[GroupShape], options: Options) -> int:
    """Of what learns at once, all blocks or one: logits, gradients, squares and candidates, and what a pass keeps
    for the gradients; weights of teacher and student; one decoded layer; what a block alone is called with.

    Activations are counted where tokens are known.
    """
    d, n = CODEBOOKS[2][1], options.candidates
    rows = options.samples * max((s.branches for s in shapes), default=1)
    alone = options.block_input == "teacher"
    numbers = [s.tokens * (s.width + sum(s.outputs)) for s in shapes]  # in and out, of one row
    parts: dict[int | None, float] = {}
    for shape, count in zip(shapes, numbers, strict=True):
        part = shape.block if alone else None
        own = 13 * n * shape.weights / d + KEPT * 4 * rows * count
        parts[part] = parts.get(part, 0) + own
    weights = [s.weights for s in shapes]
    found = max(parts.values(), default=0) + 4 * sum(weights)
    found += 16 * max(weights, default=0) + 16 * rows * max(numbers, default=0)
    if alone:
        moments = min(options.cached, options.trajectories) * options.steps
        narrowest = min((s.tokens * s.width for s in shapes if s.tokens > 1), default=0)
        found += moments * 8 * rows * narrowest  # in and out of the block
    return int(found)


def quantize_group(
    group: Group, seen: InputStatistics | None, options: Options, seed: int
) -> list[Rounded]:
    """What learning starts from: k-means of every site, the biases as they are."""
    made = []
    for site in group.sites:
        if site.plan.weight is None:
            made.append(Rounded(site.weight))
            continue
        found = clustered(site.weight, site.plan.weight, site.name, seed, options.iterations)
        bias = None if site.bias is None else site.bias.float()
        made.append(Rounded(found.stored(options.codebook), bias=bias))
    return made


def learner(asked: Asked) -> CodebookLearner:
    """The stages in steps."""
    return CodebookLearner(asked)
