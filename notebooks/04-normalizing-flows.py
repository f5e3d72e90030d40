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
# # 4. Normalizing flows
#
# A flow is an invertible map $z = f(x)$ from samples to noise of a known density, most often
# $r(z) = \mathcal N(z; 0, 1)$. The density that it gives to samples is exact:
#
# $$ \log q(x) = \log r(f(x)) + \log\left|\det\frac{\partial f}{\partial x}\right| , \qquad
#    x = f^{-1}(z),\; z \sim r . $$
#
# All of the art is in maps whose inverse *and* determinant are cheap. Three of them are trained here on
# a density that is known, so that their distance from the truth is a number, and not an impression.
#
# Papers: RealNVP (Dinh, Sohl-Dickstein, Bengio, arXiv 1605.08803), MAF (Papamakarios, Pavlakou, Murray,
# arXiv 1705.07057), neural spline flows (Durkan et al., arXiv 1906.04032), and the review by
# Papamakarios et al., arXiv 1912.02762.

# %%
import math
import tempfile
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import torch

import physgen

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A density that is known
#
# A ring of radius $R = 2$ and width $\sigma = 0.25$: the angle is uniform and $\rho = |x|$ normal, so that
# $p(x) = \mathcal N(\rho; R, \sigma) / 2\pi\rho$. A normal density has no hole and a ring has one, and a
# continuous invertible map cannot tear one open: this is a hard case for every flow.


# %%
R, SIGMA = 2.0, 0.25


def draw_ring(n, seed):
    rng = np.random.default_rng(seed)
    angle, rho = rng.uniform(0, 2 * math.pi, n), rng.normal(R, SIGMA, n)
    return np.stack([rho * np.cos(angle), rho * np.sin(angle)], 1)


def log_p(x):
    rho = torch.as_tensor(x).norm(dim=1)
    normal = -0.5 * ((rho - R) / SIGMA) ** 2 - math.log(SIGMA * math.sqrt(2 * math.pi))
    return normal - torch.log(2 * math.pi * rho)


with h5py.File(folder / "ring.h5", "w") as file:
    file["x"], file["y"] = draw_ring(20_000, seed=1).T

# %% [markdown]
# ## Three bijections, one method
#
# **Coupling** (RealNVP). One half of the coordinates passes, and decides what is done to the other:
#
# $$ z_a = x_a, \qquad z_b = x_b \odot e^{s(x_a)} + t(x_a), \qquad
#    \log|\det| = \textstyle\sum_j s_j(x_a) . $$
#
# **Spline coupling.** The same, with a monotone piecewise rational-quadratic function in the place of the
# affine one: a single layer may be bimodal.
#
# **Autoregressive** (MAF). $z_i = (x_i - \mu_i(x_{<i}))\, e^{-s_i(x_{<i})}$: the Jacobian is triangular. All
# densities take one pass, a sample one pass a coordinate.
#
# All are trained by maximum likelihood: the mean of $-\log q$ over the data is the cross entropy, and
# its excess over the entropy of the data is the distance
# $D_\mathrm{KL}(p\,\|\,q) = \langle \log p - \log q\rangle_p \ge 0$.

# %%
bijections = {
    "affine coupling": {"kind": "coupling", "layer": "affine", "n_layers": 6, "hidden": [32, 32]},
    "spline coupling": {"kind": "coupling", "layer": "spline", "n_layers": 4, "hidden": [32, 32]},
    "autoregressive": {"kind": "autoregressive", "n_layers": 6, "hidden": 32},
}
table = {"path": str(folder / "ring.h5"), "fields": ["x", "y"], "weight": None, "group": None}
flows = {}
for name, bijection in bijections.items():
    run = physgen.train(
        "events-flow",
        {"transform": [{"kind": "standardise"}], "surrogate.bijection": bijection},
        data={**table, "split": [0.8, 0.1, 0.1]},
        method={"learning_rate": 0.005, "weight_decay": 0.0},
        engine={"steps": 1000, "batch_size": 512},
        runs=folder / "runs",
        score=False,
        track=False,
    )
    flows[name] = physgen.load(run)

# %% [markdown]
# New samples of the ring measure the distance; its error is that of a mean.

# %%
test = torch.tensor(draw_ring(20_000, seed=2), dtype=torch.float32)


def log_q(flow, x):
    with torch.no_grad():
        return flow.surrogate.log_prob(physgen.Batch(torch.as_tensor(x, dtype=torch.float32)))


divergence = {}
for name, flow in flows.items():
    difference = log_p(test) - log_q(flow, test)
    divergence[name] = difference.mean().item()
    error = difference.std().item() / math.sqrt(len(test))
    print(f"{name:16} KL(p||q) = {divergence[name]:.4f} +- {error:.4f} nats")

# %%
axis = torch.linspace(-3.2, 3.2, 161)
grid = torch.cartesian_prod(axis, axis)
cell = (axis[1] - axis[0]).item() ** 2
densities = {"truth": log_p(grid).exp()}
densities |= {name: log_q(flow, grid).exp() for name, flow in flows.items()}

figure, axes = plt.subplots(1, 4, figsize=(12, 3.2), dpi=70)
for ax, (name, density) in zip(axes, densities.items(), strict=True):
    picture = density.reshape(161, 161).T
    ax.imshow(picture, origin="lower", extent=(-3.2, 3.2, -3.2, 3.2), vmax=0.16, cmap="magma")
    ax.set_title(name)
    print(f"{name:16} integral over the square {density.sum().item() * cell:.4f}")
plt.show()

# %% [markdown]
# Every density is normalised, without anybody having imposed it: it is one by construction. Where the ring
# is cut, or thin, the topological price is paid: the map is a homeomorphism, and the image of the plane
# has no hole, only a place where the density is small. Affine layers pay most, since each of them can only
# shift and stretch one coordinate; splines fold.
#
# ## Layer by layer
#
# Noise turns into a ring by the layers of the map. Samples are coloured by the angle of their noise:
# neighbours remain neighbours. (The coordinates are those behind `standardise`, in which the ring has the
# radius $\sqrt 2$; every layer hands on its halves exchanged.)

# %%
stack = flows["affine coupling"].surrogate.bijection
noise = torch.randn(4000, 2, generator=torch.Generator().manual_seed(3))
states, z = [noise], noise
with torch.no_grad():
    for i in reversed(range(len(stack.layers))):
        z = stack.layers[i].inverse(z, None)[0]
        if i and i % 2 == 0:  # the stack exchanges coordinates after every second layer
            z = z[:, stack.orders_back[i // 2 - 1]]
        states.append(z)
    assert torch.allclose(z, stack.from_noise(noise))

figure, axes = plt.subplots(1, len(states), figsize=(14, 2.3), dpi=70)
colour = torch.atan2(noise[:, 1], noise[:, 0])
for number, (ax, state) in enumerate(zip(axes, states, strict=True)):
    ax.scatter(*state.T, c=colour, s=1, cmap="twilight", rasterized=True)
    ax.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), xticks=[], yticks=[], title=f"after {number}")
plt.show()

# %% [markdown]
# ## Why an exact density matters
#
# With $q$ known, samples of the flow are corrected to any target $p$ known up to a constant, by weights
# $w = p / q$. Their effective number is
#
# $$ \mathrm{ESS} = \frac{\langle w\rangle_q^2}{\langle w^2\rangle_q} \in (0, 1] , $$
#
# and the mean weight is the ratio of normalisations, here 1. This is how flows make lattice field theory
# exact (Albergo, Kanwar, Shanahan, arXiv 1904.12072): see the tour of the lattice.

# %%
from physgen.sampling.reweighting import effective_sample_size, reweighted_mean

efficiency = {}
for name, flow in flows.items():
    x = flow.sample(20_000, seed=4).x
    log_weight = (log_p(x) - log_q(flow, x)).double()
    efficiency[name] = effective_sample_size(log_weight).value
    rho = x.norm(dim=1).double()
    corrected = reweighted_mean(rho, log_weight)
    print(
        f"{name:16} ESS {efficiency[name]:.3f}   <rho> = {rho.mean().item():.4f} -> "
        f"{corrected.value:.4f} +- {corrected.error:.4f}, exact {R:.4f}"
    )

# %% [markdown]
# ## Exercises
#
# **1.** Check the determinant. Compute $\partial f/\partial x$ of the spline flow at five points by
# automatic differentiation, and compare $\log|\det|$ with what the flow says.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
bijection = flows["spline coupling"].surrogate.bijection
points = torch.tensor(draw_ring(5, seed=5), dtype=torch.float32)
_, log_det = bijection(points)
for point, said in zip(points, log_det, strict=True):
    jacobian = torch.autograd.functional.jacobian(lambda x: bijection(x[None])[0][0], point)
    by_hand = jacobian.det().abs().log().item()
    print(f"flow {said.item():+.5f}   by hand {by_hand:+.5f}")
    assert abs(by_hand - said.item()) < 1e-3

# %% [markdown]
# **2.** How much probability does each flow put into the hole, $\rho < 1$, where the truth has next to
# none? Compare with the exact value, four standard deviations from the ring.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
exact = 0.5 * math.erfc((R - 1) / SIGMA / math.sqrt(2))
print(f"exact: {exact:.1e}")
for name, flow in flows.items():
    inside = (flow.sample(50_000, seed=6).x.norm(dim=1) < 1).double().mean().item()
    print(f"{name:16} {inside:.1e}")

# %% [markdown]
# **3.** *Temperature.* Scale the noise by $\sqrt T$ before it is mapped, with $T = 0.25$ and $T = 1$.
# Is the result a draw of $q^{1/T}$? (A ring has an answer that needs no computation.)

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
flow = flows["spline coupling"].surrogate
figure, axes = plt.subplots(1, 2, figsize=(5, 2.5), dpi=70)
for ax, temperature in zip(axes, (0.25, 1.0), strict=True):
    with torch.no_grad():
        cold = flow.from_noise(math.sqrt(temperature) * noise)
    ax.scatter(*cold.T, s=1, rasterized=True)
    ax.set(xlim=(-3.5, 3.5), ylim=(-3.5, 3.5), title=f"T = {temperature}")
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# No. $q^{1/T}$ of a ring keeps the symmetry under rotations and is only narrower. Cold noise
# stays near $z = 0$, whose image is one place, so that part of the ring is lost. Scaling is exact only if
# $\det \partial f/\partial x$ is constant, which it is of linear flows (and of additive couplings).
#
# </details>
#
# **4.** *The other divergence.* From samples of the flows estimate
# $D_\mathrm{KL}(q\,\|\,p) = \langle \log q - \log p\rangle_q$, which trains a flow without data if $p$ is known.
# Why is it larger than the forward one for all three?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
for name, flow in flows.items():
    x = flow.sample(20_000, seed=7).x
    reverse = (log_q(flow, x) - log_p(x)).mean().item()
    print(f"{name:16} KL(p||q) = {divergence[name]:.4f}   KL(q||p) = {reverse:.4f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# In the hole $\log q - \log p$ is large, since $\log p$ falls as $-(\rho - R)^2/2\sigma^2$, and samples of $q$
# go there. Samples of $p$ hardly do, so that the forward divergence, and training on data, see less of it.
#
# </details>
#
# **Where next?** Recipes `digits-realnvp`, `digits-maf`, `digits-spline-flow`, `digits-glow` and
# `digits-continuous-flow` are flows of images, `physgen compare digits` sets them beside the other families;
# `calo-flow` is one of showers, `phi4-flow` of fields.
