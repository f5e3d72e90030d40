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
# # 6. Boltzmann machines and energy models
#
# An energy model says which states are likely, up to a constant:
#
# $$ p_\theta(s) = \frac{e^{-F_\theta(s)}}{Z_\theta}, \qquad Z_\theta = \sum_s e^{-F_\theta(s)} . $$
#
# For the restricted Boltzmann machine of visible spins $s_i = \pm 1$ and hidden spins $h_j = \pm 1$ (Smolensky
# 1986; Hinton 2002; a physicist's review is Decelle and Furtlehner, arXiv 2011.11307),
#
# $$ E(s, h) = -\sum_i a_i s_i - \sum_j b_j h_j - \sum_{ij} h_j W_{ji} s_i , \qquad
#    F(s) = -\sum_i a_i s_i - \sum_j \ln 2\cosh\!\big(b_j + \textstyle\sum_i W_{ji} s_i\big) . $$
#
# Summing the hidden spins exactly is easy, $Z$ is not. The gradient of the likelihood needs only a mean over
# each of two distributions,
#
# $$ \frac{\partial \langle\log p_\theta\rangle_\mathrm{data}}{\partial W_{ji}}
#    = \big\langle \tanh(b_j + (Ws)_j)\, s_i \big\rangle_\mathrm{data}
#    - \big\langle \tanh(b_j + (Ws)_j)\, s_i \big\rangle_{p_\theta} , $$
#
# of which the second comes from Gibbs sampling of the machine: $k$ sweeps from the data (contrastive
# divergence, CD-$k$) or of chains that live through the training (persistent, PCD: Tieleman 2008).

# %%
import itertools
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import torch

import physgen
from physgen.run import Run

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## A model small enough to enumerate
#
# The Ising model on 4x4 sites has $2^{16}$ states: the Boltzmann distribution, the machine's $Z$, and the
# distance between the two are sums over all of them, without any sampling error. The system is that
# of the recipe `ising-rbm`, at the critical temperature of the infinite lattice.

# %%
budget = {
    "system.shape": [4, 4],
    "data.n": 20_000,
    "surrogate": {"kind": "rbm", "hidden": 24, "spin_flip_symmetric": True, "n_chains": 512},
    "engine.steps": 800,
    "engine.batch_size": 512,
}
methods = {
    "CD-1": {"kind": "contrastive-divergence", "k": 1, "learning_rate": 0.02},
    "PCD-5": {"kind": "persistent-contrastive-divergence", "k": 5, "learning_rate": 0.02},
}
runs = {
    name: physgen.train(
        "ising-rbm",
        budget | {"method": method},
        preset="quickstart",
        runs=folder,
        score=False,
        track=False,
    )
    for name, method in methods.items()
}
system = Run(runs["PCD-5"].path).system
states = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=16))).reshape(-1, 4, 4)
action = system.action(states).double()
log_p = -action - torch.logsumexp(-action, 0)

# %%
log_q, log_z = {}, {}
for name, run in runs.items():
    machine = physgen.load(run).surrogate
    with torch.no_grad():
        free_energy = machine.free_energy(states).double()
    log_z[name] = torch.logsumexp(-free_energy, 0)
    log_q[name] = -free_energy - log_z[name]
    divergence = (log_p.exp() * (log_p - log_q[name])).sum().item()
    energy = (log_q[name].exp() * action).sum().item() * system.temperature / system.n_sites
    print(f"{name:6} KL(p||q) = {divergence:.4f} nats   E/N = {energy:.4f}")
exact = (log_p.exp() * action).sum().item() * system.temperature / system.n_sites
print(f"exact                            E/N = {exact:.4f}   (Kaufman {system.exact()['E/N']:.4f})")

# %% [markdown]
# The enumeration agrees with Kaufman's solution of the finite torus (Phys. Rev. 76 (1949) 1232). The picture
# compares every state: a perfect machine lies on the diagonal.
#
# CD is biased, PCD is not, and yet CD-1 need not lose here: this small machine mixes within a few sweeps, so that
# its bias is small, and at a fixed learning rate the noise of the chains costs something too. Where mixing is slow, in
# ordered phases and on real data, this turns round.

# %%
figure, axes = plt.subplots(1, 2, figsize=(8, 3.4), dpi=70, sharey=True)
for ax, (name, log) in zip(axes, log_q.items(), strict=True):
    ax.hexbin(log_p, log, gridsize=50, bins="log", cmap="viridis")
    ax.plot([-30, 0], [-30, 0], "k--", lw=1)
    ax.set(xlabel=r"$\ln p$ exact", title=name, xlim=(-18, 0), ylim=(-25, 0))
axes[0].set_ylabel(r"$\ln q$ of the machine")
plt.show()

# %% [markdown]
# ## The partition function, when it cannot be summed
#
# Annealed importance sampling (Neal, physics/9803008; Salakhutdinov and Murray 2008) goes from independent
# spins to the machine through $\beta \in [0, 1]$. Its weights give $\langle w\rangle = Z/Z_0$; that is Jarzynski's
# equality, and by Jensen's inequality $\langle\ln w\rangle$ is a lower bound on average. The way back gives an
# upper one.

# %%
machine = physgen.load(runs["PCD-5"]).surrogate
rows = []
for n_steps in (10, 30, 100, 300):
    generator = torch.Generator().manual_seed(1)
    bracket = machine.log_partition_function(generator=generator, n_steps=n_steps)
    low, high = bracket.forward, bracket.reverse
    rows.append((n_steps, low.value, low.error, high.value, high.error))
    print(
        f"{n_steps:4} steps: forwards {low.value:.3f} +- {low.error:.3f}, "
        f"backwards {high.value:.3f} +- {high.error:.3f}"
    )
print(f"enumerated: ln Z = {log_z['PCD-5'].item():.3f}")

figure, ax = plt.subplots(figsize=(4.5, 2.8), dpi=70)
steps, low, low_error, high, high_error = zip(*rows, strict=True)
ax.errorbar(steps, low, low_error, fmt="^", label="forwards")
ax.errorbar(steps, high, high_error, fmt="v", label="backwards")
ax.axhline(log_z["PCD-5"].item(), color="k", lw=1, label="enumerated")
ax.set(xscale="log", xlabel="steps of annealing", ylabel=r"$\ln Z$")
ax.legend()
plt.show()

# %% [markdown]
# ## A larger lattice: the machine knows the symmetry
#
# On 16x16 sites a dense machine has a weight for every pair, though all places of a torus are alike. With
# filters that are shared by all places (`filter_size`) 8 weights suffice. The critical point is the
# hardest one: the correlation length is that of the lattice.

# %%
run_16 = physgen.train(
    "ising-rbm",
    {
        "data.n": 6000,
        "engine.steps": 250,
        "sampling.n": 4096,
        "validation.metrics": [{"kind": "means"}],
    },
    preset="quickstart",
    runs=folder,
    track=False,
)
print(run_16.scorecard)

# %% [markdown]
# The table is read as in the [documentation](../docs/scorecard.md): value and error, the same for two halves of the truth
# (the floor), the exact value. The budget of this notebook is a fifth of the quickstart's steps, and the pulls show it.

# %%
samples = physgen.generate(run_16, 6, seed=1).x
truth = run_16.system.simulate(6, seed=2).x
figure, axes = plt.subplots(2, 6, figsize=(8, 2.9), dpi=70)
for row, spins, name in zip(axes, (truth, samples), ("Monte Carlo", "machine"), strict=True):
    row[0].set_title(name, loc="left")
    for ax, configuration in zip(row, spins, strict=True):
        ax.imshow(configuration, cmap="binary", vmin=-1, vmax=1)
        ax.axis("off")
plt.show()

# %% [markdown]
# ## Any network as energy
#
# $F_\theta$ may be any network $E_\theta(x)$ of real numbers. Sampling is then by Langevin steps
#
# $$ x' = x - \tfrac{\epsilon^2}{2} \nabla E_\theta(x) + \epsilon\, \xi, \qquad \xi \sim \mathcal N(0, 1), $$
#
# with $E_\theta(x) = x^2/2 + g_\theta(x)$, so that a network that knows nothing leaves normal noise; a step is
# accepted or not by Metropolis (Roberts and Tweedie 1996), and training is as before: lower the energy of the
# data, raise that of the chains (Du and Mordatch, arXiv 1903.08689). Recipe `digits-energy`:

# %%
run = physgen.train("digits-energy", {"engine.steps": 200}, runs=folder, score=False, track=False)
digits = physgen.load(run)
energy_model = digits.surrogate
real = run.training_sample()[:500]
made = digits.sample(500, seed=1)
generator = torch.Generator().manual_seed(2)
order = torch.rand(500, 64, generator=generator).argsort(0)  # every pixel among the images
shuffled = real.x.flatten(1).gather(0, order).reshape(500, 8, 8)


def energy(x):
    mapped, _ = energy_model.transform.bound(physgen.Batch(x), torch.Generator().manual_seed(3))
    with torch.no_grad():
        return energy_model.energy(energy_model.units(mapped.x))


figure, axes = plt.subplots(1, 9, figsize=(11, 1.5), dpi=70)
for ax, picture in zip(axes, made.x, strict=False):
    ax.imshow(picture, cmap="binary")
    ax.axis("off")
plt.show()

figure, ax = plt.subplots(figsize=(5, 2.8), dpi=70)
for name, x in {"data": real.x, "generated": made.x, "shuffled pixels": shuffled}.items():
    ax.hist(energy(x).numpy(), bins=40, alpha=0.5, label=name)
ax.set(xlabel=r"$E_\theta(x)$", ylabel="images")
ax.legend()
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** *The gradient.* For a machine of 4x4 spins compute the model's mean in the gradient of the likelihood
# exactly, by enumeration, and compare with automatic differentiation of $\ln Z$:
# $\partial \ln Z/\partial W_{ji} = \langle \tanh(\cdot)_j s_i\rangle$.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
generator = torch.Generator().manual_seed(4)
weight = (0.2 * torch.randn(6, 16, generator=generator, dtype=torch.float64)).requires_grad_()
s = states.reshape(-1, 16).double()
log_weight = torch.log(2 * torch.cosh(s @ weight.T)).sum(1)
(gradient,) = torch.autograd.grad(torch.logsumexp(log_weight, 0), weight)
with torch.no_grad():
    p = torch.softmax(log_weight, 0)
    mean = torch.einsum("n,nj,ni->ji", p, torch.tanh(s @ weight.T), s)
print(f"largest difference {(gradient - mean).abs().max().item():.1e}")
assert torch.allclose(gradient, mean)

# %% [markdown]
# **2.** *Detailed balance.* A sweep of block Gibbs sampling is $T(s'|s) = \sum_h p(s'|h)\, p(h|s)$. Build $T$ for a
# machine of four visible and two hidden spins, and check $p(s) T(s'|s) = p(s') T(s|s')$.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
small = weight.detach()[:2, :4] * 3
visible = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=4)), dtype=torch.float64)
hidden = torch.tensor(list(itertools.product([-1.0, 1.0], repeat=2)), dtype=torch.float64)
joint = torch.exp(visible @ small.T @ hidden.T)
joint /= joint.sum()
p = joint.sum(1)
to_hidden, to_visible = joint / p[:, None], (joint / joint.sum(0)).T
transition = to_hidden @ to_visible
flux = p[:, None] * transition
print(f"rows sum to one: {torch.allclose(transition.sum(1), torch.ones(16).double())}")
print(f"largest violation of detailed balance {(flux - flux.T).abs().max().item():.1e}")
assert torch.allclose(flux, flux.T)

# %% [markdown]
# **3.** *Reading the couplings.* Expand $F(s)$ for small weights: $\ln 2\cosh y \approx \ln 2 + y^2/2$. Which
# effective couplings $J_{ik}$ do visible spins have? Draw those of the first spin of the 4x4 machine beside
# the truth: $1/T$ at the four neighbours, nothing elsewhere.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
weight = machine.coefficients().weight.double() / 4  # of 0/1 units it is 4 times that of spins
exact_couplings = torch.zeros(4, 4)
for place in ((0, 1), (0, 3), (1, 0), (3, 0)):
    exact_couplings[place] = 1 / system.temperature
quadratic = (weight @ weight.T)[0].reshape(4, 4)
# All orders: J = mean over states of s_0 s_k times -F, the pair's coefficient in a spin expansion.
with torch.no_grad():
    minus_f = -machine.free_energy(states).double()
pairs = (states.double()[:, :1, :1] * states.double() * minus_f[:, None, None]).mean(0)
figure, axes = plt.subplots(1, 3, figsize=(8, 2.5), dpi=70)
named = {"$1/T$": exact_couplings, "second order": quadratic, "all orders": pairs}
for ax, (name, couplings) in zip(axes, named.items(), strict=True):
    couplings = couplings.clone()
    couplings[0, 0] = 0
    picture = ax.imshow(couplings, vmin=-0.6, vmax=0.6, cmap="coolwarm")
    ax.set_title(name)
figure.colorbar(picture, ax=axes)
plt.show()

# %% [markdown]
# <details><summary>Answer</summary>
#
# $J_{ik} = \sum_j W_{ji} W_{jk}$ at second order. The weights are not small, and the full coefficient of $s_i s_k$ is the
# projection of $-F$ on it, a mean over all states alike. Neighbours stand out, but the map is not exact: states that the
# data hardly ever show have their weight in this mean, and there the machine is free to be wrong.
#
# </details>
#
# **4.** *Samples that are a chain.* Measure $|m|$ of the 16x16 machine from 512 chains of Gibbs sampling that
# start all up, after 1, 3, 10, 30, 100 and 300 sweeps. When have they forgotten where they started?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
large = physgen.load(run_16).surrogate
generator = torch.Generator().manual_seed(5)
spins, done = torch.ones(512, 16, 16), 0
with torch.no_grad():
    for sweeps in (1, 3, 10, 30, 100, 300):
        spins = large.gibbs(spins, sweeps - done, generator)
        done = sweeps
        m = spins.mean((1, 2)).abs()
        error = m.std().item() / math.sqrt(len(m))
        print(f"{sweeps:4} sweeps: |m| = {m.mean().item():.3f} +- {error:.3f}")

# %% [markdown]
# **Where next?** `ising-machine` is the dense machine of 16x16 spins, `digits-rbm`, `digits-rbm-cd` and
# `digits-gaussian-rbm` are machines of images; `physgen compare ising` sets them beside the other families.
