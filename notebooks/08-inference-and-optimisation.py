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
# # 8. Inference and optimisation
#
# A simulator draws data $x \sim p(x\,|\,\theta)$ of parameters $\theta$. That is all it does: neither the likelihood of data nor derivatives by the parameters
# can be had. A generative model with a condition supplies both.
#
# - **Inference.** Data were observed: which parameters? $p(\theta\,|\,x) = p(x\,|\,\theta)\,p(\theta)/p(x)$.
# - **Optimisation.** An objective $R$ says what data are good: which parameters make $\langle R(x)\rangle_{p(x|\theta)}$ smallest?
#
# Both are first done where the answer is known.

# %%
import json
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import physgen
from physgen.systems.design_problems import three_hump
from physgen.systems.posterior import Posterior

folder = Path(tempfile.mkdtemp())
options = {"runs": folder, "score": False, "track": False}

# %% [markdown]
# ## Neural posterior estimation
#
# Draw $\theta_i$ from the prior and $x_i$ from the simulator, and let a conditional flow $q$ maximise the likelihood of the parameters,
#
# $$ -\Big\langle \ln q(\theta\,|\,x) \Big\rangle_{p(\theta)\,p(x|\theta)}
#    = \Big\langle D_\mathrm{KL}\big(p(\cdot\,|\,x)\,\|\,q(\cdot\,|\,x)\big) \Big\rangle_{p(x)} + \mathrm{const}. $$
#
# It is smallest where $q$ is the posterior, of every $x$ at once (Papamakarios and Murray, arXiv 1605.06376). Nothing but pairs was needed.
#
# The simulator: a track in a magnetic field crosses eight layers at $z_j$, at heights $a + b z_j + \kappa z_j^2$ measured with errors of $\sigma = 0.3$. Of offset,
# slope and curvature the prior is normal, so that the posterior is, too: with $A_{jk} = z_j^k$ and a prior $N(0, \Lambda)$,
#
# $$ \Sigma^{-1} = \Lambda^{-1} + A^\top A/\sigma^2, \qquad \mu = \Sigma A^\top x / \sigma^2 . $$

# %%
Z, SIGMA = np.linspace(-1, 1, 8), 0.3
A = np.stack([Z**0, Z, Z**2], 1)
(folder / "track.py").write_text("""
import numpy as np

def simulate(theta, seed):
    z = np.linspace(-1, 1, 8)
    heights = theta @ np.stack([z**0, z, z**2])
    return heights + 0.3 * np.random.default_rng(seed).normal(size=heights.shape)
""")
names = ("offset", "slope", "curvature")
prior = [{"name": name, "prior": "normal", "first": 0.0, "second": 1.0} for name in names]
track = {"kind": "posterior", "simulator": f"{folder}/track.py:simulate", "parameters": prior}
run = physgen.train(
    "infer-two-moons",
    {"system": track, "data.n": 5000, "engine.steps": 600, "method.learning_rate": 0.002},
    **options,
)

observed = A @ [0.5, -1.0, 0.8] + SIGMA * np.random.default_rng(1).normal(size=8)
posterior = physgen.load(run).sample(
    20_000, seed=1, condition=torch.tensor(observed).expand(20_000, -1).float()
)
draws = posterior.x.double().numpy()
covariance = np.linalg.inv(np.eye(3) + A.T @ A / SIGMA**2)
mean = covariance @ A.T @ observed / SIGMA**2
print("            flow            exact           truth")
for k, name in enumerate(names):
    print(
        f"{name:9} {draws[:, k].mean():6.3f} ({draws[:, k].std():.3f})  "
        f"{mean[k]:6.3f} ({math.sqrt(covariance[k, k]):.3f})  {(0.5, -1.0, 0.8)[k]:6.3f}"
    )
corr = np.corrcoef(draws.T)[0, 2], covariance[0, 2] / math.sqrt(covariance[0, 0] * covariance[2, 2])
print(f"correlation of offset and curvature {corr[0]:.3f}, exact {corr[1]:.3f}")

# %%
figure, axes = plt.subplots(1, 2, figsize=(9, 3), dpi=70)
fine = np.linspace(-1, 1, 60)
curves = draws[:200] @ np.stack([fine**0, fine, fine**2])
axes[0].plot(fine, curves.T, "C0", lw=0.3, alpha=0.4)
axes[0].errorbar(Z, observed, SIGMA, fmt="ko", ms=4, label="observed")
axes[0].set(xlabel="$z$", ylabel="height", title="tracks of the posterior")
axes[0].legend()
axes[1].hist2d(draws[:, 0], draws[:, 2], 60, cmap="Blues")
angle = np.linspace(0, 2 * math.pi, 100)
root = np.linalg.cholesky(covariance[np.ix_([0, 2], [0, 2])])
for level in (0.68, 0.95):
    circle = math.sqrt(-2 * math.log(1 - level)) * np.stack([np.cos(angle), np.sin(angle)])
    axes[1].plot(*(mean[[0, 2], None] + root @ circle), "k", lw=1)
axes[1].set(xlabel="offset", ylabel="curvature", title="the flow, and exact regions of 68% and 95%")
plt.show()

# %% [markdown]
# ## Calibration
#
# A posterior is *calibrated* if intervals of 68% hold the truth in 68% of all cases, over the prior. Simulation-based calibration (Talts et al., arXiv
# 1804.06788) draws $\theta^*$ from the prior, $x$ from the simulator, $L$ draws from $q(\cdot\,|\,x)$, and looks at the rank of $\theta^*$ among them: uniform on
# $0 \ldots L$ if $q$ is right. Too narrow a posterior gives a valley, too wide a one a hill, a shifted one a slope.

# %%
system = Posterior(simulator=track["simulator"], parameters=tuple(prior))
fresh = system.simulate(1000, seed=99)
L = 99
given = fresh.condition.repeat_interleave(L, 0)
q = physgen.load(run).sample(len(given), seed=2, condition=given).x.double().reshape(1000, L, 3)


def ranks(draws, truth):
    return (draws < truth[:, None]).sum(1).numpy()


middle = q.mean(1, keepdim=True)
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), dpi=70, sharey=True)
for ax, (name, some) in zip(
    axes,
    {
        "the flow": q,
        "0.7 times as wide": middle + 0.7 * (q - middle),
        "1.5 times": middle + 1.5 * (q - middle),
    }.items(),
    strict=True,
):
    found = ranks(some, fresh.x.double())
    ax.hist(found[:, 2], 10, range=(0, 100), alpha=0.6)
    ax.axhspan(100 - 2 * math.sqrt(90), 100 + 2 * math.sqrt(90), color="k", alpha=0.15)
    ax.set(title=name, xlabel="rank of the curvature")
    inside = ((found >= 16) & (found < 84)).mean(0)
    print(f"{name:18} 68% intervals hold the truth in {np.round(100 * inside, 1)} %")
plt.show()

# %% [markdown]
# The grey band is where two sigma of uniform counts lie. `physgen train` does this, and two tests that see correlations (TARP, expected coverage), in the rows
# "calibration" of every scorecard of such a run, and `physgen infer` says so if they failed or were never judged.
#
# ## A posterior that is not normal
#
# *Two moons*, of the benchmark sbibm (arXiv 2101.04653): $x$ tells $\theta$ up to a sign, and leaves a crescent.

# %%
moons = physgen.train("infer-two-moons", {"data.n": 4000, "engine.steps": 600}, **options)
draws = physgen.load(moons).sample(10_000, seed=1, condition=torch.zeros(10_000, 2)).x.double()


def log_likelihood(theta, x):
    """Of two-moons: a ring of radius N(0.1, 0.01^2), its right half alone."""
    shift = np.stack(
        [-np.abs(theta[..., 0] + theta[..., 1]), theta[..., 1] - theta[..., 0]], -1
    ) / math.sqrt(2)
    p = x - shift - [0.25, 0.0]
    radius = np.hypot(*np.moveaxis(p, -1, 0))
    return np.where(p[..., 0] > 0, -((radius - 0.1) ** 2) / 2e-4 - np.log(radius), -np.inf)


axis = np.linspace(-0.5, 0.5, 300)
grid = np.stack(np.meshgrid(axis, axis), -1)
exact = np.exp(log_likelihood(grid, np.zeros(2)))
figure, axes = plt.subplots(1, 2, figsize=(7, 3.2), dpi=70, sharey=True)
axes[0].hist2d(*draws.T.numpy(), 80, range=[[-0.5, 0.5]] * 2, cmap="Blues")
axes[0].set(title="flow", xlabel=r"$\theta_0$", ylabel=r"$\theta_1$")
axes[1].pcolormesh(axis, axis, exact, cmap="Blues")
axes[1].set(title="exact", xlabel=r"$\theta_0$")
plt.show()
p = exact / exact.sum()
print(
    f"<theta_0 + theta_1 | upper moon>: flow {draws.sum(1)[draws.sum(1) > 0].mean():.3f}, exact "
    f"{(p * grid.sum(-1))[grid.sum(-1) > 0].sum() / p[grid.sum(-1) > 0].sum():.3f}"
)
print(f"share of the upper moon: flow {(draws.sum(1) > 0).double().mean():.3f}, exact 0.5")

# %% [markdown]
# ## Gradients of what cannot be differentiated
#
# The objective $J(\psi) = \langle R(x)\rangle_{p(x|\psi)}$ has a gradient in two forms. The *score function* needs a density in which parameters are drawn,
#
# $$ \nabla_\psi \big\langle R \big\rangle_{\theta \sim N(\psi, s^2)} = \Big\langle (R - b)\, \frac{\theta - \psi}{s^2} \Big\rangle , $$
#
# and no derivative of anything; its noise grows with the number of parameters. The *pathwise* gradient, with $x = S(z; \psi)$ and $z$ noise,
#
# $$ \nabla_\psi J = \Big\langle \frac{\partial R}{\partial x}\, \frac{\partial S(z; \psi)}{\partial \psi} \Big\rangle_z , $$
#
# needs a simulator with derivatives. Local generative surrogates (L-GSO; Shirobokov et al., arXiv 2002.04632) learn one, around where the search is. The
# *three-hump* problem of that paper: two parameters of a mixture, and an objective that is $-1$ if all $y$ lie between 0 and 10.

# %%
found = physgen.optimize("three-hump", {"steps": 40, "seed": 2}, runs=folder, track=False)
print({name: round(value, 2) for name, value in found.parameters.items()})
print(
    f"after {found.calls} calls: {found.objective:.3f} +- {found.error:.3f} by {found.final_calls} fresh calls;"
)
print(f"the surrogate believed {found.estimated:.3f} +- {found.estimated_error:.3f}")


def objective(psi, n=4000, seed=0):
    """Mean of sigma(y - 10) - sigma(y), with the mean over the last noise done by many draws."""
    generator = np.random.default_rng(seed)
    x = np.stack([generator.uniform(-2, 0, n), generator.uniform(2, 5, n)], 1)
    share = abs(psi[0]) / max(np.abs(psi).sum(), 1e-12)
    y = np.where(generator.random(n) < share, x[:, 0], x[:, 1]) * three_hump(psi[None])[0]
    y = y + math.sqrt(2) * generator.normal(size=n)
    return float((1 / (1 + np.exp(10 - y)) - 1 / (1 + np.exp(-y))).mean())


# %%
lines = (Path(found.run) / "journal.jsonl").read_text().splitlines()
steps = [json.loads(line)["metrics"] for line in lines if '"objective"' in line]
path = np.array([[step["parameters/psi0"], step["parameters/psi1"]] for step in steps])
a, b = np.linspace(-3, 3, 61), np.linspace(-3, 3, 61)
surface = np.array([[objective(np.array([p, r]), 500) for p in a] for r in b])
figure, axes = plt.subplots(1, 2, figsize=(9.5, 3.2), dpi=70)
shown = axes[0].contourf(a, b, surface, 20, cmap="viridis")
figure.colorbar(shown, ax=axes[0])
axes[0].plot(*path.T, "r.-", ms=4, lw=1)
axes[0].plot(*path[0], "wo", mec="k")
axes[0].plot(*path[-1], "w*", mec="k", ms=12)
axes[0].set(xlabel=r"$\psi_0$", ylabel=r"$\psi_1$", title="the search on the true objective")
calls = [step["calls"] for step in steps]
axes[1].plot(calls, [objective(psi) for psi in path])
axes[1].axhline(surface.min(), color="k", lw=1, ls=":", label="least on the grid")
axes[1].set(xlabel="calls of the simulator", title="true objective on the way")
axes[1].legend()
plt.show()

# %% [markdown]
# Two rules that the surrogate forces upon one: its own estimate of the objective proves nothing, so the result is simulated anew; and it holds
# in the region that it was trained on, so steps stay within it.
#
# ## Exercises
#
# **1.** *Amortised.* The flow knows the posterior of every observation. Show it: of 1000 tracks, the pull $(\mu_q - \mu)/\sqrt{\Sigma_{kk}}$ of the mean of the flow and
# the exact one. How large may it be if 99 draws are averaged?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
means = fresh.condition.double().numpy() @ (covariance @ A.T / SIGMA**2).T
pulls = (q.mean(1).numpy() - means) / np.sqrt(np.diag(covariance))
print(
    "deviation of the pulls:",
    np.round(pulls.std(0), 3),
    f"of 99 draws alone {1 / math.sqrt(99):.3f}",
)

# %% [markdown]
# **2.** *The noise of gradients.* $x_k \sim N(\psi_k, 1)$ for $k = 1 \ldots D$ and $R = \sum_k x_k^2$: the gradient is $2\psi$. Compare the deviation of one component by
# both estimators from 1000 samples, for $D = 1, 10, 100$ at $\psi = (1, \ldots, 1)$, with $b = \langle R\rangle$.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
generator = np.random.default_rng(3)
for D in (1, 10, 100):
    scores, paths = [], []
    for _ in range(200):
        z = generator.normal(size=(1000, D))
        x = 1 + z
        R = (x**2).sum(1)
        scores.append(((R - 2 * D) * z[:, 0]).mean())
        paths.append((2 * x[:, 0]).mean())
    print(
        f"D = {D:3}: score function {np.mean(scores):.2f} +- {np.std(scores):.3f}, "
        f"pathwise {np.mean(paths):.2f} +- {np.std(paths):.3f}"
    )

# %% [markdown]
# <details><summary>Answer</summary>
#
# The variance of one sample of the score function is that of $R$, about $6D$, times that of $z$; of the pathwise gradient it is 4, whatever $D$ is. That is what a
# surrogate with derivatives buys in many dimensions, and there is little to gain in one or two.
#
# </details>
#
# **3.** *Does the posterior of the tracks contract?* What is the deviation of the curvature with $n$ layers between $-1$ and $1$, and with the prior alone? Where
# would you put eight layers, if curvature is all that counts?


# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
def deviation(z):
    design = np.stack([z**0, z, z**2], 1)
    return math.sqrt(np.linalg.inv(np.eye(3) + design.T @ design / SIGMA**2)[2, 2])


for n in (0, 2, 4, 8, 16, 32):
    print(f"{n:2} layers: {deviation(np.linspace(-1, 1, n)):.3f}")
print(
    f"two at each end, four in the middle: {deviation(np.repeat([-1.0, 0.0, 1.0], [2, 4, 2])):.3f}"
)

# %% [markdown]
# **Where next?** [Inference](../docs/inference.md) with simulators of your own, `physgen infer`; [optimisation](../docs/optimisation.md), with the calls that each
# algorithm needs on four problems, also where local surrogates lose.
