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
# # A tour: lattice field theory
#
# A field on a lattice has the density $p(\phi) = e^{-S(\phi)}/Z$, with an action $S$ that is known and a $Z$ that is not. Monte Carlo walks through it by
# small steps; a flow (chapter 4) draws independent fields in one go, with their density $q$, and weights make them exact:
#
# $$ w(\phi) = \frac{e^{-S(\phi)}}{q(\phi)}, \qquad \langle w \rangle_q = Z, \qquad
#    \langle O \rangle_p = \frac{\langle w\,O \rangle_q}{\langle w \rangle_q}, \qquad
#    \mathrm{ESS} = \frac{\langle w \rangle_q^2}{\langle w^2 \rangle_q} \in (0, 1] . $$
#
# Nothing is needed but the action: training minimises the reverse divergence $D_\mathrm{KL}(q\,\|\,p) = \langle \ln q + S\rangle_q + \ln Z$
# (Albergo, Kanwar and Shanahan, arXiv 1904.12072; a tutorial is arXiv 2101.08176). Three stations: a particle in quantum
# mechanics, where everything is known; $\phi^4$ theory in two dimensions; a gauge theory and its topology.

# %%
import math
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import physgen
from physgen.systems.gauge import Gauge
from physgen.systems.kernels.gauge.heatbath import Chains
from physgen.systems.scalar import Phi4

options = {"runs": Path(tempfile.mkdtemp()), "score": False, "track": False}

# %% [markdown]
# ## Quantum mechanics: a field in one dimension
#
# $$ S = \sum_t \big[(\phi_{t+1} - \phi_t)^2 + m^2 \phi_t^2 + \lambda \phi_t^4\big] $$
#
# on a ring of $T$ sites is the path integral of a particle in a quartic well, two wells for $m^2 < 0$, at inverse temperature $T$. $Z$ is
# the trace of the $T$-th power of the transfer matrix, a few numbers to any precision. The flow is continuous and equivariant under the symmetries of
# the lattice (Gerdes et al., arXiv 2207.00283).

# %%
chain = Phi4(shape=(12,), m2=-2.0, lam=1.0)
run = physgen.train(
    "phi4-flow",
    system={"shape": [12], "m2": -2.0, "lam": 1.0},
    engine={"steps": 150, "batch_size": 128},
    **options,
)


def proposals(run, n=2000, seed=1):
    """Independent fields of the flow, and ln w of each."""
    batch = physgen.load(run, uncorrected=True).sample(n, seed=seed)
    return batch.x.double(), batch.log_weight.double()


def weighted(values, log_w):
    """Mean with weights and its error."""
    w = torch.softmax(log_w, 0)
    mean = (w * values).sum()
    return mean.item(), (w * (values - mean)).square().sum().sqrt().item()


def summary(log_w):
    """ln Z, its error, and the effective sample size."""
    n, w = len(log_w), torch.softmax(log_w, 0)
    ess = 1 / (n * w.square().sum().item())
    return (torch.logsumexp(log_w, 0) - math.log(n)).item(), math.sqrt((1 / ess - 1) / n), ess


paths, log_w = proposals(run)
exact = chain.exact()
log_z, error, ess = summary(log_w)
print(f"ESS {ess:.3f}")
print(f"ln Z  {log_z:.4f} +- {error:.4f}, exact {exact['ln Z']:.4f}; bound {log_w.mean():.4f}")
for name, power in (("phi^2", 2), ("phi^4", 4)):
    values = paths.pow(power).mean(1)
    mean, error = weighted(values, log_w)
    print(
        f"{name} {mean:.4f} +- {error:.4f}, exact {exact[name]:.4f}; unweighted {values.mean():.4f}"
    )

# %%
axis = np.linspace(-2.5, 2.5, 400)
well = (chain.m2 + 2) * axis**2 + chain.lam * axis**4
matrix = np.exp(2 * np.outer(axis, axis) - 0.5 * (well[:, None] + well))
levels, states = np.linalg.eigh(matrix)
share = (levels / levels[-1]) ** 12
density = (states**2 @ share) / share.sum() / (axis[1] - axis[0])

figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), dpi=70)
for path in paths[:12]:
    axes[0].plot(range(13), torch.cat([path, path[:1]]), lw=1)
axes[0].set(xlabel="$t$", ylabel=r"$\phi_t$", title="paths drawn by the flow")
weights = torch.softmax(log_w, 0).repeat_interleave(12)
axes[1].hist(paths.flatten(), 60, weights=weights, density=True, alpha=0.5, label="flow, weighted")
axes[1].plot(axis, density, "k", lw=1, label="transfer matrix")
axes[1].set(xlabel=r"$\phi$", title="where the particle is")
axes[1].legend()
plt.show()

# %% [markdown]
# ## Two dimensions
#
# $\phi^4$ theory on 6x6 sites, $m^2 = -4$, $\lambda = 6.975$, where the correlation length is a quarter of the lattice. Reference values are of long hybrid Monte Carlo
# runs. The first column is what the flow makes, the second the same fields with their weights.

# %%
L = 6
theory = Phi4(shape=(L, L), m2=-4.0, lam=6.975)
run = physgen.train(
    "phi4-flow",
    system={"shape": [L, L], "m2": -4.0, "lam": 6.975},
    engine={"steps": 200, "batch_size": 128},
    **options,
)
fields, log_w = proposals(run, 4000)
log_z, error, ess = summary(log_w)
print(f"ESS {ess:.3f}, ln Z = {log_z:.4f} +- {error:.4f}")
magnetisation = fields.mean((1, 2))
observables = {
    "phi^2": fields.square().mean((1, 2)),
    "|m|": magnetisation.abs(),
    "chi2": L**2 * magnetisation.square(),
}
print("        flow      weighted            reference")
for name, values in observables.items():
    mean, error = weighted(values, log_w)
    known, known_error = theory.reference()[name]
    print(
        f"{name:6}  {values.mean():.4f}    {mean:.4f} +- {error:.4f}    {known:.4f} +- {known_error:.4f}"
    )

# %% [markdown]
# Instead of weights the fields may be proposals of an independence Metropolis chain, accepted with $\min(1, w'/w)$: that is what
# `physgen.load(run).sample` returns here, because the recipe says `sampling.correction: independence-metropolis`. A rejected proposal
# repeats the field before it.

# %%
chain = physgen.load(run).sample(4000, seed=2)
repeats = (chain.x[1:] == chain.x[:-1]).flatten(1).all(1).double().mean().item()
w = (log_w - log_w.max()).exp()
pairs = torch.minimum(w, w[torch.randperm(4000, generator=torch.Generator().manual_seed(0))])
print(f"accepted {1 - repeats:.3f}; <min(w, w')> / <w> = {(pairs.mean() / w.mean()).item():.3f}")

monte_carlo = theory.simulate(4000, seed=3).x.double()


def correlator(fields, weights):
    """<Phi(t) Phi(0)> of the mean field of a row, for t = 0 ... L/2, over both axes."""
    values = []
    for t in range(L // 2 + 1):
        rows = [fields.mean(axis) for axis in (1, 2)]
        values.append(sum((r * r.roll(t, 1)).mean(1) for r in rows) / 2)
    values = torch.stack(values, 1)
    mean = weights @ values
    return mean, (weights[:, None] * (values - mean)).square().sum(0).sqrt()


figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), dpi=70)
axes[0].hist((log_w - log_z).numpy(), 60, density=True)
axes[0].set(xlabel=r"$\ln w - \ln Z$", title=f"weights, ESS {ess:.3f}")
even = torch.full((4000,), 1 / 4000, dtype=torch.float64)
for name, x, weights, marker in (
    ("hybrid Monte Carlo", monte_carlo, even, "s"),
    ("flow, weighted", fields, torch.softmax(log_w, 0), "o"),
):
    mean, error = correlator(x, weights)
    shift = 0.04 if marker == "o" else 0.0
    axes[1].errorbar(
        [t + shift for t in range(L // 2 + 1)], mean, error, fmt=marker, label=name, mfc="none"
    )
axes[1].set(xlabel="$t$", yscale="log", title=r"$\langle \Phi(t)\, \Phi(0) \rangle$")
axes[1].legend()
plt.show()

# %%
figure, axes = plt.subplots(2, 8, figsize=(9, 2.6), dpi=70)
rows = {"hybrid Monte Carlo": monte_carlo[::500], "flow": fields[:8]}
for row, (name, pictures) in zip(axes, rows.items(), strict=True):
    row[0].set_title(name, loc="left", fontsize=10)
    for ax, picture in zip(row, pictures, strict=True):
        ax.imshow(picture, cmap="coolwarm", vmin=-1, vmax=1)
        ax.axis("off")
plt.show()

# %% [markdown]
# ## A gauge theory that needs no training
#
# U(1) links on 8x8, $S = -\beta \sum_P \cos\theta_P$, periodic. In two dimensions plaquettes are independent but for one constraint, and the sampler
# `closure-defect` draws them and puts the constraint into the density. All is known exactly besides: with Bessel functions $I_n$ and $V$ plaquettes
#
# $$ Z = \sum_{n=-\infty}^{\infty} I_n(\beta)^V, \qquad
#    \langle Q^2\rangle \ne 0, \quad Q = \tfrac1{2\pi} \sum_P \theta_P \in \mathbb Z, \; \theta_P \in (-\pi, \pi] . $$

# %%
print(
    "beta  ESS     ln Z               exact      plaquette          exact    Q^2             exact"
)
for beta in (1.0, 2.0, 4.0, 6.0):
    gauge = Gauge(group="U(1)", shape=(8, 8), beta=beta)
    made = physgen.train("u1-2d", {"system.beta": beta, "surrogate.beta": beta}, **options)
    batch = physgen.load(made, uncorrected=True).sample(2000, seed=1)
    log_w = batch.log_weight.double()
    log_z, error, ess = summary(log_w)
    line = f"{beta:3}   {ess:.3f}   {log_z:8.3f} +- {error:.3f}  {gauge.exact()['ln Z']:8.3f}"
    measured = gauge.observables(batch)
    for name in ("plaquette", "Q^2"):
        mean, error = weighted(measured[name].double(), log_w)
        line += f"   {mean:.4f} +- {error:.4f}  {gauge.exact()[name]:.4f}"
    print(line)

# %% [markdown]
# ## Frozen topology
#
# Where the lattice is fine ($\beta$ large) local updates hardly ever change $Q$: between sectors lie fields of large action. Heat bath with two
# overrelaxations, eight chains from random links, and independent samples beside them:

# %%
figure, axes = plt.subplots(1, 3, figsize=(11, 2.4), dpi=70, sharey=True)
for ax, beta in zip(axes, (2.0, 4.0, 7.0), strict=True):
    gauge = Gauge(group="U(1)", shape=(8, 8), beta=beta)
    start = gauge.arbitrary(8, torch.Generator().manual_seed(4))
    chains = Chains(start.numpy(), beta=beta, seed=4)
    chains.sweep(200, 2)
    history = []
    for _ in range(400):
        chains.sweep(1, 2)
        history.append(gauge.observables(physgen.Batch(torch.as_tensor(chains.links())))["Q"])
    history = torch.stack(history)
    changes = (history[1:].round() != history[:-1].round()).double().mean().item()
    exact = gauge.exact()["Q^2"]
    print(
        f"beta {beta}: {changes:6.2%} of the steps change Q, <Q^2> {history.square().mean():.3f}, exact {exact:.3f}"
    )
    ax.plot(history[:, :3], lw=1)
    ax.set(xlabel="step", title=rf"$\beta$ = {beta:.0f}")
axes[0].set_ylabel("$Q$")
plt.show()

# %% [markdown]
# ## Exercises
#
# **1.** *The price of volume.* Let two lattices that do not interact be drawn by the same flow: the weights multiply. What becomes of the ESS
# of $k$ copies? Check it by joining the 6x6 fields above in twos, fours and eights.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
log_w = proposals(run, 4000)[1]
one = summary(log_w)[2]
for k in (1, 2, 4, 8):
    joined = log_w.reshape(-1, k).sum(1)
    print(f"{k} copies: ESS {summary(joined)[2]:.3f}, ESS^{k} = {one**k:.3f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# $\langle w_1 w_2\rangle^2/\langle w_1^2 w_2^2\rangle$ factorises: $\mathrm{ESS}^k$. At a fixed quality per site the ESS falls exponentially with the
# volume, as soon as the lattice is larger than the correlation length: the reason why flows have to become better as lattices become larger.
#
# </details>
#
# **2.** *A free field is normal.* For $\lambda = 0$, $m^2 = 1$ draw fields of 8x8 exactly and show that all weights are alike: $\ln w = \ln Z$. (The
# matrix $M$ of $S = \phi^T M \phi$ is half of the Hessian.)

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
free = Phi4(shape=(8, 8), m2=1.0, lam=0.0)
hessian = torch.autograd.functional.hessian(
    lambda x: free.action(x.reshape(1, 8, 8)).sum(), torch.zeros(64, dtype=torch.float64)
)
normal = torch.distributions.MultivariateNormal(
    torch.zeros(64, dtype=torch.float64), precision_matrix=hessian
)
x = normal.sample((1000,))
log_w = -free.action(x.reshape(-1, 8, 8)) - normal.log_prob(x)
print(f"ln w from {log_w.min():.6f} to {log_w.max():.6f}, exact ln Z {free.exact()['ln Z']:.6f}")
assert (log_w - free.exact()["ln Z"]).abs().max() < 1e-6

# %% [markdown]
# **3.** *The mass gap.* Which rate of decay has $\langle\phi_t\phi_0\rangle$ on a long ring? Read it from the transfer matrix above, for $m^2 = -2$ and,
# with deeper wells, $m^2 = -4$ (both $\lambda = 1$). What does the second one do to a Markov chain, and to a flow?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
for m2 in (-2.0, -4.0):
    axis = np.linspace(-3.5, 3.5, 500)
    well = (m2 + 2) * axis**2 + axis**4
    levels = np.linalg.eigvalsh(np.exp(2 * np.outer(axis, axis) - 0.5 * (well[:, None] + well)))
    print(f"m^2 = {m2}: E_1 - E_0 = {math.log(levels[-1] / levels[-2]):.4f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# $E_1 - E_0 = \ln(\Lambda_0/\Lambda_1)$. Tunnelling makes it small: the particle stays in a well for the time $1/(E_1 - E_0)$, a Markov chain with small
# steps does so as well, and a flow trained by reverse KL may leave out one of the wells, with an ESS that looks perfect. Here the symmetry
# $\phi \to -\phi$ is built in; elsewhere look at the ESS on true fields (row "ESS on truth").
#
# </details>
#
# **4.** *The area law.* Without the constraint $\langle \mathrm{Re}\,W(r\times t)\rangle = (I_1/I_0)^{rt}$. Compare with measured loops at $\beta = 2$.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
from scipy.special import iv

gauge = Gauge(group="U(1)", shape=(8, 8), beta=2.0)
loops = gauge.observables(gauge.simulate(4000, seed=5))
ratio = iv(1, 2.0) / iv(0, 2.0)
for name, area in (("plaquette", 1), ("W(1x2)", 2), ("W(2x2)", 4)):
    print(f"{name:9} {loops[name].mean():.4f}, (I_1/I_0)^{area} = {ratio**area:.4f}")
print(f"string tension ln(I_0/I_1) = {-math.log(ratio):.4f}")

# %% [markdown]
# **Where next?** `phi4-conditional` (all couplings by one flow), `schwinger-flow` (fermions), `su3-2d` and `su3-4d` (non-abelian groups);
# [lattices](../docs/lattices.md) sets them beside Monte Carlo, also where they lose. Configurations of your own:
# [files](../docs/lattice-files.md); an action of your own: [one file of Python](../docs/howto/action.md).
