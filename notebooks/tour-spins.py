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
# # A tour: spins
#
# First one run, from training to scorecard: what is in its directory, how its samples are judged. Then four questions of statistical physics: the free
# energy at all temperatures by one network, the distribution of the energy, frustration, and transitions of first order. All of them have exact
# answers to stand beside.
#
# Ising spins $s_i = \pm 1$ have $E = -\sum_{\langle ij\rangle} J_{ij} s_i s_j$ and $p(s) = e^{-E/T}/Z$; temperatures are in units of the coupling.

# %%
import json
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import physgen
from physgen.systems.ising import CRITICAL_TEMPERATURE, Ising
from physgen.systems.potts import Potts, critical_temperature

runs = Path(tempfile.mkdtemp())

# %% [markdown]
# ## One run
#
# A recipe by its name, and what to change in it: a restricted Boltzmann machine (chapter 6) learns 16x16 spins at the critical temperature, at a
# sixth of the steps of its quickstart. The same call again would find the finished run.

# %%
run = physgen.train(
    "ising-rbm",
    preset="quickstart",
    data={"n": 4000},
    engine={"steps": 200, "checkpoint_every": 100},
    sampling={"n": 2000},
    validation={"metrics": [{"kind": "means"}, {"kind": "histograms"}]},
    runs=runs,
    track=False,
)
sorted(str(p.relative_to(run.path)) for p in run.path.iterdir())

# %% [markdown]
# `recipe.yaml` is the recipe with everything settled, `provenance.json` says with which versions and data, `journal.jsonl` has the curves,
# `surrogate/` is what is kept: weights and a card.

# %%
card = json.loads((run.path / "surrogate" / "card.json").read_text())
{key: card[key] for key in ("surrogate", "parameters", "verdict")}

# %% [markdown]
# Each row of the scorecard stands beside its truth-against-truth floor, and beside the exact value where there is one: Kaufman's solution gives
# energy and specific heat of the finite lattice, Beale's the distribution of the energy.

# %%
print(run.scorecard)

# %%
samples = physgen.generate(run, 8, seed=1)
truth = run.system.simulate(8, seed=2)
figure, rows = plt.subplots(2, 8, figsize=(10, 2.9), dpi=70)
for row, batch, name in zip(rows, (truth, samples), ("Monte Carlo", "RBM"), strict=True):
    row[0].set_title(name, loc="left")
    for ax, x in zip(row, batch.x, strict=True):
        ax.imshow(x, cmap="binary", vmin=-1, vmax=1)
        ax.axis("off")
plt.show()

# %% [markdown]
# ## The free energy at all temperatures, by one network
#
# An autoregressive network draws spins one after the other, and knows the probability $q(s)$ of each configuration (Wu, Wang and Zhang, arXiv
# 1809.10606). It learns from the Hamiltonian alone: the variational free energy
#
# $$ F_q = \langle E + T \ln q \rangle_q = F + T\, D_\mathrm{KL}(q\,\|\,p) \;\ge\; F = -T \ln Z . $$
#
# With the weights $w = e^{-E/T}/q$ of independent samples $\langle w\rangle = Z$ exactly, and thermal means are weighted means. Recipe
# `ising-van-range`: one network, whose condition is the temperature, here on 8x8 sites.

# %%
L = 8
scan = physgen.train(
    "ising-van-range",
    {"system.shape": [L, L], "surrogate.network.hidden": 64},
    method={"learning_rate": 0.01, "anneal": 0.98},
    engine={"steps": 600, "batch_size": 256},
    runs=runs,
    score=False,
    track=False,
)
sampler = physgen.load(scan, uncorrected=True)  # proposals with their weights, no Markov chain
temperatures = (1.8, 2.0, 2.15, CRITICAL_TEMPERATURE, 2.4, 2.6, 3.0, 3.4)
drawn, n = {}, 3000
print("  T     F/N, bound   weighted   exact      E/N          exact     ESS")
for T in temperatures:
    batch = sampler.sample(n, seed=1, condition={"temperature": T})
    system = Ising(shape=(L, L), temperature=T)
    log_w = batch.log_weight.double()
    w = torch.softmax(log_w, 0)
    energy = system.observables(batch)["E/N"]
    mean = (w * energy).sum()
    error = (w * (energy - mean)).square().sum().sqrt()
    log_z = torch.logsumexp(log_w, 0) - math.log(n)
    heat = L**2 * (w * (energy - mean).square()).sum() / T**2
    ess = 1 / (n * w.square().sum())
    drawn[T] = (batch, w, energy, log_z.item(), mean.item(), heat.item())
    exact = system.exact()
    print(
        f"{T:.3f}   {-T * log_w.mean() / L**2:.5f}     {-T * log_z / L**2:.5f}   {exact['F/N']:.5f}"
        f"   {mean:.4f}({1e4 * error:.0f})  {exact['E/N']:.4f}   {ess:.3f}"
    )

# %%
axis = np.linspace(1.8, 3.4, 80)
curves = [Ising(shape=(L, L), temperature=float(T)).exact() for T in axis]
figure, axes = plt.subplots(1, 3, figsize=(11, 2.8), dpi=70)
found = {
    "F/N": [-T * drawn[T][3] / L**2 for T in temperatures],
    "E/N": [drawn[T][4] for T in temperatures],
    "C/N": [drawn[T][5] for T in temperatures],
}
for ax, (name, values) in zip(axes, found.items(), strict=True):
    ax.plot(axis, [one[name] for one in curves], "k", lw=1, label="Kaufman")
    ax.plot(temperatures, values, "o", label="network")
    ax.axvline(CRITICAL_TEMPERATURE, color="0.7", lw=0.8)
    ax.set(xlabel="$T$", title=f"${name}$")
axes[0].legend()
plt.show()

# %% [markdown]
# No temperature had chains, and the free energy, which Monte Carlo must integrate for, is a mean. (On 16x16 at $T_c$ the recipe
# `ising-van` reaches an ESS of 0.95 in twelve minutes: [autoregressive spins](../docs/autoregressive.md).)
#
# ## The distribution of the energy
#
# The number of configurations at each energy is known exactly (Beale, Phys. Rev. Lett. 76 (1996) 78): a test of more than means.

# %%
system = Ising(shape=(L, L))
levels, probability = system.distributions()["E/N"]
batch, w, energy, *_ = drawn[CRITICAL_TEMPERATURE]
place = (energy[:, None] - torch.from_numpy(levels)).abs().argmin(1)
weighted = torch.zeros(len(levels), dtype=torch.float64).index_add_(0, place, w)
counted = place.bincount(minlength=len(levels)) / n
steps = np.cumsum(probability)
print(
    f"KS distance to the exact distribution: {np.abs(counted.cumsum(0).numpy() - steps).max():.4f}"
)
print(
    f"with weights                           {np.abs(weighted.cumsum(0).numpy() - steps).max():.4f}"
)
print(f"on average of {n} perfect ones       {0.87 / math.sqrt(n):.4f}")
figure, ax = plt.subplots(figsize=(6, 2.8), dpi=70)
ax.bar(levels, weighted, width=0.05, alpha=0.5, label="network, weighted")
seen = probability > 1e-6
ax.plot(levels[seen], probability[seen], "k.", ms=4, label="Beale")
ax.set(xlabel="$E/N$", ylabel="probability", title="8x8 at $T_c$", xlim=(-2.1, 0.1))
ax.legend()
plt.show()

# %% [markdown]
# ## Frustration
#
# Antiferromagnetic bonds on a triangle cannot all be satisfied. Wannier (1950) found no order and an entropy of $0.32306\,N$ at $T = 0$. With
# bonds $J_{ij} = \pm 1$ drawn at random (`disorder`: a seed) not even the ground state is known beforehand. Below, one configuration of each
# model and its structure factor $S(k) = \langle|\sum_j s_j e^{-ikj}|^2\rangle/N$.

# %%
models = {
    "ferromagnet, T = 2.5": Ising(shape=(12, 12), temperature=2.5),
    "antiferromagnet, T = 2": Ising(shape=(12, 12), temperature=2.0, coupling=-1),
    "triangular, J = -1, T = 0.5": Ising(
        shape=(12, 12), lattice="triangular", coupling=-1, temperature=0.5
    ),
    "random bonds, T = 0.8": Ising(shape=(12, 12), disorder=1, temperature=0.8),
}
figure, axes = plt.subplots(2, 4, figsize=(9, 4.4), dpi=70)
print("                             E/N of Monte Carlo   exact      exact S/N")
for (above, below), (name, model) in zip(axes.T, models.items(), strict=True):
    spins = model.simulate(1000, seed=3)
    above.imshow(spins.x[0], cmap="binary", vmin=-1, vmax=1)
    structure = torch.fft.fft2(spins.x.double()).abs().square().mean(0) / model.n_sites
    below.imshow(torch.fft.fftshift(structure), cmap="magma", vmin=0)
    above.set_title(name, fontsize=9)
    for ax in (above, below):
        ax.axis("off")
    known, energy = model.exact(), model.observables(spins)["E/N"].mean().item()
    line = f"{name:28} {energy:.4f}               "
    if "F/N" in known:
        entropy = (known["E/N"] - known["F/N"]) / model.temperature
        line += f"{known['E/N']:.4f}    {entropy:.4f}"
    print(line)
plt.show()

# %% [markdown]
# The ferromagnet has its peak in the middle, at $k = 0$, the antiferromagnet in the corner, at $(\pi, \pi)$, and the triangular one at the two points of three
# sublattices, $k = \pm(2\pi/3, 2\pi/3)$, without order. Random bonds have no peak at all: their order is seen by nothing that does not know the bonds.
#
# ## First order or second
#
# The Potts model of $q$ values, $E = -\sum \delta(s_i, s_j)$, is critical at $T_c = 1/\ln(1 + \sqrt q)$; the transition is of second order
# up to $q = 4$ and of first order above (Baxter 1973). There two phases coexist. Energies at $T_c$ on the infinite lattice are known: in the mean of the two phases
# $E/N = -(1 + 1/\sqrt q)$, and for $q = 2$ this is where the energy is.

# %%
figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), dpi=70)
for ax, q in zip(axes, (2, 4, 10), strict=True):
    potts = Potts(shape=(24, 24), q=q, temperature=critical_temperature(q))
    energy = potts.observables(potts.simulate(2000, seed=4))["E/N"].numpy()
    ax.hist(energy, bins=50, range=(-2, -0.6), density=True)
    ax.axvline(-(1 + 1 / math.sqrt(q)), color="k", lw=1)
    ax.set(xlabel="$E/N$", title=f"$q = {q}$, $T_c = {potts.temperature:.4f}$")
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** *Three numbers from one.* $F$ at all temperatures gives the rest. Compute $E = F - T\,\partial F/\partial T$ from the network's free energies
# at $T_c \pm 0.05$, and compare with the weighted mean at $T_c$. The same noise for both temperatures (`seed`) makes the difference sharper; why?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
free = {}
for shift in (-0.05, 0.05):
    T = CRITICAL_TEMPERATURE + shift
    log_w = sampler.sample(n, seed=1, condition={"temperature": T}).log_weight.double()
    free[shift] = -(torch.logsumexp(log_w, 0).item() - math.log(n)) / L**2  # F / (N T)
# d(F/T)/dT = -E/T^2
energy = -(CRITICAL_TEMPERATURE**2) * (free[0.05] - free[-0.05]) / 0.1
print(f"from differences {energy:.4f}, weighted mean {drawn[CRITICAL_TEMPERATURE][4]:.4f}")
print(f"exact            {Ising(shape=(L, L)).exact()['E/N']:.4f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# With common random numbers most spins of both samples agree, and the noise of both free energies cancels in their difference.
#
# </details>
#
# **2.** *Another temperature from the same samples* (Ferrenberg and Swendsen 1988): reweight Monte Carlo samples of $T = 2.5$ on 16x16 to other
# temperatures by $e^{-E(1/T' - 1/T)}$. How far does it carry?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
start = Ising(shape=(16, 16), temperature=2.5)
energy = start.observables(start.simulate(20_000, seed=5))["E/N"]
for T in (2.6, 2.45, 2.35, 2.2, 2.0):
    w = torch.softmax(-256 * energy * (1 / T - 1 / 2.5), 0)
    exact = Ising(shape=(16, 16), temperature=T).exact()["E/N"]
    ess = 1 / w.square().sum().item()
    print(f"T = {T:.2f}: E/N {(w * energy).sum():.4f}, exact {exact:.4f}, worth {ess:.0f} of 20000")

# %% [markdown]
# **3.** *Residual entropy.* Follow $S/N = (E - F)/NT$ of the triangular antiferromagnet to low temperatures on 12x12, 24x24 and 48x48, by the exact
# values. What is the limit?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
for size in (12, 24, 48):
    entropies = []
    for T in (1.0, 0.5, 0.25):
        known = Ising(shape=(size, size), lattice="triangular", coupling=-1, temperature=T).exact()
        entropies.append(f"{(known['E/N'] - known['F/N']) / T:.5f}")
    print(f"{size:2}x{size}: T = 1, 0.5, 0.25:", ", ".join(entropies))
print("Wannier: 0.32307")

# %% [markdown]
# **4.** *The Binder cumulant* $U_4 = 1 - \langle m^4\rangle/3\langle m^2\rangle^2$ hardly depends on $L$ at $T_c$. Measure it for $L = 8, 16, 32$ at $T_c$
# and at $T_c \pm 0.1$ with Monte Carlo. (At $T_c$, $L \to \infty$: 0.6107.)

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
for size in (8, 16, 32):
    values = []
    for shift in (-0.1, 0.0, 0.1):
        model = Ising(shape=(size, size), temperature=CRITICAL_TEMPERATURE + shift)
        m = model.simulate(2000, seed=6).x.double().mean((1, 2))
        values.append(1 - m.pow(4).mean() / (3 * m.square().mean() ** 2))
    print(f"L = {size:2}: " + " ".join(f"{one.item():.3f}" for one in values))

# %% [markdown]
# **Where next?** `physgen report RUN` writes the page for people. `physgen train ising-rbm data.path=spins.h5` does the same for your own spins.
# [Spins](../docs/spins.md) has files, lattices and Monte Carlo, [all families](../docs/families-ising.md) a comparison.
