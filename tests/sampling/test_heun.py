"""Heun's samplers and the shifted flow against closed forms in float64, and the shift against diffusers' scheduler."""

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from convbench.catalogue import find
from convbench.errors import UsageError
from convbench.sampling import diffusion, flow, heun, sampler_names, samplers
from convbench.sampling.guidance import guided
from convbench.sampling.images import sampler_for
from convbench.sampling.plan import Plan
from convbench.sampling.sampler import Sampler

X = torch.randn(2, 4, 8, 8, generator=torch.Generator().manual_seed(0))
SPREAD = 0.5  # of Gaussian data with mean 1


def no_noise(step: int) -> Tensor:
    raise AssertionError("these samplers draw none")


def wide(t: Tensor) -> Tensor:
    return t.double()[:, None, None, None]


def denoised(x: Tensor, sigma: Tensor) -> Tensor:
    """E[data | x] where x = data + sigma noise."""
    share = SPREAD**2 / (SPREAD**2 + wide(sigma) ** 2)
    return (1 + share * (x.double() - 1)).float()


def data_of_flow(x: Tensor, t: Tensor, noise: float = 1.0) -> Tensor:
    """E[data | x] where x = t data + (1 - t) noise."""
    t = wide(t)
    variance = (t * SPREAD) ** 2 + ((1 - t) * noise) ** 2
    return (1 + t * SPREAD**2 / variance * (x.double() - t)).float()


def velocity_to_noise(x: Tensor, t: Tensor) -> Tensor:
    """E[noise - data | x] where x = sigma noise + (1 - sigma) data, sigma = t / 1000."""
    sigma = wide(t) / 1000
    variance = ((1 - sigma) * SPREAD) ** 2 + sigma**2
    centred = x.double() - (1 - sigma)
    return ((sigma - (1 - sigma) * SPREAD**2) / variance * centred - 1).float()


def end(sampler: Sampler, model: object) -> Tensor:
    return sampler.sample(model, X, no_noise).double()  # type: ignore[arg-type]


# ---- places and evaluations, by hand ----


def test_noise_levels_by_hand() -> None:
    """Karras et al. 2022, eq. 5 with rho 7: the fifth root in the middle of three is the mean of the outer ones."""
    levels = heun.noise_levels(3)
    assert levels[0] == pytest.approx(80, rel=1e-12) and levels[2] == pytest.approx(0.002, rel=1e-12)
    assert levels[1] == pytest.approx(((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7, rel=1e-12)
    assert levels[3] == 0 and len(heun.noise_levels(32)) == 33


def test_a_step_is_two_evaluations_and_the_last_is_one() -> None:
    assert samplers.create("heun", 4).times == (0, 0.25, 0.25, 0.5, 0.5, 0.75, 0.75)
    assert samplers.create("heun", 1).times == (0,)
    levels = heun.noise_levels(3)
    assert samplers.create("heun-edm", 3).times == (levels[0], levels[1], levels[1], levels[2], levels[2])
    assert samplers.create("heun-edm", 32).steps == 63 and samplers.create("heun", 50).steps == 99


def test_one_step_of_heun_by_hand() -> None:
    """Data 0 everywhere: dx / dt = -x / (1 - t), twice, then Euler's step of the last half."""
    states = list(samplers.create("heun", 2).trajectory(lambda x, t: torch.zeros_like(x), X, no_noise))
    torch.testing.assert_close(states[0], 0.5 * X)  # x' = x - 0.5 x
    torch.testing.assert_close(states[1], X - 0.25 * (X + 0.5 * X / 0.5))  # the mean of both slopes
    torch.testing.assert_close(states[2], states[1] * (1 - 0.5 / 0.5))


def test_shift_by_hand() -> None:
    assert flow.shifted_time(0.5, 3) == 0.75 and flow.shifted_time(1, 3) == 1 and flow.shifted_time(0, 3) == 0
    assert flow.shifted_time(0.3, 1) == pytest.approx(0.3)
    assert samplers.create("euler-shift", 2).times == (1000, 750)


# ---- a Gaussian, whose path is known ----


def test_edm_reaches_the_data_of_a_gaussian_at_second_order() -> None:
    """x - 1 shrinks as the root of the variance: from 80^2 + s^2 to s^2."""
    exact = 1 + (80 * X.double() - 1) * SPREAD / math.sqrt(80**2 + SPREAD**2)
    errors = [(end(samplers.create("heun-edm", steps), denoised) - exact).abs().max().item() for steps in (16, 32, 64)]
    assert errors[1] < 5e-2
    assert errors[0] / errors[1] > 3.5 and errors[1] / errors[2] > 3.5


def runge_kutta(noise: float, steps: int = 1000) -> Tensor:
    """JiT's path in float64 by the classical method of fourth order: its last 0.05 go slower than the flow."""

    def slope(x: Tensor, t: float) -> Tensor:
        variance = (t * SPREAD) ** 2 + ((1 - t) * noise) ** 2
        return (1 + t * SPREAD**2 / variance * (x - t) - x) / max(1 - t, 0.05)

    x, h = noise * X.double(), 1 / steps
    for step in range(steps):
        t = step * h
        a = slope(x, t)
        b = slope(x + h / 2 * a, t + h / 2)
        c = slope(x + h / 2 * b, t + h / 2)
        x = x + h / 6 * (a + 2 * b + 2 * c + slope(x + h * c, t + h))
    return x


@pytest.mark.parametrize("noise", [1.0, 2.0])
def test_jits_heun_follows_its_path_at_second_order(noise: float) -> None:
    exact = runge_kutta(noise)
    assert (exact - 1 - SPREAD * X).abs().max() < 0.1  # about the data
    errors = [
        (end(samplers.create("heun", steps, noise=noise), lambda x, t: data_of_flow(x, t, noise)) - exact).abs().max()
        for steps in (80, 160)
    ]
    assert errors[1] < 2e-3
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.1)


def test_jits_heun_is_of_second_order_before_the_last_steps() -> None:
    """At t = 0.5: mean 0.5, variance from 1 to (s / 2)^2 + 1 / 4."""
    exact = 0.5 + X.double() * math.sqrt(0.25 * SPREAD**2 + 0.25)
    errors = []
    for steps in (10, 20):
        states = list(samplers.create("heun", steps).trajectory(data_of_flow, X, no_noise))
        errors.append((states[steps - 1].double() - exact).abs().max().item())
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.3)


def test_the_shifted_flow_reaches_the_data_of_a_gaussian_at_first_order() -> None:
    exact = 1 + SPREAD * X.double()
    errors = [
        (end(samplers.create("euler-shift", steps), velocity_to_noise) - exact).abs().max().item()
        for steps in (100, 200, 400)
    ]
    assert errors[0] / errors[1] == pytest.approx(2, rel=0.1) and errors[1] / errors[2] == pytest.approx(2, rel=0.1)
    assert errors[2] < 2e-2


def test_every_state_of_the_shifted_flow_is_that_of_diffusers() -> None:
    """Its scheduler for flow matching, given the same unshifted shares of noise."""
    diffusers = pytest.importorskip("diffusers")
    steps = 7
    scheduler = diffusers.FlowMatchEulerDiscreteScheduler(shift=3.0)
    scheduler.set_timesteps(sigmas=np.linspace(1, 1 / steps, steps))
    x = X.clone()
    states = samplers.create("euler-shift", steps).trajectory(velocity_to_noise, X, no_noise)
    for t, state in zip(scheduler.timesteps, states, strict=True):
        x = scheduler.step(velocity_to_noise(x, t.expand(2)), t, x, return_dict=False)[0]
        torch.testing.assert_close(state, x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ["heun", "heun-edm", "euler-shift"])
def test_the_state_stays_float32_and_trajectories_are_independent(name: str) -> None:
    made = samplers.create(name, 4)

    def half(x: Tensor, t: Tensor) -> Tensor:
        return (0.3 * x).bfloat16()

    kept = X.clone()
    first, second = made.trajectory(half, X, no_noise), made.trajectory(half, X, no_noise)
    states = [(next(first), next(second)) for _ in range(made.steps)]
    assert all(torch.equal(a, b) and a.dtype == torch.float32 for a, b in states)
    assert torch.equal(X, kept)


@pytest.mark.parametrize(("name", "steps"), [("heun", 0), ("heun-edm", 1), ("euler-shift", 0)])
def test_too_few_steps_are_refused(name: str, steps: int) -> None:
    with pytest.raises(UsageError, match=f"--steps {steps}: must be at least"):
        samplers.create(name, steps)


# ---- which sampler suits which network ----


@pytest.mark.parametrize("name", sampler_names.PREDICTS)
def test_every_sampler_matches_the_table(name: str) -> None:
    if name == "dpm-solver++":
        pytest.importorskip("diffusers")
    made = samplers.create(name, 4)
    assert (made.name, made.prediction) == (name, sampler_names.PREDICTS[name])
    assert set(sampler_names.DEFAULT) == set(sampler_names.DETERMINISTIC) == set(sampler_names.PREDICTS.values())
    assert made.draws is False or sampler_names.DETERMINISTIC[made.prediction] != name


def test_jit_uses_its_own_sampler_noise_and_steps() -> None:
    small, large = sampler_for(find("jit_b_16"), None, None), sampler_for(find("jit_b_32"), None, None)
    assert (small.name, small.steps, small.start, large.start) == ("heun", 99, 1, 2)
    with pytest.raises(UsageError, match=r"^jit_b_16 predicts data, ddim needs noise: use heun$"):
        sampler_for(find("jit_b_16"), "ddim", 10)
    assert str(Plan.of_text("cfg=3", find("jit_b_16"))) == "steps=50,cfg=3,decode=no,sampler=heun"
    assert Plan.of_text("cfg=1", find("dic_s")).steps == 250


# ---- guidance within an interval ----


def test_guidance_applies_within_its_interval() -> None:
    """without + s (with - without) inside, as with the class outside; both ends of (0.1, 1) lie outside."""
    y = torch.tensor([3, 3, 3])

    def step(x: Tensor, t: Tensor, y: Tensor) -> Tensor:
        return x + y[:, None, None, None]

    out = guided(step, y, 10, 2.0, 4, (0.1, 1))(torch.zeros(3, 4, 1, 1), torch.tensor([0.1, 0.5, 1.0]))
    assert out[:, :, 0, 0].tolist() == [[3.0] * 4, [-4.0] * 4, [3.0] * 4]


# ---- the path of DDIM ----


def noise_in(x: Tensor, t: Tensor) -> Tensor:
    """E[noise | x] where x = sqrt(a) data + sqrt(1 - a) noise, with a of the step t."""
    product = diffusion.Schedule.spaced().alphas_cumprod[t.long()][:, None, None, None]
    variance = product * SPREAD**2 + 1 - product
    return ((1 - product).sqrt() * (x.double() - product.sqrt()) / variance).float()


def test_heun_on_the_path_of_ddim_ends_where_many_small_steps_end() -> None:
    """At as many evaluations it is nearer than DDIM; both approach the same images."""
    exact = end(samplers.create("ddim", 1000), noise_in)
    far, near, ddim = (
        (end(samplers.create(name, steps), noise_in) - exact).norm()
        for name, steps in (("heun-ddim", 50), ("heun-ddim", 200), ("ddim", 399))
    )
    assert near < 0.6 * far and near < ddim


def test_heun_on_the_path_of_ddim_by_hand() -> None:
    """Two steps: from t = 999 to 0 with the mean of both slopes, then to the data with one evaluation."""
    products = diffusion.Schedule.spaced().alphas_cumprod[[999, 0]].tolist()
    sigmas = [math.sqrt(1 / product - 1) for product in products] + [0.0]
    slopes = iter([0.5, 1.5, 2.0])
    made = samplers.create("heun-ddim", 2)
    assert made.times == (999.0, 0.0, 0.0) and made.steps == 3
    found = end(made, lambda x, t: torch.full_like(x, next(slopes)))
    expected = X.double() / math.sqrt(products[0]) + (sigmas[1] - sigmas[0]) * (0.5 + 1.5) / 2 - sigmas[1] * 2.0
    assert torch.allclose(found, expected, rtol=1e-5, atol=1e-4 * sigmas[0])
    with pytest.raises(UsageError, match="--steps 1: must be at least 2"):
        samplers.create("heun-ddim", 1)
