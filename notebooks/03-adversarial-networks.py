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
# # 3. Adversarial networks
#
# A generator maps noise to samples, $x = G(z)$, whose density $q$ nobody knows. A critic $D(x) \in (0, 1)$ is trained to tell
# data from samples (Goodfellow et al., arXiv 1406.2661):
#
# $$ \min_G \max_D\; V = \langle \log D(x)\rangle_p + \langle \log(1 - D(x))\rangle_q . $$
#
# For given $G$ the best critic is $D^*(x) = p(x) / (p(x) + q(x))$, and there $V = 2\,\mathrm{JS}(p, q) - 2\ln 2$ with the
# Jensen-Shannon divergence, which is zero only for $q = p$. The theory ends here; whether gradient descent of two
# players arrives is another question, and the one of this chapter.

# %%
import json
import math
import tempfile
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import torch

import physgen

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Eight blobs
#
# The classical test of dropped modes: normal blobs of width 0.1 on a circle. Two numbers judge a generator:
# the share of its samples within four widths of a blob, and the share that each blob gets, which should be 1/8.

# %%
WIDTH, N_BLOBS = 0.1, 8
angles = 2 * math.pi * torch.arange(N_BLOBS) / N_BLOBS
MEANS = 1.5 * torch.stack([angles.cos(), angles.sin()], 1)


def draw_blobs(n, seed):
    generator = torch.Generator().manual_seed(seed)
    blob = torch.randint(N_BLOBS, (n,), generator=generator)
    return MEANS[blob] + WIDTH * torch.randn(n, 2, generator=generator)


def shares(x):
    distance, blob = torch.cdist(x, MEANS).min(1)
    near = distance < 4 * WIDTH
    return near.double().mean().item(), blob[near].bincount(minlength=N_BLOBS) / len(x)


with h5py.File(folder / "blobs.h5", "w") as file:
    file["x"], file["y"] = draw_blobs(20_000, seed=1).T.numpy()

# %% [markdown]
# ## Four games
#
# *Minimax*: as above. *Non-saturating*: the generator minimises $-\langle\log D\rangle_q$ instead, whose gradient does not vanish
# when the critic wins. *R1* (Mescheder, Geiger, Nowozin, arXiv 1801.04406): besides, the critic pays
# $\tfrac\gamma2 \langle |\nabla s|^2\rangle_p$ for its slope at the data, $D = 1/(1 + e^{-s})$. *Wasserstein* with a gradient penalty (Gulrajani
# et al., arXiv 1704.00028): a critic of slope one measures the distance by which probability has to be moved.

# %%
critic = {"kind": "mlp", "hidden": [64, 64], "activation": "leaky-relu"}
common = {"kind": "adversarial", "spectral_norm": False, "critic": critic, "learning_rate": 0.001}
games = {
    "minimax": {"loss": "minimax"},
    "non-saturating": {"loss": "non-saturating"},
    "with R1": {"loss": "non-saturating", "r1": 0.1},
    "Wasserstein": {"loss": "wasserstein", "gradient_penalty": 1.0, "n_critic": 3},
}
network = {"kind": "mlp", "hidden": [64, 64], "activation": "leaky-relu"}
table = {"path": str(folder / "blobs.h5"), "fields": ["x", "y"], "weight": None, "group": None}
runs = {}
for name, options in games.items():
    runs[name] = physgen.train(
        "events-flow",
        {
            "transform": [],
            "surrogate": {"kind": "generator", "latent": 4, "network": network},
            "method": common | options,
        },
        data=table,
        engine={"steps": 1000, "batch_size": 256, "clip": None},
        runs=folder / "runs",
        score=False,
        track=False,
    )

# %%
figure, axes = plt.subplots(1, 5, figsize=(12, 2.6), dpi=70)
samples = {name: physgen.generate(run, 4000, seed=2).x for name, run in runs.items()}
print("                 near a blob   smallest and largest share of one (1/8 = 0.125)")
for ax, (name, x) in zip(axes, {"truth": draw_blobs(4000, 3), **samples}.items(), strict=True):
    near, parts = shares(x)
    print(f"{name:16} {near:.3f}         {parts.min().item():.3f} {parts.max().item():.3f}")
    ax.scatter(*x[:2000].T, s=1, alpha=0.4, rasterized=True)
    ax.set(xlim=(-2.2, 2.2), ylim=(-2.2, 2.2), xticks=[], yticks=[], title=name)
plt.show()

# %% [markdown]
# At this short budget no blob is dropped, but none is free of its neighbours either: a continuous map of connected noise
# joins them by bridges, as in chapter 4, and a critic that is not steep yet lets them stand. The games are noisy: another
# seed may order them otherwise.
#
# ## The losses say little
#
# Neither player's loss falls as a likelihood does. The journal of a run has the mean of $D$ on data and on samples;
# both are 1/2 if the critic cannot tell them apart, or is no good.

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 2.6), dpi=70, sharey=True)
for ax, name in zip(axes, ("non-saturating", "with R1"), strict=True):
    text = (runs[name].path / "journal.jsonl").read_text()
    journal = [json.loads(line) for line in text.splitlines()]
    for key in ("D_real", "D_fake"):
        points = [
            (line["step"], line["metrics"][key])
            for line in journal
            if key in line.get("metrics", {})
        ]
        ax.plot(*zip(*points, strict=True), lw=0.8, label=key)
    ax.axhline(0.5, color="k", lw=0.5)
    ax.set(xlabel="step", title=name)
axes[0].legend()
plt.show()

# %% [markdown]
# ## A critic as a measure
#
# A *fresh* critic, trained to the end on one half of data and samples and evaluated on the other, gives a lower
# bound of the divergence, $\mathrm{JS} \ge \tfrac12 V + \ln 2$. (Chapter 7 is about such tests; `classifier` is a metric of
# every scorecard.) The floor is the same for truth against truth.

# %%
from sklearn.ensemble import HistGradientBoostingClassifier


def divergence(x, seed):
    truth = draw_blobs(len(x), seed)
    both = torch.cat([truth, x]).numpy()
    label = torch.cat([torch.ones(len(truth)), torch.zeros(len(x))]).numpy()
    train = torch.arange(len(both)).numpy() % 2 == 0
    model = HistGradientBoostingClassifier(max_iter=60, max_leaf_nodes=15)
    d = model.fit(both[train], label[train]).predict_proba(both[~train])[:, 1]
    real = label[~train] == 1
    value = torch.tensor(d[real]).log().mean() + torch.tensor(1 - d[~real]).log().mean()
    return 0.5 * value.item() + math.log(2)


print(f"{'truth':16} JS >= {divergence(draw_blobs(4000, 4), 5):+.3f}   (at most ln 2 = 0.693)")
for name, x in samples.items():
    print(f"{name:16} JS >= {divergence(x, 5):+.3f}")

# %% [markdown]
# ## Exercises
#
# **1.** For $p = \mathcal N(0, 1)$ and $q = \mathcal N(a, 1)$ compute $V(D^*)$ and $2\,\mathrm{JS} - 2\ln 2$ on a grid, for $a = 1$ and $a = 6$.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
x = torch.linspace(-15, 21, 20_001, dtype=torch.float64)
step = (x[1] - x[0]).item()


def normal(x, mean):
    return torch.exp(-0.5 * (x - mean) ** 2) / math.sqrt(2 * math.pi)


for a in (1.0, 6.0):
    p, q = normal(x, 0), normal(x, a)
    score = torch.log(p) - torch.log(q)  # D* = 1 / (1 + exp(-score)), in logarithms for the tails
    log_d, log_not_d = -torch.nn.functional.softplus(-score), -torch.nn.functional.softplus(score)
    value = ((p * log_d + q * log_not_d).sum() * step).item()
    middle = (p + q) / 2
    js = 0.5 * ((p * (p / middle).log() + q * (q / middle).log()).sum() * step).item()
    print(
        f"a = {a}: V = {value:.5f}, 2 JS - 2 ln 2 = {2 * js - 2 * math.log(2):.5f}, JS = {js:.4f}"
    )
    assert abs(value - 2 * js + 2 * math.log(2)) < 1e-8

# %% [markdown]
# **2.** *Why distance matters.* Draw JS and the Wasserstein distance (which is $a$) against $a$. Where has a
# generator no gradient to follow?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
shifts, values = torch.linspace(0, 8, 33).tolist(), []
for a in shifts:
    p, q = normal(x, 0), normal(x, a)
    middle = (p + q) / 2
    values.append(0.5 * ((p * (p / middle).log() + q * (q / middle).log()).sum() * step).item())
figure, ax = plt.subplots(figsize=(4.5, 2.4), dpi=70)
ax.plot(shifts, values, label="JS")
ax.plot(shifts, [a / 8 for a in shifts], label="Wasserstein / 8")
ax.axhline(math.log(2), color="k", lw=0.5)
ax.set(xlabel="a")
ax.legend()
plt.show()

# %% [markdown]
# **3.** *The Dirac game* (arXiv 1801.04406). Data are all at 0, the generator is a number $\theta$, the critic $s(x) = \psi x$. To
# first order gradient play is $\dot\theta = -\psi/2$, $\dot\psi = \theta/2 - \gamma\psi$. What are the eigenvalues, without R1 and with it? Draw both.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
figure, ax = plt.subplots(figsize=(3.2, 3), dpi=70)
for gamma in (0.0, 0.3):
    matrix = torch.tensor([[0.0, -0.5], [0.5, -gamma]])
    print(f"gamma = {gamma}: eigenvalues {torch.linalg.eigvals(matrix).tolist()}")
    steps = torch.matrix_exp(0.1 * matrix)
    states = [torch.tensor([1.0, 0.0])]
    for _ in range(300):
        states.append(steps @ states[-1])
    ax.plot(*torch.stack(states).T, label=rf"$\gamma$ = {gamma}")
ax.set(xlabel=r"$\theta$", ylabel=r"$\psi$")
ax.legend()
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# Without R1 the eigenvalues are $\pm i/2$, a circle around the equilibrium for ever (and outwards for finite steps: multiply by
# $1 + h\lambda$). With it their real part is $-\gamma/2$ as long as $\gamma < 1$: a damped oscillator.
#
# </details>
#
# **Where next?** `digits-gan`, `digits-minimax-gan`, `digits-r1-gan`, `digits-hinge-gan`, `digits-wgan-gp`, `digits-dcgan`;
# `digits-progressive-gan`, `digits-style-gan` and `digits-stack-gan` grow, modulate and stack their generators;
# `calo-gan` is one of showers.
