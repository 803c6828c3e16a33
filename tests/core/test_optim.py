import numpy as np
import pytest
import torch
from timm.scheduler import CosineLRScheduler

from alignet_ray.core.optim import decay_to_init, l2_to_init, update_ema, warmup_cosine


@pytest.mark.parametrize(("steps", "warmup"), [(50, 10), (30, 0), (7, 7)])
def test_schedule_equals_timm(steps, warmup):
    weight = torch.nn.Parameter(torch.zeros(1))
    optimizer = torch.optim.SGD([weight], lr=0.3)
    theirs = CosineLRScheduler(
        optimizer, t_initial=max(1, steps - warmup), warmup_t=warmup, warmup_prefix=True, t_in_epochs=False
    )
    for step in range(steps):
        theirs.step_update(step)
        assert warmup_cosine(step, steps, warmup, 0.3) == pytest.approx(optimizer.param_groups[0]["lr"], abs=1e-12)
    assert warmup_cosine(steps, steps, warmup, 0.3) == pytest.approx(0 if warmup < steps else 0.3)


def numpy_run(theta, gradient, steps, lr, strength):
    """Adam(.9, .999, 1e-8), then the pull to the start, then the schedule: transcribed from the formulas alone."""
    start, m, v = theta.copy(), np.zeros_like(theta), np.zeros_like(theta)
    for step in range(steps):
        g = gradient(theta)
        m, v = 0.9 * m + 0.1 * g, 0.999 * v + 0.001 * g**2
        adam = (m / (1 - 0.9 ** (step + 1))) / (np.sqrt(v / (1 - 0.999 ** (step + 1))) + 1e-8)
        rate = lr * step / 10 if step < 10 else lr * 0.5 * (1 + np.cos(np.pi * (step - 10) / (steps - 10)))
        theta = theta - rate * (adam + strength * (theta - start))
    return theta


def test_fifty_steps_equal_the_numpy_transcription():
    rng = np.random.default_rng(0)
    matrix, start = rng.normal(size=(6, 6)), rng.normal(size=6)
    expected = numpy_run(start, lambda x: matrix.T @ (matrix @ x) + np.sin(x), 50, 0.05, 1.0)
    theta = torch.nn.Parameter(torch.tensor(start))
    initial, a = [theta.detach().clone()], torch.tensor(matrix)
    optimizer = torch.optim.Adam([theta], lr=1.0)
    for step in range(50):
        rate = warmup_cosine(step, 50, 10, 0.05)
        optimizer.param_groups[0]["lr"] = rate
        theta.grad = (a.T @ (a @ theta) + theta.sin()).detach()
        decay_to_init([theta], initial, rate * 1.0)
        optimizer.step()
    assert np.allclose(theta.detach().numpy(), expected, rtol=0, atol=1e-12)


def test_l2_form_is_the_gradient_of_half_the_squared_distance():
    rng = np.random.default_rng(1)
    theta = torch.nn.Parameter(torch.tensor(rng.normal(size=5)))
    initial = torch.tensor(rng.normal(size=5))
    loss = theta.sin().sum()
    (expected,) = torch.autograd.grad(loss + 0.7 / 2 * (theta - initial).square().sum(), [theta], retain_graph=True)
    loss.backward()
    l2_to_init([theta], [initial], 0.7)
    assert theta.grad is not None
    torch.testing.assert_close(theta.grad, expected)


def test_moving_average():
    average, theta = [torch.zeros(2)], [torch.ones(2)]
    update_ema(average, theta, 0.9)
    update_ema(average, theta, 0.9)
    assert torch.allclose(average[0], torch.full((2,), 0.19))
