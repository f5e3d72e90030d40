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
# # 7. Judging generators
#
# A generator has a density $q$, the truth $p$, and all that is there is a sample of either. Four questions must not be mixed up:
#
# - Is $q \ne p$? A *test* has a statistic $t$ and a $p$-value, the probability under $q = p$ of a $t$ as extreme. Every generator fails
#   with enough samples.
# - By how much? A *distance*, with an error, beside its *floor*: the same between two true samples of that size.
# - Does it matter? That depends on what the samples are for: how many true ones are they *worth*?
# - In which way? Rare things are missing, everything is a little blurred, training data were learned by heart, or error bars are wrong.
#
# Here $p$ and all $q$ are normal, so that there are exact answers beside what the metrics of physgen find from samples.

# %%
import math
import tempfile
from pathlib import Path

import h5py
import matplotlib.pyplot as plt
import numpy as np
from scipy.stats import ks_2samp, norm, rankdata

from physgen.against import Criteria
from physgen.pipeline import validate_files

folder = Path(tempfile.mkdtemp())

# %% [markdown]
# ## Truth, and five generators
#
# The truth is normal with unit variances and correlation $\rho = 0.6$. The generators are perfect; shifted in $x$ by $0.2$;
# less correlated, $\rho = 0.5$; narrow, by 10%; and one that gives back a training row in 3 of 10 cases, a little moved.

# %%
RHO = 0.6


def draw(n, seed, shift=0.0, rho=RHO, width=1.0):
    u, v = np.random.default_rng(seed).normal(size=(2, n))
    return width * np.stack([u, rho * u + math.sqrt(1 - rho**2) * v], 1) + [shift, 0.0]


def log_density(rows, shift=0.0, rho=RHO, width=1.0):
    x, y = (rows - [shift, 0.0]).T / width
    square = (x**2 - 2 * rho * x * y + y**2) / (1 - rho**2)
    return -0.5 * square - math.log(2 * math.pi * width**2 * math.sqrt(1 - rho**2))


N = 3000
training = draw(N, seed=10)
faults = {
    "perfect": {},
    "shifted": {"shift": 0.2},
    "decorrelated": {"rho": 0.5},
    "narrow": {"width": 0.9},
}
samples = {name: draw(N, seed=20, **fault) for name, fault in faults.items()}
copied = np.random.default_rng(30).choice(N, 3 * N // 10, replace=False)
samples["memorising"] = samples["perfect"].copy()
samples["memorising"][: len(copied)] = training[copied] + 1e-3 * draw(len(copied), seed=31)

# %% [markdown]
# ## What a $p$-value promises, and what it does not
#
# Under $q = p$ it is uniform. Whoever looks at four observables and takes the smallest $p$ has a $p$-value no longer: $1 - 0.95^4 = 19\%$ of perfect
# generators fail at 5% if the four are independent. The smallest, times four, is safe (Bonferroni; Holm's is a better one).
#
# What a test has besides is *power*. Of all tests at a given level, that of $\sum \ln p/q$ has the greatest (Neyman and Pearson 1933). For a shift $a$
# of known sign, $n$ rows a side, it is $\Phi(\delta\sqrt{n/2} - z_{0.95})$ with $\delta = a/\sqrt{1-\rho^2}$, the shift in
# units of the width that is left when $y$ is known. A test of $x$ alone has at best $\delta = a$.

# %%
n, repeats = 500, 200


def ks_p(a, b):
    return ks_2samp(a, b, method="asymp").pvalue


def least_p(x, y):
    views = [rows @ np.array([[1, 0, 1, 1], [0, 1, 1, -1]]) for rows in (x, y)]
    return min(ks_p(a, b) for a, b in zip(views[0].T, views[1].T, strict=True))


null = np.array([least_p(draw(n, 1000 + i), draw(n, 5000 + i)) for i in range(repeats)])
print(f"perfect generators with a smallest p below 5%: {np.mean(null < 0.05):.1%}")
print(f"with four times the smallest p below 5%:       {np.mean(4 * null < 0.05):.1%}")

shifts = np.array([0.0, 0.05, 0.1, 0.15, 0.2, 0.3])
power = [
    np.mean([ks_p(draw(n, i, a)[:, 0], draw(n, 5000 + i)[:, 0]) < 0.05 for i in range(100)])
    for a in shifts
]
figure, axes = plt.subplots(1, 2, figsize=(9, 2.8), dpi=70)
axes[0].hist(null, np.linspace(0, 1, 21), density=True, label="smallest of four")
axes[0].hist(
    np.minimum(4 * null, 1),
    np.linspace(0, 1, 21),
    density=True,
    histtype="step",
    label="times four",
)
axes[0].axhline(1, color="k", lw=1)
axes[0].set(xlabel="$p$", title="perfect generators")
axes[0].legend()
fine = np.linspace(0, 0.3, 100)
for label, scale in (("likelihood ratio", 1 / math.sqrt(1 - RHO**2)), ("mean of $x$", 1.0)):
    axes[1].plot(fine, norm.cdf(fine * scale * math.sqrt(n / 2) - norm.ppf(0.95)), label=label)
axes[1].plot(shifts, power, "o", label="KS of $x$, measured")
axes[1].set(xlabel="shift $a$", ylabel="power at 5%", title=f"{n} rows a side")
axes[1].legend()
plt.show()

# %% [markdown]
# ## The classifier as a test
#
# A classifier that tells generated from true rows approximates $p/(p + q)$, and thereby the best test there is. The area under its curve of true
# against false positives (AUC) is the probability that of a true and a generated row the true one looks truer. For two normal densities
# $\delta$ apart the best possible is
#
# $$ \mathrm{AUC} = \Phi\big(\delta/\sqrt 2\big) , $$
#
# and 1/2 for $q = p$; for others it is found here by the exact ratio in large samples. Trained on few rows it finds less: an AUC that is low may
# mean a good generator or a bad judge, and only a comparison with a fault of known size says which.


# %%
def write(name, rows):
    with h5py.File(folder / name, "w") as file:
        file["x"], file["y"] = rows.T
    return folder / name


truth, trained = write("truth.h5", draw(2 * N, seed=2)), write("training.h5", training)


def judged(rows, metrics, against=truth):
    """Rows of `physgen validate generated.h5 --against truth.h5`, by name."""
    columns = {"path": str(against), "fields": ["x", "y"], "weight": None, "group": None}
    criteria = Criteria(
        recipe="events-flow",
        training=trained,
        overrides={f"data.{key}": value for key, value in columns.items()}
        | {"validation.metrics": metrics},
    )
    card = validate_files(write("generated.h5", rows), against, criteria)
    return {row.name: row for row in card.rows}


def exact_auc(fault, n=400_000):
    """AUC of the exact density ratio, from n rows of each."""
    both = np.concatenate([draw(n, 40), draw(n, 41, **fault)])
    place = rankdata(log_density(both) - log_density(both, **fault))
    return (place[:n].mean() - (n + 1) / 2) / n


classifier = {"kind": "classifier", "model": "neural", "level": "low"}
print("shift   AUC          floor   exact")
measured = {}
for a in (0.5, 1.0):
    row = judged(draw(N, seed=21, shift=a), [classifier])["AUC, neural classifier, low level"]
    measured[a] = row
    exact = norm.cdf(a / math.sqrt(1 - RHO**2) / math.sqrt(2))
    print(f"{a:5}   {row.value:.3f} +- {row.error:.3f}   {row.floor:.3f}   {exact:.3f}")

fine = np.linspace(0, 1.1, 100)
figure, ax = plt.subplots(figsize=(4.5, 2.8), dpi=70)
ax.plot(fine, norm.cdf(fine / math.sqrt(2 * (1 - RHO**2))), "k", lw=1, label="exact")
values = measured.values()
ax.errorbar(
    list(measured),
    [row.value for row in values],
    [row.error for row in values],
    fmt="o",
    label="network",
)
ax.plot(list(measured), [row.floor for row in values], "_", ms=12, label="floor")
ax.set(xlabel="shift $a$", ylabel="AUC")
ax.legend()
plt.show()

# %% [markdown]
# No classifier beats the exact AUC on average. Where one seems to, that is the scatter of the test rows, of which the true ones are the same in
# both points.
#
# ## Five generators, five judges
#
# *combined test*: forty statistics and one $p$-value. *N_equiv*: the number of true rows that the generated ones are worth (below).
# *coverage* and *density*: do balls around true rows hold generated ones, and how many? *copies*: the share of rows that are too near to training
# rows. Every judge is blind to something.

# %%
metrics = [
    {"kind": "combined-test"},
    classifier,
    {"kind": "equivalent-events"},
    {"kind": "coverage", "n": 1000},
    {"kind": "memorisation"},
]
print("              combined p   AUC, exact      N_equiv, 95%      coverage  density  copies")
cards = {}
for name, rows in samples.items():
    cards[name] = card = judged(rows, metrics)
    auc, worth_of = card["AUC, neural classifier, low level"], card["N_equiv"].note
    best = f"{exact_auc(faults[name]):.3f}" if name in faults else "0.500"
    print(
        f"{name:13} {card['combined test'].p_value:10.1e}   {auc.value:.3f}({1000 * auc.error:.0f}) {best}"
        f"   {worth_of.split(' worth ')[1].split(' (95%)')[0]:>20}"
        f"  {card['coverage'].value:.3f}     {card['density'].value:.3f}"
        f"    {card['nearer to training rows'].value:+.3f}"
    )
floor = cards["perfect"]
print(
    f"{'floor':13} {'':10}   {floor['AUC, neural classifier, low level'].floor:.3f}{'':30}"
    f"      {floor['coverage'].floor:.3f}     {floor['density'].floor:.3f}"
)

# %% [markdown]
# No judge of the density has a reason to object to the generator that memorises: its copies *are* distributed like the
# truth, and only who knows the training rows can tell. Coverage and density see none of these faults: they are made for coarser ones. The
# classifier comes close to the best AUC there is, and that is small; the combined test is certain of all three (its least $p$ is
# 1.2e-4). What to make of a row is up to the limits of a recipe: [how to read a scorecard](../docs/scorecard.md).
#
# ## What is a sample worth?
#
# Cut $x$ into $K$ bins of equal true probability $p_k = 1/K$. The frequencies of $n$ true rows miss $p_k$ by their noise, those of $m$
# generated rows by noise and bias:
#
# $$ \Big\langle \tfrac{1}{K-1} \sum_k \frac{(f_k - p_k)^2}{p_k} \Big\rangle = \frac1n \quad\text{and}\quad b^2 + \frac{V_q}{m}, \qquad
#    b^2 = \tfrac{1}{K-1}\sum_k \frac{(q_k - p_k)^2}{p_k} , \quad V_q = \tfrac{1}{K-1}\sum_k \frac{q_k(1 - q_k)}{p_k} . $$
#
# So $m$ rows are worth $N(m) = 1/(b^2 + V_q/m)$ true ones, and any number of them no more than $1/b^2$. For a shift all of this is
# known. Metric `equivalent-events` finds it from samples, with an interval of 95%.

# %%
K = 20
edges = norm.ppf(np.arange(K + 1) / K)


def worth(m, shift):
    share = np.diff(norm.cdf(edges - shift))
    bias = np.sum((share - 1 / K) ** 2) * K / (K - 1)
    return 1 / (bias + np.sum(share * (1 - share)) * K / (K - 1) / m)


sizes, a = (200, 400, 800, 1600, 2800), 0.2
large = draw(4000, seed=22, shift=a)
found = [judged(large[:m], [{"kind": "equivalent-events"}])["N_equiv x"] for m in sizes]
for m, row in zip(sizes, found, strict=True):
    print(f"{row.note.split(' (95%)')[0]} (95%), exactly {worth(m, a):.0f}")

axis = np.logspace(2, 5, 100)
figure, ax = plt.subplots(figsize=(5, 3), dpi=70)
for number, shift in enumerate((0.05, 0.1, 0.2)):
    ax.plot(axis, [worth(m, shift) for m in axis], f"C{number}", label=f"$a = {shift}$")
ax.errorbar(sizes, [r.value for r in found], [r.error for r in found], fmt="C2o", label="measured")
ax.plot(axis, axis, "k:", lw=1)
ax.set(
    xscale="log", yscale="log", xlabel="generated rows $m$", ylabel="worth $N(m)$", ylim=(90, 2e4)
)
ax.legend()
plt.show()

# %% [markdown]
# A best possible AUC of 0.57 and a worth of a few hundred rows are the same shift; which of them is alarming depends on how many rows the analysis
# needs.
#
# ## Quality against coverage
#
# GANs may be sharp and forget modes, autoencoders forget nothing and blur. With the $k$-th nearest neighbours as radii, *precision* is the share of
# generated rows that lie in a ball around a true one, *recall* that of true rows in a ball around a generated one; *density* and *coverage*
# (Naeem et al., arXiv 2002.09797) are less sensitive to outliers. Scaling the width turns the one fault into the other, as
# truncation of the noise of a GAN does.

# %%
widths = (0.4, 0.6, 0.8, 1.0, 1.25, 1.6)
names = ("precision", "recall", "density", "coverage")
table = []
for width in widths:
    card = judged(draw(1500, seed=23, width=width), [{"kind": "coverage", "n": 1000}])
    table.append([card[name].value for name in names])
    floors = [card[name].floor for name in names]
figure, ax = plt.subplots(figsize=(5, 3), dpi=70)
for number, name in enumerate(names):
    ax.plot(widths, [row[number] for row in table], "o-", label=name)
    ax.plot([1.0], [floors[number]], f"C{number}_", ms=16)
ax.axvline(1, color="k", lw=0.5)
ax.set(xlabel="width of the generator", title="dashes at 1: floor")
ax.legend(fontsize=8)
plt.show()

# %% [markdown]
# ## Calibration: right means, wrong errors
#
# A generator may have to say how sure it is: a posterior $q(\theta|x)$ for data $x$. It is *calibrated* if an interval of credibility $c$ holds the true
# $\theta$ with probability $c$. The test needs no exact posterior (Talts et al., arXiv 1804.06788): draw $\theta$ from the prior, $x$ from the
# simulator, $L$ draws from $q(\theta|x)$; the rank of $\theta$ among them is uniform.
#
# Let $\theta \sim \mathcal N(0, 1)$, $x = \theta + \epsilon$: the posterior is $\mathcal N(x/2, 1/2)$. If the estimate has $w$ times the width,
# the ranks $u$ have the density $w\,\varphi(w\,\Phi^{-1}(u))/\varphi(\Phi^{-1}(u))$, and its central 68.3% hold the truth with probability
# $2\Phi(w) - 1$.

# %%
rng = np.random.default_rng(50)
theta = rng.normal(size=4000)
x = theta + rng.normal(size=4000)


def ranks(mean, deviation, n_draws=99):
    draws = mean[:, None] + deviation * rng.normal(size=(len(mean), n_draws))
    return ((draws < theta[:, None]).sum(1) + rng.uniform(size=len(mean))) / (n_draws + 1)


figure, axes = plt.subplots(1, 3, figsize=(10, 2.6), dpi=70, sharey=True)
u = np.linspace(0.005, 0.995, 200)
for ax, w in zip(axes, (0.7, 1.0, 1.4), strict=True):
    numbers = ranks(x / 2, w / math.sqrt(2))
    ax.hist(numbers, 25, range=(0, 1), density=True, alpha=0.6)
    ax.plot(u, w * norm.pdf(w * norm.ppf(u)) / norm.pdf(norm.ppf(u)), "k", lw=1)
    ax.set(xlabel="rank / L", title=f"{w} times the width", ylim=(0, 2.6))
    inside = np.mean(np.abs(numbers - 0.5) < norm.cdf(1) - 0.5)
    print(
        f"w = {w}: central 68.3% hold {inside:.1%} of the truth, exactly {2 * norm.cdf(w) - 1:.1%}"
    )
plt.show()

# %% [markdown]
# Overconfidence is a bowl, timidity a hill, bias a slope. Metric `calibration` of runs that infer parameters (chapter 8) counts
# these ranks, and adds two tests that look at all parameters together.
#
# ## Exercises
#
# **1.** Derive $\mathrm{AUC} = \Phi(\delta/\sqrt2)$, and check it with `exact_auc`.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
# ln p/q is linear in the coordinate along the shift, where true and generated rows are N(0, 1) and N(delta, 1). Their
# difference is N(delta, 2), and the AUC is the probability that it is positive.
for a in (0.2, 1.0):
    formula = norm.cdf(a / math.sqrt(1 - RHO**2) / math.sqrt(2))
    print(f"a = {a}: formula {formula:.4f}, from 400 000 rows {exact_auc({'shift': a}):.4f}")
    assert abs(formula - exact_auc({"shift": a})) < 0.003

# %% [markdown]
# **2.** *How many rows tell?* After how many rows a side does the best test see a shift of $\delta = 0.1$, $0.03$, $0.01$ with three
# standard deviations, on average? What does that mean for the verdict "passes the test"?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
for delta in (0.1, 0.03, 0.01):
    print(
        f"delta = {delta}: {2 * (3 / delta) ** 2:.0f} rows a side, AUC {norm.cdf(delta / 2**0.5):.4f}"
    )

# %% [markdown]
# <details><summary>Answer</summary>
#
# $\delta\sqrt{n/2} = 3$. A test that is passed says how many rows were looked at, more than how good the generator is.
#
# </details>
#
# **3.** *The question decides.* What are $m$ rows of the shifted generator worth if only the *mean* of $x$ is asked for? And if only its variance is?
# Compare with $N(m)$ of twenty bins.

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
a, m = 0.2, 4000
print(f"mean: {1 / (a**2 + 1 / m):.0f}, variance: {m}, twenty bins: {worth(m, a):.0f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The mean square error of the mean is $a^2 + 1/m = 1/N$. The variance is not biased at all. In $K$ bins the bias of the mean is one direction
# of $K - 1$, in which true rows make noise as well: it counts less.
#
# </details>
#
# **4.** *Blind to correlations.* Give the KS tests of $x$ and of $y$ the decorrelated generator with $10^5$ rows. Which one-dimensional view
# sees it best?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
one, other = draw(100_000, 60, rho=0.5), draw(100_000, 61)
for name, view in {"x": [1, 0], "y": [0, 1], "x + y": [1, 1], "x - y": [1, -1]}.items():
    print(f"{name:5} p = {ks_p(one @ view, other @ view):.1e}")
print(f"variance of x - y: {2 * (1 - 0.5):.2f} against {2 * (1 - RHO):.2f} of the truth")

# %% [markdown]
# **5.** *Calibrated and useless.* Give `ranks` the prior in place of the posterior. What do the ranks see? What would?

# %% jupyter={"outputs_hidden": true, "source_hidden": true} tags=["solution"]
numbers = ranks(np.zeros(4000), 1.0)
counts = np.histogram(numbers, 20, (0, 1))[0]
print(f"chi^2 of uniform ranks: {((counts - 200) ** 2 / 200).sum():.1f} of 19 degrees of freedom")
# Distances to a point that depends on the data (TARP, arXiv 2302.03026): here to x itself.
draws = rng.normal(size=(4000, 99))
near = (np.abs(draws - x[:, None]) < np.abs(theta - x)[:, None]).mean(1)
counts = np.histogram(near, 20, (0, 1 + 1e-9))[0]
print(f"of distances to x:      {((counts - 200) ** 2 / 200).sum():.1f}")

# %% [markdown]
# <details><summary>Answer</summary>
#
# The ranks are uniform: over all data, $\theta$ *is* distributed like the prior. Calibration is not sharpness. Distances to a
# point that knows the data are not uniform, and the mean of $-\ln q(\theta|x)$, on which posteriors are trained, is larger.
#
# </details>
#
# **Where next?** `physgen validate FILE --against TRUTH` on your own files, `physgen compare digits`, and [judging](../docs/judging.md), where false
# alarms and power of these metrics are measured.
