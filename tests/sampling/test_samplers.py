"""Samplers, schedules and training terms compared with the official ones (data/README.md) and with closed forms."""

import math
from itertools import islice

import numpy as np
import pytest
import torch
from fill import input_x, noise
from formula import golden
from torch import Tensor

from convbench.catalogue import find
from convbench.errors import UsageError
from convbench.sampling import diffusion, flow, samplers
from convbench.sampling.images import sampler_for
from convbench.sampling.noise import PerImage, draw_classes
from convbench.sampling.plan import Plan
from convbench.sampling.sampler import Sampler

IDDPM, FLOW = golden("sampler_iddpm"), golden("sampler_flow")
SHAPE = (2, 4, 8, 8)
X = torch.from_numpy(input_x(8))


def official_noise(step: int) -> Tensor:
    return torch.from_numpy(noise(step, SHAPE))


def fake_diffusion(x: Tensor, t: Tensor) -> Tensor:
    return torch.cat([0.3 * x * torch.cos(t / 1000)[:, None, None, None], torch.tanh(x)], dim=1)


def fake_flow(x: Tensor, t: Tensor) -> Tensor:
    return 0.3 * x * torch.cos(t)[:, None, None, None]


def walk(sampler: Sampler) -> Tensor:
    model = fake_diffusion if sampler.prediction == "noise" else fake_flow
    return torch.stack(list(sampler.trajectory(model, X, official_noise)))


def assert_same(found: Tensor, expected: Tensor, rtol: float = 1e-5) -> None:
    """Compare the largest difference, as a share of the largest value, with rtol."""
    assert found.shape == expected.shape
    assert (found.double() - expected.double()).abs().max() <= rtol * expected.double().abs().max()


@pytest.mark.parametrize(("steps", "names"), [(10, 10), (250, 10), (1000, 2)])
def test_schedules_equal_the_official_ones(steps: int, names: int) -> None:
    schedule = diffusion.Schedule.spaced(diffusion.even_spacing(steps))
    stored = {key.rsplit("_", 1)[0]: value for key, value in IDDPM.items() if key.endswith(f"_{steps}")}
    assert len(stored) == names
    for name, expected in stored.items():
        if name == "timestep_map":
            assert list(schedule.kept) == expected.tolist()
        else:
            found = getattr(schedule, name)
            assert found.dtype == expected.dtype == torch.float64
            # 1 - alpha is accurate to 1e-16, so a beta of 1e-4 is accurate to 1e-12 of itself.
            np.testing.assert_allclose(found, expected, rtol=1e-12, atol=0, err_msg=name)


def test_the_stride_schedule_equals_the_official_one() -> None:
    schedule = diffusion.Schedule.spaced(diffusion.stride_spacing(10))
    assert list(schedule.kept) == IDDPM["timestep_map_ddim10"].tolist()
    np.testing.assert_allclose(schedule.alphas_cumprod, IDDPM["alphas_cumprod_ddim10"], rtol=1e-12, atol=0)


@pytest.mark.parametrize(
    ("sampler", "key"),
    [
        (samplers.create("iddpm", 10), "ddpm_samples"),
        (samplers.create("iddpm", 10, clip=1.0), "ddpm_clip_samples"),
        (samplers.create("ddim", 10), "ddim_samples"),
        (samplers.create("ddim", 10, spacing="stride"), "ddim_spaced_samples"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_every_state_of_a_diffusion_sampler_equals_the_official_one(sampler: Sampler, key: str) -> None:
    assert_same(walk(sampler), IDDPM[key])


def test_every_state_of_the_flow_sampler_equals_the_official_one() -> None:
    assert_same(walk(samplers.create("euler-maruyama", 10)), FLOW["sde_samples_10"])
    assert_same(walk(samplers.create("euler-maruyama", 250))[-2:], FLOW["sde_samples_250"])
    for steps in (10, 250):
        times = torch.tensor(samplers.create("euler-maruyama", steps).times)
        assert_same(times, FLOW[f"times_{steps}"], rtol=1e-7)  # stored as float32


def test_euler_equals_its_closed_form() -> None:
    """For the velocity 0.3 x cos t each step multiplies the state by 1 + 0.3 cos(t) / N."""
    factor = math.prod(1 + 0.3 * math.cos(step / 40) / 40 for step in range(40))
    assert_same(walk(samplers.create("euler", 40))[-1], X.double() * factor, rtol=1e-6)


def test_euler_converges_at_first_order() -> None:
    exact = X.double() * math.exp(0.3 * math.sin(1))
    errors = [(walk(samplers.create("euler", steps))[-1] - exact).abs().max().item() for steps in (80, 160)]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.02)


def test_dpm_solver_reaches_gaussian_data() -> None:
    """For normal data with mean 1 and spread s, the noise prediction is linear and the exact path is known."""
    pytest.importorskip("diffusers", reason="dpm-solver++ needs diffusers")
    spread = 0.5
    products = diffusion.Schedule.spaced().alphas_cumprod

    def gaussian(x: Tensor, t: Tensor) -> Tensor:
        product = products[int(t[0])]
        return ((1 - product).sqrt() * (x - product.sqrt()) / (product * spread**2 + 1 - product)).float()

    x = X[:1]
    found = samplers.create("dpm-solver++", 50).sample(gaussian, x, official_noise)
    start = products[-1]
    exact = 1 + spread * (x.double() - start.sqrt()) / (start * spread**2 + 1 - start).sqrt()
    # Seen: 6e-4; DDIM, of first order, is off by 8e-2 after as many steps.
    assert (found - exact).abs().max() < 2e-3
    assert (samplers.create("ddim", 50).sample(gaussian, x, official_noise) - exact).abs().max() > 5e-2


@pytest.mark.parametrize("name", ["iddpm", "ddim", "euler", "euler-maruyama"])
def test_the_state_stays_float32_and_is_not_modified_in_place(name: str) -> None:
    sampler = samplers.create(name, 4)
    model = fake_diffusion if sampler.prediction == "noise" else fake_flow
    seen = []
    start = X.clone()

    def half(x: Tensor, t: Tensor) -> Tensor:
        seen.append((x.dtype, t.dtype, t.shape))
        return model(x, t).bfloat16()

    states = list(sampler.trajectory(half, start, official_noise))
    kept = [state.clone() for state in islice(sampler.trajectory(half, start, official_noise), 4)]
    assert {state.dtype for state in states} == {torch.float32}
    assert set(seen) == {(torch.float32, torch.float32, (2,))}
    assert torch.equal(start, X)
    assert all(map(torch.equal, states, kept))


def test_noise_is_only_drawn_by_samplers_that_declare_it() -> None:
    asked: list[int] = []

    def count(step: int) -> Tensor:
        asked.append(step)
        return official_noise(step)

    for name, steps in (("iddpm", [0, 1, 2]), ("euler-maruyama", [0, 1, 2]), ("ddim", []), ("euler", [])):
        asked.clear()
        sampler = samplers.create(name, 4)
        sampler.sample(fake_diffusion if sampler.prediction == "noise" else fake_flow, X, count)
        assert asked == steps
        assert sampler.draws == bool(steps)


def test_training_terms_of_diffusion_equal_the_official_ones() -> None:
    schedule, data, t, drawn = (
        diffusion.Schedule.spaced(),
        IDDPM["train_x_start"],
        IDDPM["train_t"],
        IDDPM["train_noise"],
    )
    x = diffusion.add_noise(schedule, data, t, drawn)
    assert_same(x, IDDPM["train_x_t"])
    loss = diffusion.training_loss(schedule, fake_diffusion(x, t), data, x, t, drawn)
    assert_same(loss.mse, IDDPM["train_mse"])
    assert_same(loss.vb, IDDPM["train_vb"])
    assert_same(loss.total, IDDPM["train_loss"])


def test_the_bound_only_trains_the_variance() -> None:
    schedule, t = diffusion.Schedule.spaced(), torch.tensor([0, 500])
    x = diffusion.add_noise(schedule, IDDPM["train_x_start"], t, IDDPM["train_noise"])
    output = fake_diffusion(x, t).requires_grad_()
    diffusion.training_loss(schedule, output, IDDPM["train_x_start"], x, t, IDDPM["train_noise"]).vb.sum().backward()
    assert output.grad is not None and output.grad.isfinite().all()
    assert output.grad[:, :4].abs().max() == 0
    assert (output.grad[:, 4:].abs().amax(dim=(1, 2, 3)) > 0).all()


def test_the_first_term_of_the_bound_is_a_pixel_probability() -> None:
    """At t = 0 it is -log2 P of an 8-bit pixel; compared with the exact integral of the normal density."""
    schedule = diffusion.Schedule.spaced()
    pixels = torch.tensor([-1.0, -0.5, 128 / 127.5 - 1, 0.7, 1.0]).reshape(1, 1, 1, 5)
    t, eps, v = torch.tensor([0]), torch.full_like(pixels, 0.3), torch.full_like(pixels, -1.0)
    x = diffusion.add_noise(schedule, pixels, t, torch.full_like(pixels, 0.5))
    loss = diffusion.training_loss(schedule, torch.cat([eps, v], 1), pixels, x, t, torch.zeros_like(pixels))
    mean = (x.double() - math.sqrt(1e-4) * 0.3) / math.sqrt(1 - 1e-4)  # at t = 0 the mean equals the predicted data
    scale = math.exp(0.5 * float(schedule.posterior_log_variance_clipped[0]))
    high = torch.special.ndtr((pixels.double() + 1 / 255 - mean) / scale)
    low = torch.special.ndtr((pixels.double() - 1 / 255 - mean) / scale)
    high[..., -1], low[..., 0] = 1, 0
    # The tanh approximation of the published code differs from erf by 3e-4: far less than one bit in a thousand here.
    assert loss.vb.item() == pytest.approx((high - low).log2().neg().mean().item(), rel=2e-3)


def test_training_terms_of_flow_equal_the_official_ones() -> None:
    x, velocity = flow.add_noise(FLOW["train_data"], FLOW["train_t"], FLOW["train_noise"])
    assert_same(x, FLOW["train_x_t"])
    assert_same(velocity, FLOW["train_velocity"])
    found = flow.score(velocity, x, FLOW["train_t"].reshape(-1, 1, 1, 1))
    assert_same(found, FLOW["score_from_velocity"])
    assert_same(flow.training_loss(velocity + 0.5, velocity), torch.tensor([0.25, 0.25]))


def test_the_noise_of_an_image_does_not_depend_on_its_batch() -> None:
    alone = [PerImage(7, [image], (4, 8, 8)) for image in range(5)]
    together, other = PerImage(7, range(5), (4, 8, 8)), PerImage(8, range(5), (4, 8, 8))
    for step in (0, 249):
        assert torch.equal(torch.cat([each(step) for each in alone]), together(step))
    assert torch.equal(torch.cat([each.start() for each in alone]), together.start())
    draws = torch.cat([together.start(), together(0), together(1), other(0)])
    assert len({tuple(draw.flatten().tolist()) for draw in draws}) == 20
    assert abs(draws.mean().item()) < 0.05 and draws.std().item() == pytest.approx(1, abs=0.05)
    correlation = torch.corrcoef(draws.flatten(1)) - torch.eye(20)
    assert correlation.abs().max() < 0.25  # 1/16 is one standard deviation


def test_images_agree_between_batch_sizes() -> None:
    sampler = samplers.create("iddpm", 10)
    together = PerImage(3, range(5), (4, 8, 8))
    five = sampler.sample(fake_diffusion, together.start(), together)
    for image in range(5):
        own = PerImage(3, [image], (4, 8, 8))
        assert_same(sampler.sample(fake_diffusion, own.start(), own), five[image : image + 1])


def test_the_class_of_an_image_does_not_depend_on_its_batch() -> None:
    drawn = draw_classes(0, range(1000), 10)
    assert drawn[3:7] == draw_classes(0, range(3, 7), 10) and drawn != draw_classes(1, range(1000), 10)
    assert all(60 < drawn.count(label) < 140 for label in range(10))


@pytest.mark.parametrize(
    ("name", "steps", "message"),
    [
        ("idpm", 10, "did you mean iddpm?"),
        ("nonsense", 10, "the samplers are iddpm, ddim"),
        ("iddpm", 0, "between 1 and 1000"),
        ("ddim", 1001, "between 1 and 1000"),
        ("euler", 0, "at least 1"),
        ("euler-maruyama", 1, "at least 2"),
    ],
)
def test_an_invalid_sampler_is_refused_in_one_line(name: str, steps: int, message: str) -> None:
    with pytest.raises(UsageError, match=message.replace("?", r"\?")):
        samplers.create(name, steps)


def test_an_impossible_stride_is_refused() -> None:
    with pytest.raises(UsageError, match="no whole stride"):
        samplers.create("ddim", 999, spacing="stride")


@pytest.mark.parametrize("shift", [0.3, 1.0, 3.0])
def test_shifted_euler_steps(shift: float) -> None:
    """Along a constant velocity any steps end at the same place; the share of noise is moved by the inverse."""
    made = samplers.create("euler", 10, shift=shift)
    assert made.times[0] == 0 and len(made.times) == 10
    for step, t in enumerate(made.times):
        u = step / 10
        assert t == pytest.approx(shift * u / (1 + (shift - 1) * u), abs=1e-15)
        assert 1 - t == pytest.approx(flow.shifted_time(1 - u, 1 / shift), abs=1e-15)
    last = made.sample(lambda x, t: torch.full_like(x, 2.0), X, official_noise)
    assert_same(last, X + 2, rtol=1e-6)


@pytest.mark.parametrize(
    ("id", "name", "shift"),
    [
        ("lightningdit_b_1", "euler", 0.3),
        ("ddt_b_2", "euler", 1.0),
        ("flowdcn_s_2", "euler-maruyama", 1.0),
        ("mdtv2_s_2", "iddpm", 1.0),
    ],
)
def test_the_samplers_of_the_rivals(id: str, name: str, shift: float) -> None:
    made = sampler_for(find(id), None, None)
    assert (made.name, made.steps) == (name, 250)
    if name == "euler":
        assert made.times == samplers.create("euler", 250, shift=shift).times
    assert f"sampler={name}" in str(Plan.of_text("cfg=3", find(id)))
