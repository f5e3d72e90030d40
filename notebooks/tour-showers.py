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
# # A tour: showers in a calorimeter
#
# A photon of some GeV enters a block of lead and liquid argon and becomes a shower of thousands of particles; what is seen is the energy in the voxels of the
# calorimeter. Simulating that, particle by particle, takes most of the computing time of an LHC experiment. A surrogate draws
# $q(x\,|\,E_\mathrm{inc})$, 368 numbers given one, in a millisecond. Whether it may replace the simulation is a question of a few distributions:
#
# - the *response* $E_\mathrm{tot}/E_\mathrm{inc}$ and its *resolution*, the width, which falls as $a/\sqrt{E} \oplus c$;
# - where the energy lies: shares of layers, centres and widths;
# - all that nobody thought of, which a *classifier* looks for.
#
# The simulation here is the parametrised one that physgen ships (gamma-distributed profiles, sampling fluctuations, cross-talk), not Geant4: its truth is endless. With
# showers of Geant4 all is the same but for `data.path`.

# %%
import tempfile
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
import torch

import physgen
from physgen.errors import DomainError
from physgen.systems.calorimeter import Calorimeter

folder = Path(tempfile.mkdtemp())
detector = Calorimeter()  # Photons of 1 to 256 GeV, log-uniform.
truth = detector.simulate(6000, seed=11)
print(
    truth.x.shape,
    "energies in MeV;",
    truth.condition.min().item(),
    "to",
    truth.condition.max().item(),
)
for layer in detector.geometry.layers:
    print(
        f"layer {layer.id:2}: {len(layer.r_edges) - 1:2} rings to {layer.r_edges[-1]:4.0f} mm, {layer.n_alpha:2} sectors"
    )


# %%
def layer_of(shower, number):
    """One layer of a shower, as sectors and rings."""
    layers = detector.geometry.layers
    sizes = [(len(one.r_edges) - 1) * one.n_alpha for one in layers]
    start = sum(sizes[:number])
    return shower[start : start + sizes[number]].reshape(layers[number].n_alpha, -1)


def show(ax, shower, number, most):
    layer = detector.geometry.layers[number]
    edges = np.sqrt(layer.r_edges)  # The core is narrow.
    alpha = np.linspace(0, 2 * np.pi, layer.n_alpha + 1)
    values = np.ma.masked_equal(np.asarray(layer_of(shower, number)), 0)
    ax.pcolormesh(alpha, edges, np.ma.log10(values).T, vmin=0, vmax=most, cmap="inferno_r")
    ax.set(xticks=[], yticks=[])


def row_of_showers(batch, title):
    figure, axes = plt.subplots(1, 6, figsize=(10, 1.9), dpi=70, subplot_kw={"projection": "polar"})
    figure.suptitle(title, fontsize=10)
    for ax, shower in zip(axes, batch.x, strict=False):
        show(ax, shower, 2, 4.5)
    plt.show()


energy = torch.full((6, 1), 50_000.0)
row_of_showers(
    detector.simulate(6, 1, energy),
    "Photons of 50 GeV, layer 2, log of the energy: simulation",
)

# %% [markdown]
# ## A tree of divisions
#
# The surrogate `shower-flow` draws the total energy given $E_\mathrm{inc}$, divides it among layers, and each layer's by halves down to single voxels,
#
# $$ q(x\,|\,E_\mathrm{inc}) = q(E_\mathrm{tot}\,|\,E_\mathrm{inc}) \prod_{\mathrm{nodes}} q(\text{share, occupied voxels of the halves}\,|\,\text{energy, number, those before}) . $$
#
# Energy is conserved at every step, zeros are drawn and no by-product, and the density is exact. Here it learns from 6,000 showers for less than half a minute, a thirtieth of the
# recipe's budget.

# %%
run = physgen.train(
    "calo-flow",
    {
        "data.n": 6000,
        "engine.steps": 100,
        "engine.batch_size": 128,
        "engine.ema": 0.97,
        "sampling.n": 2000,
        "validation.metrics": [
            {"kind": "means"},
            {"kind": "classifier", "model": "boosted", "level": "high"},
        ],
    },
    preset="quickstart",
    runs=folder,
    track=False,
)
surrogate = physgen.load(run)
made = surrogate.sample(6000, seed=1, condition=truth.condition)
row_of_showers(surrogate.sample(6, seed=1, condition=energy), "the same by the surrogate")

# %% [markdown]
# ## Response and resolution
#
# In bins of energy; a histogram of generated showers must be set beside a *second* true sample (grey), since two finite samples of the truth differ, too.

# %%
second = detector.simulate(6000, 12, truth.condition)
edges = np.geomspace(1e3, 256e3, 9)


def response(batch):
    """Mean and width of E_tot/E_inc in bins of energy, with errors."""
    ratio = (batch.x.double().sum(1) / batch.condition[:, 0]).numpy()
    bins = np.digitize(batch.condition[:, 0].numpy(), edges) - 1
    parts = [ratio[bins == k] for k in range(8)]
    mean = [(p.mean(), p.std() / np.sqrt(len(p))) for p in parts]
    width = [(p.std() / p.mean(), p.std() / p.mean() / np.sqrt(2 * len(p))) for p in parts]
    return np.array(mean).T, np.array(width).T


middle = np.sqrt(edges[1:] * edges[:-1]) / 1e3
figure, axes = plt.subplots(1, 2, figsize=(9, 3), dpi=70)
for name, batch, style in (
    ("simulation", truth, {"fmt": "ks", "mfc": "none"}),
    ("simulation again", second, {"fmt": "s", "color": "0.6"}),
    ("surrogate", made, {"fmt": "C3o"}),
):
    for ax, (value, error) in zip(axes, response(batch), strict=True):
        ax.errorbar(middle, value, error, label=name, ms=4, **style)
fine = np.geomspace(1, 256, 100)
sampling, constant = np.polyfit(1 / middle, response(truth)[1][0] ** 2, 1)
label = rf"{np.sqrt(sampling):.1%}$/\sqrt{{E}} \oplus$ {np.sqrt(max(constant, 0)):.1%}"
axes[1].plot(fine, np.sqrt(sampling / fine + max(constant, 0)), "k", lw=1, label=label)
axes[0].set(xscale="log", xlabel="E [GeV]", title=r"$\langle E_{tot}/E_{inc}\rangle$")
axes[1].set(xscale="log", yscale="log", xlabel="E [GeV]", title="resolution")
axes[1].legend()
plt.show()

# %% [markdown]
# ## Where the energy lies

# %%
names = {
    "fraction_1": "share of layer 1",
    "centre_eta_2": "centre in layer 2 [mm]",
    "width_eta_2": "width in layer 2 [mm]",
    "occupied_2": "occupied share of layer 2",
}
figure, axes = plt.subplots(1, 4, figsize=(12, 2.6), dpi=70)
for ax, (name, title) in zip(axes, names.items(), strict=True):
    values = [detector.observables(batch)[name].double() for batch in (truth, second, made)]
    values = [v[v.isfinite()] for v in values]
    low, high = np.quantile(values[0], [0.002, 0.998])
    bins = np.linspace(low, high, 30)
    ax.hist(values[0], bins, color="0.85", density=True, label="simulation")
    ax.hist(values[1], bins, color="0.5", density=True, histtype="step", label="again")
    ax.hist(values[2], bins, color="C3", density=True, histtype="step", label="surrogate")
    ax.set(title=title, yticks=[])
axes[0].legend(fontsize=8)
plt.show()

# %% [markdown]
# ## What a classifier finds
#
# The scorecard of the run: every row beside its floor, which is the difference of two true samples, or the AUC between them. An area under the curve (AUC) of 0.5 is a coin, of 1 a shower that is seen through at once.

# %%
for row in run.scorecard.rows:
    if row.metric == "classifier" or row.name in ("E_tot/E_inc", "fraction_1", "width_eta_2"):
        line = f"{row.name:36} {row.value:.4f} +- {row.error:.4f}   floor {row.floor:.4f}"
        print(line if row.exact is None else f"{line}   truth {row.exact:.4f}")

# %% [markdown]
# After so little training the classifier sees it. At the full budget, 25 minutes of CPU time, AUC is .51 and 22,000 of 33,400 showers' worth of
# information is there ([fast simulation](../docs/fast-simulation.md)).
#
# ## The valid domain
#
# A surrogate knows what it was trained on. Elsewhere it refuses, and does not extrapolate in silence; an exported one carries the domain in its card.

# %%
try:
    surrogate.sample(1, seed=1, condition=torch.tensor([[500_000.0]]))
except DomainError as error:
    print(error)

# %% [markdown]
# ## Exercises
#
# **1.** *Correlations.* Every histogram above may be right and the showers wrong. Compare the correlations of the shares of layers with each other and with $\ln E$.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
shares = [f"fraction_{k}" for k in (0, 1, 2, 3)]
for name, batch in (("simulation", truth), ("again", second), ("surrogate", made)):
    columns = [detector.observables(batch)[share].double() for share in shares]
    matrix = np.corrcoef(torch.stack([*columns, batch.condition[:, 0].double().log()]).numpy())
    pairs = ", ".join(f"{matrix[i, j]:6.3f}" for i in range(5) for j in range(i))
    print(f"{name:10} {pairs}")

# %% [markdown]
# **2.** *Symmetry.* Photons come straight, so that sectors are alike: $\langle x \rangle$ may not depend on $\alpha$. Test it with $\chi^2$ for layer 2, of the
# simulation and of the surrogate (its recipe says `symmetric: true`: what does that buy, and when would it be wrong?).

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
for name, batch in (("simulation", truth), ("surrogate", made)):
    sectors = torch.stack([layer_of(x, 2).sum(1) for x in batch.x / batch.condition]).double()
    away = sectors - sectors.mean(1, keepdim=True)
    covariance = away.T @ away / len(away)
    mean = away.mean(0)
    square = len(away) * (mean[:-1] @ torch.linalg.solve(covariance[:-1, :-1], mean[:-1]))
    print(f"{name:10} chi^2 {square:.1f} of 11 degrees of freedom")

# %% [markdown]
# <details><summary>Answer</summary>
#
# Copies of every shower, turned and mirrored, cost nothing and hold as much as so many more showers, if beam and cells have the symmetry. A photon that comes at an angle has
# none of it but the mirror, and cells in squares four turns. The copies make what is learned symmetric, not the network: after so little training its sectors still differ.
#
# </details>
#
# **3.** *What it saves.* Time the simulation and the surrogate at batch 1 and 1000. When is a surrogate of a *parametrised* simulation worth it, and when one of Geant4 at 0.1 to 10 s a shower?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
from time import perf_counter

for n in (1, 1000):
    given = truth.condition[:n]
    for name, draw in (
        ("simulation", lambda given=given, n=n: detector.simulate(n, 3, given)),
        ("surrogate", lambda given=given, n=n: surrogate.sample(n, seed=3, condition=given)),
    ):
        draw()
        begun = perf_counter()
        draw()
        print(f"{name:10} batch {n:4}: {1e3 * (perf_counter() - begun) / n:7.2f} ms a shower")

# %% [markdown]
# **Where next?** [The tutorial](../docs/tutorials/fast-simulation.md) with your own files; [families on showers](../docs/families-calo.md); [point clouds](../docs/point-clouds.md);
# [refinement](../docs/refinement.md) of a simulation that is nearly right; [export](../docs/export.md) into Geant4.
