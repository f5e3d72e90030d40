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
# # 1. From principal components to autoencoders
#
# Samples $x \in \mathbb R^D$ of which few directions matter are described by $q < D$ numbers, $z = f(x)$, from which $g(z)$ makes them
# again. The best *linear* pair minimises the mean square of what is lost: with the covariance of the data,
# $C\,u_j = \lambda_j u_j$, $\lambda_1 \ge \lambda_2 \ge \dots$, and $U = (u_1, \dots, u_q)$,
#
# $$ z = U^T (x - m), \qquad g(z) = m + U z, \qquad
#    \big\langle |x - g(f(x))|^2 \big\rangle = \sum_{j > q} \lambda_j $$
#
# (Pearson 1901; Eckart and Young 1936). An *autoencoder* takes networks for $f$ and $g$ and finds them by descent. What is
# gained, what is lost, and what is missing until samples can be drawn are the questions of this chapter.

# %%
import math
import tempfile
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
import torch

import physgen
from physgen.systems.ising import CRITICAL_TEMPERATURE, Ising

folder = Path(tempfile.mkdtemp())
options = {"runs": folder / "runs", "score": False, "track": False}

# %% [markdown]
# ## Principal components as a density
#
# Let normal numbers $z$ be seen through noise, $x = m + Wz + s\,\epsilon$. Then $x$ is normal with covariance $WW^T + s^2$, and the
# likelihood is greatest (Tipping and Bishop 1999) at $W = U(\Lambda - s^2)^{1/2}$, $s^2$ being the mean of the eigenvalues left out.
# There its mean over the data is known without looking at them again:
#
# $$ \langle \log p\rangle = -\tfrac12 \Big( D \ln 2\pi + \sum_{j\le q} \ln\lambda_j + (D - q) \ln s^2 + D \Big) . $$
#
# Recipe `digits-pca`: handwritten digits of 8x8 pixels, 16 components, and nothing to train. Its transform spreads 17 grey levels evenly over
# $[-1, 1]$; densities below are in that space.

# %%
run = physgen.train("digits-pca", **options)
pca = physgen.load(run).surrogate
data = run.data
generator = torch.Generator().manual_seed(0)


def mapped(part):
    rows = data.source.read(0, len(data.source))[torch.from_numpy(part)]
    return pca.transform(rows, torch.Generator().manual_seed(0))[0]


train, held_out = mapped(data.parts.train), mapped(data.parts.test)
centred = train.x.flatten(1).double()
centred = centred - centred.mean(0)
values, vectors = torch.linalg.eigh(centred.T @ centred / len(centred))
values, vectors = values.flip(0), vectors.flip(1)

D, q = 64, pca.components
noise = values[q:].mean()
formula = -0.5 * (D * math.log(2 * math.pi) + values[:q].log().sum() + (D - q) * noise.log() + D)
with torch.no_grad():
    at_data, at_held_out = (pca.latent_log_prob(one).mean().item() for one in (train, held_out))
print(f"<log p> of the training data: formula {formula.item():.4f}, the model {at_data:.4f} nats")
print(f"of held-out digits                               {at_held_out:.4f}")
print(f"the first {q} of {D} directions hold {values[:q].sum() / values.sum():.1%} of the variance")

# %%
figure = plt.figure(figsize=(10, 2.6), dpi=70)
grid = figure.add_gridspec(2, 10, width_ratios=[4.2, 0.5] + [1] * 8)
ax = figure.add_subplot(grid[:, 0])
ax.semilogy(range(1, D + 1), values, ".")
ax.axvline(q + 0.5, color="k", lw=0.5)
ax.set(xlabel="$j$", ylabel=r"$\lambda_j$")
for number in range(16):
    ax = figure.add_subplot(grid[number // 8, 2 + number % 8])
    ax.imshow(vectors[:, number].reshape(8, 8), cmap="coolwarm", vmin=-0.35, vmax=0.35)
    ax.set_title(f"$u_{{{number + 1}}}$", fontsize=9, pad=2)
    ax.axis("off")
plt.show()

# %% [markdown]
# ## The linear autoencoder finds the same plane
#
# Without activations $f$ and $g$ are matrices. All minima of the squared error span the plane of the first $q$ components, and there are no
# others (Baldi and Hornik 1989): descent must arrive at the error $\sum_{j>q} \lambda_j$, though not at the $u_j$
# themselves, since $g \to g A^{-1}$, $f \to A f$ changes nothing.

# %%
linear = physgen.train(
    "digits-autoencoder",
    {"surrogate.latent": 4, "surrogate.network.hidden": [], "engine.steps": 800},
    method={"learning_rate": 0.01, "weight_decay": 0.0},
    **options,
)
linear = physgen.load(linear).surrogate


def lost(model, batch):
    """Mean square of what an autoencoder loses, summed over the entries."""
    with torch.no_grad():
        made = model.decode(model.encode(batch), None)
    return (made - batch.x.flatten(1)).square().sum(1).mean().item()


with torch.no_grad():
    steps = linear.decode(torch.eye(4), None) - linear.decode(torch.zeros(4, 4), None)
directions = torch.linalg.qr(steps.T.double()).Q
cosines = torch.linalg.svdvals(directions.T @ vectors[:, :4])
print(f"squared error: trained {lost(linear, train):.4f}, the least {values[4:].sum():.4f}")
print("cosines of the angles between the planes:", " ".join(f"{one:.4f}" for one in cosines))

# %% [markdown]
# ## What networks gain
#
# With two hidden layers of 256 units, for several $q$, on digits that were not trained on; below them the same digits from four numbers each.

# %%
sizes = (2, 4, 16)
change = {"engine.steps": 400, "method.weight_decay": 0.0}
deep = {
    n: physgen.load(
        physgen.train("digits-autoencoder", change | {"surrogate.latent": n}, **options)
    )
    for n in sizes
}
deep = {n: sampler.surrogate for n, sampler in deep.items()}
x = held_out.x.flatten(1).double()
mean = train.x.flatten(1).double().mean(0)


def projected(x, n):
    plane = vectors[:, :n]
    return mean + (x - mean) @ plane @ plane.T


print(" q   lost by components   by networks   of held-out digits")
losses = []
for n, model in deep.items():
    losses.append(((projected(x, n) - x).square().sum(1).mean().item(), lost(model, held_out)))
    print(f"{n:2}   {losses[-1][0]:18.2f}   {losses[-1][1]:11.2f}")

figure, axes = plt.subplots(3, 10, figsize=(9, 3), dpi=70)
with torch.no_grad():
    from_networks = deep[4].decode(deep[4].encode(held_out[:10]), None)
rows = {"held out": x[:10], "four components": projected(x[:10], 4), "networks": from_networks}
for row, (name, pictures) in zip(axes, rows.items(), strict=True):
    row[0].set_title(name, loc="left", fontsize=10)
    for ax, picture in zip(row, pictures, strict=True):
        ax.imshow(picture.reshape(8, 8), cmap="binary", vmin=-1, vmax=1)
        ax.axis("off")
plt.show()

# %% [markdown]
# ## A curve that one number cannot describe
#
# Points on a circle of radius 1, with noise of $0.05$ across. One component loses half of the variance,
# $\tfrac12\langle\rho^2\rangle$, whichever direction it takes. One *angle* would lose nothing but the noise: $\sigma^2 = 0.0025$. A
# network may bend its line, but it is continuous: it maps the plane to a line and the line to a curve with two ends,
# so that somewhere neighbours are torn apart.

# %%
SIGMA = 0.05


def draw_circle(n, seed):
    rng = np.random.default_rng(seed)
    angle, rho = rng.uniform(0, 2 * math.pi, n), rng.normal(1, SIGMA, n)
    return torch.tensor(np.stack([rho * np.cos(angle), rho * np.sin(angle)], 1)).float()


with h5py.File(folder / "circle.h5", "w") as file:
    file["x"], file["y"] = draw_circle(20_000, seed=1).T.numpy()
table = {"path": str(folder / "circle.h5"), "fields": ["x", "y"], "weight": None, "group": None}


def autoencoder(latent, corruption=0.0):
    """One of the circle."""
    network = {"kind": "mlp", "hidden": [64, 64]}
    trained = physgen.train(
        "events-flow",
        {
            "transform": [],
            "surrogate": {"kind": "autoencoder", "latent": latent, "network": network},
            "method": {"kind": "reconstruction", "learning_rate": 0.003, "corruption": corruption},
        },
        data=table,
        engine={"steps": 700, "batch_size": 256},
        **options,
    )
    return physgen.load(trained).surrogate


torn = autoencoder(latent=1)
points = draw_circle(4000, seed=2)
with torch.no_grad():
    z = torn.encode(physgen.Batch(points))
    axis = torch.linspace(z.min(), z.max(), 400)[:, None]
    curve = torn.decode(axis, None)
half = points.square().sum(1).mean().item() / 2
print(f"lost by one component {half:.4f} (exactly {(1 + SIGMA**2) / 2:.4f})")
print(
    f"by networks of one number {lost(torn, physgen.Batch(points)):.4f}, by the angle {SIGMA**2:.4f}"
)

figure, axes = plt.subplots(1, 2, figsize=(7.5, 3), dpi=70)
angle = torch.atan2(points[:, 1], points[:, 0])
axes[0].scatter(*points.T, c=angle, s=3, cmap="twilight", rasterized=True)
axes[0].plot(*curve.T, "k", lw=1.5)
axes[0].set(title="the curve $g(z)$", aspect="equal")
axes[1].scatter(angle, z[:, 0], c=angle, s=3, cmap="twilight", rasterized=True)
axes[1].set(xlabel="angle", ylabel="$z$")
plt.show()

# %% [markdown]
# ## Denoising: an autoencoder that knows the score
#
# Show it $\tilde x = x + c\,\epsilon$ and ask for $x$ (Vincent et al. 2008). The squared error is least for the mean of what
# may have been, and by Tweedie's formula
#
# $$ g(f(\tilde x)) - \tilde x = \langle x \mid \tilde x\rangle - \tilde x = c^2\, \nabla \log p_c(\tilde x) , $$
#
# $p_c$ being the density of $\tilde x$ (Alain and Bengio, arXiv 1211.4246). No bottleneck is needed now: $z$ has eight numbers here.
# Chapter 5 begins where this ends. The exact mean is that of many true points, weighted with the likelihood of the noise.

# %%
C = 0.3
denoiser = autoencoder(latent=8, corruption=C)
many = draw_circle(20_000, seed=3)


def exact_mean(z):
    odds = torch.softmax(-0.5 * torch.cdist(z, many).square() / C**2, 1)
    return odds @ many


noisy = points + C * torch.randn(4000, 2, generator=generator)
with torch.no_grad():
    clean = denoiser.decode(denoiser.encode(physgen.Batch(noisy)), None)
best = exact_mean(noisy)
print(f"network - exact mean {(clean - best).square().mean().sqrt():.4f}")
print(f"x - exact mean       {(points - best).square().mean().sqrt():.4f}")

places = torch.cartesian_prod(*[torch.linspace(-1.6, 1.6, 17)] * 2)
with torch.no_grad():
    learned = denoiser.decode(denoiser.encode(physgen.Batch(places)), None)
figure, ax = plt.subplots(figsize=(4.4, 4), dpi=70)
ax.scatter(*points.T, s=1, color="0.7", rasterized=True)
for means, colour, name in ((exact_mean(places), "C0", "exact"), (learned, "C1", "learned")):
    ax.quiver(*places.T, *(means - places).T, color=colour, scale=12, width=0.005, label=name)
ax.set(title=r"$c^2 \nabla \log p_c$", aspect="equal")
ax.legend(loc="upper right", fontsize=8)
plt.show()

# %% [markdown]
# ## What is missing: a density of $z$
#
# To draw samples one needs to know how $z$ is distributed, and nothing has asked for that. A normal distribution fitted to the latent
# vectors (`digits-autoencoder` does it) is a makeshift: it has their mean and their covariance, and knows nothing else of them. The
# ellipses are its one and two standard deviations.

# %%
autoencoder_16 = deep[16]
with torch.no_grad():
    z = deep[2].encode(train)
    covariance, centre = deep[2].latent_covariance, deep[2].latent_mean
    samples = autoencoder_16.from_noise(torch.randn(20, 16, generator=generator))
    of_pca = pca.from_noise(torch.randn(20, *pca.noise_shape, generator=generator))

figure = plt.figure(figsize=(10, 3), dpi=70)
grid = figure.add_gridspec(4, 12, width_ratios=[5, 0.7] + [1] * 10)
ax = figure.add_subplot(grid[:, 0])
ax.scatter(*z.T, s=3, rasterized=True)
turn = torch.linspace(0, 2 * math.pi, 100)
circle = torch.stack([turn.cos(), turn.sin()], 1)
for radius in (1, 2):
    ax.plot(*(centre + radius * circle @ torch.linalg.cholesky(covariance).T).T, "k", lw=1)
ax.set(xlabel="$z_1$", ylabel="$z_2$", title="latent vectors and their fit")
for number, picture in enumerate(torch.cat([samples, of_pca])):
    ax = figure.add_subplot(grid[number // 10, 2 + number % 10])
    ax.imshow(picture, cmap="binary", vmin=0, vmax=1)
    ax.axis("off")
    if number in (0, 20):
        ax.set_title("networks" if number == 0 else "components", loc="left", fontsize=9)
plt.show()

# %% [markdown]
# Chapter 2 makes the distribution of $z$ a part of what is trained.
#
# ## An order parameter that nobody named
#
# Principal components of spin configurations at temperatures around a transition find the order parameter (Wang, arXiv 1606.00318). On
# a periodic lattice it must be so: $C_{ij}$ depends on $i - j$ alone, its eigenvectors are plane waves, and its eigenvalues are the
# structure factor
#
# $$ \lambda_k = S(k) = \tfrac1N \Big\langle \Big|\sum_j s_j\, e^{-i k\cdot j}\Big|^2 \Big\rangle , \qquad
#    \lambda_{k=0} = N \langle m^2 \rangle . $$

# %%
L, Tc = 16, CRITICAL_TEMPERATURE
temperatures = (1.9, 2.1, 2.2, Tc, 2.4, 2.6, 3.0)
ising = {
    T: Ising(shape=(L, L), temperature=T).simulate(1000, seed=1).x.float() for T in temperatures
}
spins = torch.cat(list(ising.values())).flatten(1).double()
s_values, s_vectors = torch.linalg.eigh(spins.T @ spins / len(spins))
m = spins.mean(1)
first = spins @ s_vectors[:, -1]
overlap = s_vectors[:, -1].mean().abs().item() * L
print(f"largest eigenvalue {s_values[-1]:.3f}, N<m^2> = {L**2 * m.square().mean():.3f}")
print(f"overlap of its eigenvector with the uniform one {overlap:.5f}")

figure, axes = plt.subplots(1, 2, figsize=(9, 3), dpi=70)
colour = torch.tensor(temperatures).repeat_interleave(1000)
axes[0].semilogy(range(1, 31), s_values.flip(0)[:30], ".")
axes[0].set(xlabel="$j$", ylabel=r"$\lambda_j$")
points = axes[1].scatter(
    first, spins @ s_vectors[:, -2], c=colour, s=3, cmap="coolwarm", rasterized=True
)
figure.colorbar(points, ax=axes[1], label="$T$")
axes[1].set(xlabel="first component", ylabel="second")
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** Verify $\langle|x - g(f(x))|^2\rangle = \sum_{j>q}\lambda_j$ on the training digits for $q = 1, 10, 40$. On held-out digits the
# error is larger; why must it be, on average?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
own = train.x.flatten(1).double()
for n in (1, 10, 40):
    error = (projected(own, n) - own).square().sum(1).mean()
    other = (projected(x, n) - x).square().sum(1).mean()
    print(f"q = {n:2}: {error:.6f}, sum {values[n:].sum():.6f}; held out {other:.4f}")
    assert torch.isclose(error, values[n:].sum())

# %% [markdown]
# <details><summary>Answer</summary>
#
# The plane was chosen to be the best one for the training data. The best plane for others loses as much on average as
# the best one for these, and this plane is not that one.
#
# </details>
#
# **2.** *How many components?* Training error and training likelihood only improve with $q$. Draw the likelihood of held-out digits
# against $q$ for a model fitted to only 100 digits. (The density in closed form suffices: no run is needed.)


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
def log_p(x, sample, n):
    middle = sample.mean(0)
    values, vectors = torch.linalg.eigh(torch.cov(sample.T, correction=0))
    floor = values[:-n].mean().clamp_min(1e-8)
    variances = torch.cat([floor.expand(D - n), values[-n:].clamp_min(floor)])
    squares = ((x - middle) @ vectors).square() / variances
    return -0.5 * (squares + variances.log() + math.log(2 * math.pi)).sum(1).mean().item()


few, counts = own[:100], range(1, 60, 2)
figure, ax = plt.subplots(figsize=(4.5, 2.6), dpi=70)
ax.plot(counts, [log_p(few, few, n) for n in counts], label="100 digits fitted")
scores = [log_p(x, few, n) for n in counts]
ax.plot(counts, scores, label="held out")
ax.set(xlabel="$q$", ylabel=r"$\langle\log p\rangle$", ylim=(-80, None))
ax.legend()
plt.show()
print(f"best on held-out digits: q = {counts[int(np.argmax(scores))]}")

# %% [markdown]
# **3.** *Mending the circle.* How much does an autoencoder of *two* numbers lose? Why is this no achievement? And what latent space would
# describe the circle by one number?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
print(f"two numbers lose {lost(autoencoder(latent=2), physgen.Batch(draw_circle(4000, 4))):.0e}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Two numbers describe two numbers: the identity has no error, noise is kept as well. A single number whose ends are the same, an angle,
# has the right topology: $z \in S^1$ and not $\mathbb R$. Symmetries that are known belong into the model.
#
# </details>
#
# **4.** *The other order.* Which components come second for the Ising model, and how many of them are alike? Compare with $S(k)$ at
# $k = (2\pi/L, 0)$ and its partners. What would be the first component of the antiferromagnet on the square lattice?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
structure = torch.fft.fft2(spins.reshape(-1, L, L)).abs().square().mean(0) / L**2
partners = torch.stack([structure[0, 1], structure[0, -1], structure[1, 0], structure[-1, 0]])
print("eigenvalues 2 to 6:", " ".join(f"{one:.3f}" for one in s_values.flip(0)[1:6]))
print("S(k) of the four:  ", " ".join(f"{one:.3f}" for one in partners))
print(f"S at k = (2 pi/L, 2 pi/L): {structure[1, 1]:.3f}")

antiferromagnet = Ising(shape=(L, L), temperature=2.0, coupling=-1.0).simulate(1000, seed=1)
rows = antiferromagnet.x.flatten(1).double()
_, waves = torch.linalg.eigh(rows.T @ rows)
checkerboard = (-1.0) ** (torch.arange(L)[:, None] + torch.arange(L))
overlap = (waves[:, -1] @ checkerboard.flatten().double()).abs().item() / L
print(f"antiferromagnet: overlap with the checkerboard, k = (pi, pi): {overlap:.5f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Four waves of the longest length have the same $S(k)$ by symmetry, $\pm k$ in two directions, as cosines and sines; the noise of 7000
# configurations splits them. The antiferromagnet has its peak at $(\pi, \pi)$: the staggered magnetisation.
#
# </details>
#
# **Where next?** `digits-pca`, `digits-autoencoder`, `digits-denoising-autoencoder` and their `mnist` siblings; `ising-pca`, the normal
# distribution that spins are not; chapter 2 for latent variables with a distribution.
