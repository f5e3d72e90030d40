# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 5. Diffusion and flow matching
#
# Samples are drowned in noise, and a network learns to take it away again. At time $t \in [0, 1]$
#
# $$ z_t = \alpha_t\, x + \sigma_t\, \epsilon, \quad \epsilon\sim\mathcal N(0, 1), \qquad
#    \lambda_t = \ln(\alpha_t^2/\sigma_t^2) \quad\text{falling.} $$
#
# All that has to be learned is the mean of what a noisy sample may have been, $\hat x(z) = \langle x \mid z\rangle$. It
# minimises the squared error, and Tweedie's formula makes the *score* of it,
#
# $$ \nabla_z \log p_t(z) = \frac{\alpha_t\, \hat x(z) - z}{\sigma_t^2} . $$
#
# The reversed stochastic process, and the ordinary differential equation with the same densities at all times
# (the probability flow), need nothing else.
#
# Papers: Sohl-Dickstein et al., arXiv 1503.03585; DDPM (Ho, Jain, Abbeel, arXiv 2006.11239); the score and both
# equations (Song et al., arXiv 2011.13456); flow matching (Lipman et al., arXiv 2210.02747); EDM (Karras et
# al., arXiv 2206.00364).

# %%
import math
import tempfile
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import torch

import physgen
from physgen.surrogates.sampler_options import SamplerOptions

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A density whose score is known at all levels of noise
#
# Five normal blobs of width $s = 0.15$ on a circle. With noise they remain normal, of variance
# $v = \alpha^2 s^2 + \sigma^2$ around $\alpha m_k$, and with the posterior odds $\pi_k(z)$ of the blobs
#
# $$ \hat x(z) = \sum_k \pi_k(z) \Big[ m_k + \frac{\alpha s^2}{v}\, (z - \alpha m_k) \Big] . $$

# %%
WIDTH = 0.15
angles = 2 * math.pi * torch.arange(5) / 5 + math.pi / 2
MEANS = 1.3 * torch.stack([angles.cos(), angles.sin()], 1)


def draw_blobs(n, seed):
    generator = torch.Generator().manual_seed(seed)
    blob = torch.randint(5, (n,), generator=generator)
    return MEANS[blob] + WIDTH * torch.randn(n, 2, generator=generator)


def log_density(z, alpha=1.0, sigma=0.0):
    variance = alpha**2 * WIDTH**2 + sigma**2
    square = torch.cdist(z, alpha * MEANS).square()
    return torch.logsumexp(-0.5 * square / variance, 1) - math.log(5 * 2 * math.pi * variance)


def exact_mean(z, alpha, sigma):
    variance = alpha**2 * WIDTH**2 + sigma**2
    odds = torch.softmax(-0.5 * torch.cdist(z, alpha * MEANS).square() / variance, 1)
    shrink = alpha * WIDTH**2 / variance
    return odds @ MEANS + shrink * (z - alpha * odds @ MEANS)


with h5py.File(folder / "blobs.h5", "w") as file:
    file["x"], file["y"] = draw_blobs(20_000, seed=1).T.numpy()

# %% [markdown]
# ## Two ways to train the same network
#
# **Diffusion**: a cosine schedule, $\alpha^2 + \sigma^2 = 1$. **Flow matching**: the straight path $\alpha = 1 - t$, $\sigma = t$,
# on which the network learns the velocity $dz/dt = \epsilon - x$; pairs of noise and samples are drawn at random,
# or by **optimal transport** within a batch (Tong et al., arXiv 2302.00482), which straightens the lines.

# %%
network = {"kind": "residual", "hidden": 64, "depth": 2}
straight = {"kind": "diffusion-flow", "integration_steps": 12, "network": network}
kinds = {
    "diffusion": (
        {"kind": "diffusion", "schedule": "cosine", "prediction": "v", "network": network},
        {"kind": "denoising", "learning_rate": 0.003},
    ),
    "flow matching": (
        straight,
        {"kind": "flow-matching", "coupling": "independent", "learning_rate": 0.003},
    ),
    "with transport": (
        straight,
        {"kind": "flow-matching", "coupling": "optimal-transport", "learning_rate": 0.003},
    ),
}
table = {"path": str(folder / "blobs.h5"), "fields": ["x", "y"], "weight": None, "group": None}
models = {}
for name, (surrogate, method) in kinds.items():
    run = physgen.train(
        "events-flow",
        {"transform": [], "surrogate": surrogate, "method": method},
        data=table,
        engine={"steps": 1200, "batch_size": 256, "evaluate_every": 400},
        runs=folder / "runs",
        score=False,
        track=False,
    )
    models[name] = physgen.load(run).surrogate

# %% [markdown]
# ## Has it learned the score?
#
# The field of $\hat x(z) - z$ at three levels of noise, over the density $p_t$; and the error of the network, beside
# the spread of $x$ that a perfect network leaves.

# %%
model = models["diffusion"]
schedule = model.schedule
axis = torch.linspace(-2.2, 2.2, 15)
places = torch.cartesian_prod(axis, axis)
fine = torch.linspace(-2.2, 2.2, 90)
figure, axes = plt.subplots(1, 3, figsize=(10, 3.4), dpi=70)
for ax, time in zip(axes, (0.1, 0.4, 0.7), strict=True):
    log_snr = schedule.log_snr(torch.tensor(time))
    alpha, sigma = (one.item() for one in schedule.amplitudes(log_snr))
    density = log_density(torch.cartesian_prod(fine, fine), alpha, sigma).exp().reshape(90, 90).T
    ax.imshow(density, origin="lower", extent=(-2.2, 2.2, -2.2, 2.2), cmap="Greys")
    with torch.no_grad():
        learned = model.denoise(None)(places, log_snr)
    for means, colour in ((exact_mean(places, alpha, sigma), "C0"), (learned, "C1")):
        ax.quiver(*places.T, *(alpha * means - places).T, color=colour, scale=30, width=0.004)
    ax.set_title(f"t = {time}: exact (blue), learned (orange)", fontsize=9)
plt.show()

# %%
x, generator = draw_blobs(4000, seed=2), torch.Generator().manual_seed(3)
noise = torch.randn(4000, 2, generator=generator)
print("   t    network - exact   spread of x given z")
for time in (0.05, 0.2, 0.4, 0.6, 0.8):
    log_snr = schedule.log_snr(torch.tensor(time))
    alpha, sigma = (one.item() for one in schedule.amplitudes(log_snr))
    z = alpha * x + sigma * noise
    with torch.no_grad():
        learned = model.denoise(None)(z, log_snr)
    best = exact_mean(z, alpha, sigma)
    error = (learned - best).square().mean().sqrt().item()
    spread = (x - best).square().mean().sqrt().item()
    print(f"{time:5.2f}   {error:.4f}            {spread:.4f}")

# %% [markdown]
# ## Samplers
#
# What is left is to solve an equation. The ancestral sampler of DDPM adds noise in every step; DDIM (arXiv
# 2010.02502), DPM-Solver++ (arXiv 2211.01095) and Heun's method follow the probability flow to first and second
# order. The energy distance $2\langle|x - y|\rangle - \langle|x - x'|\rangle - \langle|y - y'|\rangle$ to the truth says how many
# steps are needed; the floor is that between two true samples.


# %%
def energy_distance(x, y):
    within = torch.cdist(x, x).sum() / (len(x) * (len(x) - 1))
    other = torch.cdist(y, y).sum() / (len(y) * (len(y) - 1))
    return (2 * torch.cdist(x, y).mean() - within - other).item()


truth = draw_blobs(3000, seed=4)
floor = abs(energy_distance(truth, draw_blobs(3000, seed=5)))
counts = (2, 4, 8, 16, 32, 64)
figure, ax = plt.subplots(figsize=(5, 3), dpi=70)
for kind in ("ancestral", "ddim", "dpm-solver", "heun"):
    distances = []
    for steps in counts:
        model.use_sampler(SamplerOptions(kind=kind, steps=steps))
        distances.append(abs(energy_distance(model.sample(3000, seed=6).x, truth)))
    ax.plot(counts, distances, "o-", label=kind)
    print(f"{kind:10}", " ".join(f"{one:.4f}" for one in distances))
print(f"floor      {floor:.4f}")
ax.axhline(floor, color="k", lw=1, label="truth")
ax.set(xscale="log", yscale="log", xlabel="steps", ylabel="energy distance")
ax.legend()
plt.show()

# %% [markdown]
# ## Paths
#
# The same noise is followed to the data. How curved is a path? Its length beside that of the straight line
# between its ends, less one, is 0 for lines; in the figure in the coordinates in which $\alpha + \sigma = 1$.


# %%
def path(model, start, steps=40):
    grid = model.schedule.grid(steps, "time", start)
    size = grid.alpha + grid.sigma
    tau = grid.sigma / size
    u = model.start() * start / size[0]
    states = [u]
    with torch.no_grad():
        for i in range(steps):
            x = model.denoise(None)(u * size[i], grid.log_snr[i])
            u = u + (tau[i + 1] - tau[i]) * (u - x) / tau[i]
            states.append(u)
    return torch.stack(states, 1)


start = torch.randn(2000, 2, generator=torch.Generator().manual_seed(7))
figure, axes = plt.subplots(1, 3, figsize=(10, 3.3), dpi=70)
curvature = {}
for ax, (name, one) in zip(axes, models.items(), strict=True):
    paths = path(one, start)
    length = (paths[:, 1:] - paths[:, :-1]).norm(dim=2).sum(1)
    curvature[name] = (length.sum() / (paths[:, -1] - paths[:, 0]).norm(dim=1).sum() - 1).item()
    for line in paths[:80]:
        ax.plot(*line.T, lw=0.5, color="C0")
    ax.scatter(*paths[:500, -1].T, s=1, color="C1", rasterized=True)
    ax.set(xlim=(-3, 3), ylim=(-3, 3), title=f"{name}: excess length {curvature[name]:.3f}")
plt.show()

# %% [markdown]
# ## An exact density, after all
#
# The probability flow is a continuous normalizing flow: with $dz/dt = v(z, t)$
#
# $$ \frac{d \log p_t(z_t)}{dt} = -\nabla\cdot v(z_t, t) . $$
#
# Followed by Runge-Kutta steps it gives $\log q$, and thus the distance from the truth, as in chapter 4.

# %%
x = draw_blobs(2000, seed=8)
for name in ("flow matching", "with transport"):
    for steps in (12, 24, 48):
        models[name].integration_steps = steps
        log_q = models[name].log_prob(physgen.Batch(x)).detach()
        difference = log_density(x) - log_q
        error = difference.std().item() / math.sqrt(len(x))
        print(
            f"{name:15} {steps} steps: KL(p||q) = {difference.mean().item():+.4f} +- {error:.4f} nats"
        )

# %% [markdown]
# No divergence is negative: where the sign is wrong, the steps were too few for the number to be a density, and
# more steps are the check. Paths that are nearly straight need fewer of them.

# %% [markdown]
# ## Exercises
#
# **1.** Derive Tweedie's formula from $p_t(z) = \int p(x)\, \mathcal N(z; \alpha x, \sigma^2)\, dx$, and check it for the blobs by automatic
# differentiation of $\log p_t$.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
# d/dz of the normal density is (alpha x - z) / sigma^2 times it; the mean over x given z is the formula.
alpha, sigma = 0.8, 0.6
z = torch.randn(1000, 2, generator=generator).requires_grad_()
(score,) = torch.autograd.grad(log_density(z, alpha, sigma).sum(), z)
tweedie = (alpha * exact_mean(z, alpha, sigma) - z) / sigma**2
print(f"largest difference {(score - tweedie).abs().max().item():.1e}")
assert torch.allclose(score, tweedie, atol=1e-4)

# %% [markdown]
# **2.** *A perfect network.* Run DDIM with `exact_mean` in the place of the network, in 4, 16 and 64 steps. Which
# part of the error above is the network's, which is that of the steps?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
from physgen.surrogates.diffusion.sampler import ddim

noise = model.start() * torch.randn(3000, 2, generator=torch.Generator().manual_seed(6))


def perfect(z, log_snr):
    alpha, sigma = schedule.amplitudes(log_snr)
    return exact_mean(z, alpha, sigma)


for steps in (4, 16, 64):
    made = ddim(perfect, noise, schedule.grid(steps, "time", noise))
    model.use_sampler(SamplerOptions(kind="ddim", steps=steps))
    learned = abs(energy_distance(model.sample(3000, seed=6).x, truth))
    print(
        f"{steps:3} steps: perfect {abs(energy_distance(made, truth)):.4f}, network {learned:.4f}"
    )

# %% [markdown]
# **3.** *Few steps.* Take 2, 4 and 8 Euler steps on the straight path with and without transport (DDIM is Euler
# there). Does the straighter flow win?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
for name in ("flow matching", "with transport"):
    distances = [
        abs(energy_distance(path(models[name], start, steps=steps)[:, -1], truth[:2000]))
        for steps in (2, 4, 8)
    ]
    print(f"{name:15}", " ".join(f"{one:.4f}" for one in distances))

# %% [markdown]
# **4.** *When does a sample decide?* From which time on does the blob that a path is closest to no longer change?
# Draw the share of decided paths against $t$, by the exact posterior odds: decided is $\max_k \pi_k > 0.95$.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
x = draw_blobs(4000, seed=9)
noise = torch.randn(4000, 2, generator=generator)
times, shares = torch.linspace(0.02, 0.98, 25), []
for time in times:
    alpha, sigma = schedule.amplitudes(schedule.log_snr(time))
    z = alpha * x + sigma * noise
    variance = alpha**2 * WIDTH**2 + sigma**2
    odds = torch.softmax(-0.5 * torch.cdist(z, alpha * MEANS).square() / variance, 1)
    shares.append((odds.max(1).values > 0.95).double().mean().item())
figure, ax = plt.subplots(figsize=(4.5, 2.4), dpi=70)
ax.plot(times, shares, "o-")
ax.set(xlabel="t", ylabel="decided")
plt.show()

# %% [markdown]
# **Where next?** `digits-ddpm`, `digits-ddim`, `digits-edm`, `digits-dpm-solver` (samplers and schedules),
# `digits-guided-ddpm` (guidance), `digits-vdm` (a learned schedule), `digits-flow-matching` and
# `digits-ot-flow-matching`; `calo-ddpm` and `calo-flow-matching` are models of showers.
