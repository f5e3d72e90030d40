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
# # 2. Variational autoencoders
#
# A latent variable $z \sim \mathcal N(0, 1)$ explains a sample, $p_\theta(x) = \int p_\theta(x|z)\, p(z)\, dz$. The integral is
# hopeless, and so is the posterior $p_\theta(z|x)$; an encoder $q_\phi(z|x) = \mathcal N(\mu_\phi(x), \sigma_\phi^2(x))$ stands in
# for it. Jensen's inequality gives the evidence lower bound (Kingma and Welling, arXiv 1312.6114),
#
# $$ \log p_\theta(x) \;\ge\; \underbrace{\langle \log p_\theta(x|z)\rangle_{q_\phi(z|x)}}_{\text{reconstruction}}
#    \;-\; \underbrace{D_\mathrm{KL}\big(q_\phi(z|x)\,\|\,p(z)\big)}_{\text{prior matching}} , $$
#
# and what is missing is exactly $D_\mathrm{KL}(q_\phi(z|x)\,\|\,p_\theta(z|x))$: minus the bound is a variational free energy.
# For normal $q_\phi$
#
# $$ D_\mathrm{KL} = \tfrac12 \sum_i \big(\mu_i^2 + \sigma_i^2 - 1 - \ln\sigma_i^2\big) , \qquad
#    z = \mu + \sigma\,\epsilon, \quad \epsilon\sim\mathcal N(0,1), $$
#
# the second equation being what lets gradients pass through the random draw.

# %%
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import physgen
from physgen.surrogates.exploration import interpolate, traverse, widest

folder = Path(tempfile.mkdtemp())
options = {"runs": folder, "score": False, "track": False}

# %% [markdown]
# ## Training
#
# Handwritten digits of 8x8 pixels and 17 grey levels, half of them for training. The likelihood of a pixel is
# binomial, the number of 16 that are black. Recipe `digits-vae`, with 16 latent variables.

# %%
run = physgen.train("digits-vae", {"engine.steps": 500}, **options)
vae = physgen.load(run).surrogate
data = run.data
held_out = data.source.read(0, len(data.source))[torch.from_numpy(data.parts.test)]
sampler = physgen.load(run)
samples = sampler.sample(10, seed=1).x

# %% [markdown]
# ## Reconstruction and generation
#
# The encoder and the decoder can be called by themselves. Held-out digits, what they are decoded to from
# their mean $\mu(x)$, and samples from the prior:


# %%
def mapped(batch, seed=0):
    return vae.transform.bound(batch, torch.Generator().manual_seed(seed))[0]


with torch.no_grad():
    mean, log_deviation = vae.encode(mapped(held_out))
    noise = torch.zeros(10, *vae.noise_shape)
    noise[:, : vae.n_latent] = mean[:10]
    decoded = vae.from_noise(noise)

figure, axes = plt.subplots(3, 10, figsize=(9, 3), dpi=70)
titles = ("held out", "decoded", "generated")
for row, pictures, title in zip(axes, (held_out.x[:10], decoded, samples), titles, strict=True):
    row[0].set_title(title, loc="left")
    for ax, picture in zip(row, pictures, strict=True):
        ax.imshow(picture, cmap="binary", vmin=0, vmax=1)
        ax.axis("off")
plt.show()

# %% [markdown]
# ## The terms of the bound
#
# A nat of prior matching is a nat of information that the latent variable carries about its image. Variables
# that carry none are *collapsed*: their posterior is the prior. (These terms are densities in the
# space of the transform. The bounds below are of probabilities of the 17 grey levels, and differ by a constant, the
# volume of the transform.)

# %%
generator = torch.Generator().manual_seed(2)
with torch.no_grad():
    draw = torch.randn(len(held_out), 1, vae.n_latent, generator=generator)
    terms = vae.terms(mapped(held_out), draw)
reconstruction = terms.reconstruction.mean().item()
information = terms.prior_matching.mean((0, 1))
print(
    f"reconstruction {reconstruction:.2f}, prior matching {information.sum().item():.2f} nats an image"
)

figure, ax = plt.subplots(figsize=(5, 2.4), dpi=70)
ax.bar(range(vae.n_latent), information.sort(descending=True).values)
ax.set(xlabel="latent variable, in order", ylabel="nats an image")
plt.show()

# %% [markdown]
# ## How tight is it?
#
# With $k$ draws $z_j \sim q_\phi(z|x)$ (Burda, Grosse, Salakhutdinov, arXiv 1509.00519)
#
# $$ \log p(x) \ge \Big\langle \ln \tfrac1k \textstyle\sum_j w_j \Big\rangle , \qquad
#    w_j = \frac{p_\theta(x|z_j)\, p(z_j)}{q_\phi(z_j|x)} , $$
#
# rises with $k$ to the likelihood itself. What it gains over $k = 1$ is a lower bound on the gap.

# %%
draws = (1, 4, 16, 64, 256)
bounds, errors = [], []
some = held_out[:200]
for k in draws:
    with torch.no_grad():
        bound = vae.importance_bound(some, draws=k, generator=torch.Generator().manual_seed(3))
    bounds.append(bound.mean().item())
    errors.append(bound.std().item() / math.sqrt(len(some)))
    print(f"k = {k:3}: {bounds[-1]:.2f} nats, {-bounds[-1] / 64 / math.log(2):.3f} bits a pixel")

figure, ax = plt.subplots(figsize=(4.5, 2.4), dpi=70)
ax.plot(draws, bounds, "o-")
ax.set(xscale="log", xlabel="draws $k$", ylabel=r"bound on $\langle\log p\rangle$")
plt.show()

# %% [markdown]
# ## Exploring the latent space
#
# Normal noise of $D$ dimensions lies near a sphere of radius $\sqrt D$; a straight line between two points leaves
# it, the arc $z(t) = \cos(\pi t/2)\, z_0 + \sin(\pi t/2)\, z_1$ does not. Above, arcs between digits; below, single
# variables from $-2.5$ to $2.5$, those that change the image most.

# %%
generator = torch.Generator().manual_seed(4)
start, end = torch.randn(2, 3, *vae.noise_shape, generator=generator)
end[:, vae.n_latent :] = start[:, vae.n_latent :] = 0
arcs = interpolate(vae, start, end, steps=9)
lines = traverse(vae, widest(vae, 3), steps=9)

figure, axes = plt.subplots(6, 9, figsize=(7, 4.8), dpi=70)
for row, pictures in zip(axes, torch.cat([arcs, lines]), strict=True):
    for ax, picture in zip(row, pictures, strict=True):
        ax.imshow(picture, cmap="binary", vmin=0, vmax=1)
        ax.axis("off")
plt.show()

# %% [markdown]
# ## Two dimensions, to look at
#
# With two latent variables the whole latent space is a picture. Nobody told the encoder the labels.

# %%
small_run = physgen.train("digits-vae", {"engine.steps": 500, "surrogate.latent": 2}, **options)
small = physgen.load(small_run).surrogate
images, labels = run.system.labelled(1797)
with torch.no_grad():
    batch = physgen.Batch(images)
    centre, spread = small.encode(small.transform.bound(batch, generator)[0])

axis = torch.linspace(-2, 2, 12)
noise = torch.zeros(144, *small.noise_shape)
noise[:, :2] = torch.cartesian_prod(axis.flip(0), axis).flip(1)
with torch.no_grad():
    atlas = small.from_noise(noise).reshape(12, 12, 8, 8).transpose(1, 2).reshape(96, 96)

figure, axes = plt.subplots(1, 2, figsize=(9, 4), dpi=70)
points = axes[0].scatter(*centre.T, c=labels, s=3, cmap="tab10", rasterized=True)
figure.colorbar(points, ax=axes[0], label="digit")
axes[0].set(xlabel="$z_1$", ylabel="$z_2$", title="where the encoder puts digits")
axes[1].imshow(atlas, cmap="binary", extent=(-2, 2, -2, 2))
axes[1].set(xlabel="$z_1$", ylabel="$z_2$", title="what the decoder makes of a place")
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** Check the formula of $D_\mathrm{KL}$ for the first held-out digit by Monte Carlo:
# $\langle \ln q(z) - \ln p(z)\rangle_q$ with 100 000 draws.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
mu, sigma = mean[0].double(), log_deviation[0].double().exp()
formula = 0.5 * (mu**2 + sigma**2 - 1 - 2 * sigma.log()).sum().item()
eps = torch.randn(100_000, len(mu), generator=generator, dtype=torch.float64)
z = mu + sigma * eps
difference = 0.5 * (z**2 - eps**2).sum(1) - sigma.log().sum()
error = difference.std().item() / math.sqrt(len(z))
print(f"formula {formula:.3f}, Monte Carlo {difference.mean().item():.3f} +- {error:.3f}")
assert abs(formula - difference.mean().item()) < 6 * error

# %% [markdown]
# **2.** *Probabilistic PCA.* For $p(x|z) = \mathcal N(wz, s^2)$ with one $z$ and one $x$ all is known:
# $p(x) = \mathcal N(0, w^2 + s^2)$. For which $\mu(x)$, $\sigma$ is the bound tight? Verify it numerically.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
w, s, x = 1.5, 0.5, 0.8
mu, sigma = w * x / (w**2 + s**2), s / math.sqrt(w**2 + s**2)  # the exact posterior
exact = -0.5 * x**2 / (w**2 + s**2) - 0.5 * math.log(2 * math.pi * (w**2 + s**2))


def elbo(mu, sigma):
    squares = (x - w * mu) ** 2 + w**2 * sigma**2  # <(x - w z)^2>
    likelihood = -0.5 * squares / s**2 - 0.5 * math.log(2 * math.pi * s**2)
    return likelihood - 0.5 * (mu**2 + sigma**2 - 1 - 2 * math.log(sigma))


print(
    f"log p {exact:.6f}, bound {elbo(mu, sigma):.6f}, at twice the width {elbo(mu, 2 * sigma):.6f}"
)
assert abs(exact - elbo(mu, sigma)) < 1e-12

# %% [markdown]
# **3.** *The price of information.* $\beta$-VAEs (Higgins et al. 2017) multiply prior matching by $\beta$. Train
# with $\beta = 8$ and compare the two terms, and the number of variables that hold more than 0.1 nats.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
change = {"engine.steps": 500, "method.beta": 8.0}
heavy = physgen.load(physgen.train("digits-vae", change, **options)).surrogate
with torch.no_grad():
    heavy_terms = heavy.terms(mapped(held_out), draw)
for name, one in {"beta = 1": terms, "beta = 8": heavy_terms}.items():
    nats = one.prior_matching.mean((0, 1))
    active = int((nats > 0.1).sum())
    print(
        f"{name}: reconstruction {one.reconstruction.mean().item():8.2f}, prior matching "
        f"{nats.sum().item():6.2f} nats in {active} variables"
    )

# %% [markdown]
# **4.** *Holes in the prior.* The mean of $q_\phi(z|x)$ over all images should be $p(z)$. Compare mean and variance
# of $z \sim q_\phi(z|x)$, $x$ from the data, with 0 and 1, for the most informative variable and for the least.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
z = mean + log_deviation.exp() * draw[:, 0]
order = information.argsort(descending=True)
for name, number in {"most informative": order[0], "least informative": order[-1]}.items():
    one = z[:, number]
    print(f"{name:18} mean {one.mean().item():+.2f}, variance {one.var().item():.2f}")

# %% [markdown]
# **Where next?** `digits-beta-vae`, `digits-free-bits-vae`, `digits-iwae`, `digits-hierarchical-vae`,
# `digits-conditional-vae` and `digits-conv-vae`; `calo-vae` and `calo-bib-ae` are autoencoders of showers.
