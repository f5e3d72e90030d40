"""Students of few steps: how near they come to their teachers, and what is refused."""

import pytest
import torch
from mixtures import Mixture
from randomised import generator, randomised
from registered import EPIC, RESIDUAL, data
from stub import StubContext

from physgen.batch import Schema, Variable
from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import RecipeError
from physgen.networks.residual import ResidualOptions
from physgen.surrogates.diffusion.distillation import Distillation
from physgen.surrogates.diffusion.likelihood import DiffusionFlow
from physgen.surrogates.diffusion.model import Diffusion
from physgen.surrogates.diffusion.points import PointDiffusion
from physgen.surrogates.diffusion.variational import VariationalDiffusion
from physgen.surrogates.flows.flow import Flow
from physgen.surrogates.sampler_options import SamplerOptions

PLAIN = Schema((2,), (Variable("x"), Variable("y")))
MANY = SamplerOptions(kind="heun", steps=8)


def few(steps):
    return SamplerOptions(kind="ddim", steps=steps, spacing="even")


def wasserstein(a, b):
    """W1 of two samples of the plane as large, a mean over its directions (Bonneel et al. 2015)."""
    angle = torch.linspace(0, torch.pi, 13, dtype=a.dtype)[:-1]
    seen = [x @ torch.stack([angle.cos(), angle.sin()]) for x in (a, b)]
    return float((seen[0].sort(0).values - seen[1].sort(0).values).abs().mean())


def exact_teacher(schedule):
    """A mixture of three normals whose denoiser is known, and a student with another network."""
    torch.manual_seed(0)
    prediction = "velocity" if schedule == "straight" else "edm"
    teacher, student = (
        Diffusion(
            PLAIN,
            schedule=schedule,
            prediction=prediction,
            network=ResidualOptions(hidden=48, depth=2),
        ).double()
        for _ in range(2)
    )
    exact = Mixture().denoiser(teacher.schedule)
    teacher.denoise = lambda condition: exact
    return teacher, student


def distilled(teacher, student, steps, folder):
    """A student that learned in seconds, and noise with what both make of it."""
    student.use_sampler(few(steps))
    method = Distillation(student, teacher, sampler=MANY, learning_rate=5e-3)
    options = {"steps": 300, "batch_size": 128, "ema": 0.98, "schedule": "cosine", "threads": 1}
    fit(student, method, {}, folder, Engine(device="cpu", precision="float64", **options))
    noise = torch.randn(4000, 2, generator=generator(5), dtype=torch.float64)
    with torch.no_grad():
        return student.from_noise(noise), teacher.from_noise(noise)


CASES = [("straight", 1), ("straight", 2), ("cosine", 2), ("edm", 1), ("linear", 2)]
SLOW = [(schedule, 4) for schedule in ("straight", "linear")]


@pytest.mark.parametrize(
    ("schedule", "steps"), [*CASES, *(pytest.param(*case, marks=pytest.mark.slow) for case in SLOW)]
)
def test_a_student_is_within_a_stated_distance_of_its_teacher_and_of_truth(
    schedule, steps, tmp_path
):
    """W1 to the teacher below 0.02, 2% of the size of the mixture; two truths are 0.017 apart."""
    teacher, student = exact_teacher(schedule)
    found, expected = distilled(teacher, student, steps, tmp_path)
    truth, other = (Mixture().sample(4000, generator(seed)) for seed in (6, 7))
    floor = wasserstein(truth, other)
    assert wasserstein(found, expected) < 0.02
    assert (found - expected).square().mean().sqrt() < 0.1
    assert wasserstein(found, truth) < floor + 0.03
    # The teacher's own network is not what the student had to begin with.
    teacher.use_sampler(few(steps))
    with torch.no_grad():
        noise = torch.randn(4000, 2, generator=generator(5), dtype=torch.float64)
        assert wasserstein(teacher.from_noise(noise), expected) > 0.02


def test_a_student_begins_with_all_that_its_teacher_has():
    schema, _, batch = data("sets")
    torch.manual_seed(0)
    teacher, student = (PointDiffusion(schema, network=EPIC) for _ in range(2))
    teacher.initialise(batch)
    randomised(teacher, 0.1)
    student.use_sampler(few(2))
    method = Distillation(student, teacher, sampler=MANY)
    for name, value in teacher.state_dict().items():
        assert torch.equal(student.state_dict()[name], value), name
    before = {name: value.clone() for name, value in student.state_dict().items()}
    method.step({}, StubContext(16))
    for name, value in student.state_dict().items():
        assert torch.equal(value, before[name]) != name.startswith("denoiser.body."), name
    # One noise gives as many points in both.
    noise = torch.randn(50, *student.noise_shape, generator=generator(1))
    numbers = [(model.from_noise(noise) != 0).any(2).sum(1) for model in (student, method.teacher)]
    assert torch.equal(*numbers)


def test_a_student_of_points_is_equivariant_and_blind_to_what_stands_where_no_point_is():
    schema = Schema((4, 2), (Variable("x"), Variable("y")), masked=True)
    torch.manual_seed(0)
    teacher, student = (PointDiffusion(schema, network=EPIC).double() for _ in range(2))
    randomised(teacher, 0.3)
    student.use_sampler(few(2))
    method = Distillation(student, teacher, sampler=MANY)
    randomised(student, 0.3)
    number = torch.tensor([[4.0], [3.0], [1.0], [0.0]], dtype=torch.float64)
    start = torch.randn(4, 4, 2, generator=generator(2), dtype=torch.float64)
    turn = torch.tensor([[2, 0, 3, 1], [2, 0, 1, 3], [0, 1, 2, 3], [0, 1, 2, 3]])
    turned = start.gather(1, turn[..., None].expand_as(start))
    with torch.no_grad():
        made = student.cleaned(start.flatten(1), number).reshape(4, 4, 2)
        again = student.cleaned(turned.flatten(1), number).reshape(4, 4, 2)
    torch.testing.assert_close(
        again, made.gather(1, turn[..., None].expand_as(made)), rtol=1e-12, atol=1e-12
    )
    pairs = method.pairs(torch.randn(4, 9, generator=generator(3), dtype=torch.float64), None)
    pairs = pairs.replace(condition=number)
    there = (torch.arange(4) < number)[..., None].expand(-1, -1, 2).flatten(1)
    padded = pairs.replace(x=torch.where(there[:, None], pairs.x, 1e3))
    torch.testing.assert_close(method.loss(padded), method.loss(pairs))


def test_a_guided_teacher_is_learned_with_its_guidance():
    schema = Schema((2,), (Variable("x"),), (Variable("c"),))
    torch.manual_seed(0)
    teacher, student = (
        Diffusion(schema, network=RESIDUAL, condition_dropout=0.1) for _ in range(2)
    )
    randomised(teacher, 0.3)
    student.use_sampler(few(1))
    guided = Distillation(student, teacher, sampler=SamplerOptions(steps=4, guidance=3.0))
    noise, condition = torch.randn(5, 2, generator=generator(1)), torch.ones(5, 1)
    pairs = guided.pairs(noise, condition)
    plain = Distillation(student, teacher, sampler=SamplerOptions(steps=4))
    assert not torch.allclose(pairs.x[:, 1], plain.pairs(noise, condition).x[:, 1])
    assert student.sampler.guidance == 1


REFUSED = {
    "another family": (lambda: (Flow(PLAIN), Diffusion(PLAIN)), {}, "not Flow"),
    "a bound": (
        lambda: (VariationalDiffusion(PLAIN), VariationalDiffusion(PLAIN)),
        {},
        "no longer denoises, and has no density",
    ),
    "a density": (lambda: (DiffusionFlow(PLAIN), DiffusionFlow(PLAIN)), {}, "has no density"),
    "no teacher": (lambda: (Diffusion(PLAIN), None), {}, "method.teacher is missing"),
    "another kind": (
        lambda: (Diffusion(PLAIN), VariationalDiffusion(PLAIN)),
        {},
        "method.teacher is a VariationalDiffusion, and this surrogate a Diffusion",
    ),
    "other samples": (
        lambda: (Diffusion(PLAIN), Diffusion(Schema((3,), (Variable("x"),)))),
        {},
        r"makes other samples .* shape is \(2,\), and \(3,\) there",
    ),
    "another schedule": (
        lambda: (Diffusion(PLAIN), Diffusion(PLAIN, schedule="edm")),
        {},
        r"surrogate\.schedule differs",
    ),
    "another network": (
        lambda: (Diffusion(PLAIN), Diffusion(PLAIN, network=RESIDUAL)),
        {},
        "a student has the network of its teacher",
    ),
    "a noisy teacher": (
        lambda: (Diffusion(PLAIN), Diffusion(PLAIN)),
        {"sampler": SamplerOptions(kind="ancestral")},
        r"method\.sampler\.kind: ancestral adds noise",
    ),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_cannot_be_distilled_is_refused_with_the_reason(name):
    make, options, message = REFUSED[name]
    student, teacher = make()
    with pytest.raises(RecipeError, match=message):
        Distillation(student, teacher, **options)


def test_a_student_that_adds_noise_is_refused():
    student = Diffusion(PLAIN)
    student.use_sampler(SamplerOptions(kind="ancestral"))
    with pytest.raises(RecipeError, match=r"sampling\.sampler\.kind: ancestral adds noise"):
        Distillation(student, Diffusion(PLAIN))
