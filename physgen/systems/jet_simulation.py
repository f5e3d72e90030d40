"""Jets at 1 TeV by Pythia 8 and FastJet, in the layout of JetNet.

Proton collisions at 13 TeV with the default tune and underlying event, no pile-up: two gluons, two
light quarks (u, d, s), a top pair or a W pair that decays to quarks, with a pT of the outgoing pair
between 990 and 1010 GeV (as of the samples of Coleman et al., arXiv:1709.08705, that JetNet is made
of, which are of leading order by MadGraph). Jets are those of the anti-kT algorithm with R = 0.8,
of all visible stable particles with |eta| < 5, which have 800 < pT/GeV < 1600 and whose axis is
within 0.8 of one of the pair. Positions are relative to the axis of the jet, pT to its pT; the
hardest particles are taken.

Jets are made in blocks with a seed each: the same jets for the same seed, whatever the number of
processes.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

from physgen.errors import InputError

Process = Literal["gluon", "light-quark", "top", "w"]

BLOCK = 500
"""Jets of a seed."""
_EVENTS = 100
"""Collisions that are held at once."""
RADIUS = 0.8
PT_GEV = (800.0, 1600.0)

_HADRONIC = ("24:onMode = off", "24:onIfAny = 1 2 3 4 5")
_SETTINGS: dict[Process, tuple[str, ...]] = {
    "gluon": ("HardQCD:gg2gg = on", "HardQCD:qqbar2gg = on"),
    "light-quark": ("HardQCD:qq2qq = on", "HardQCD:gg2qqbar = on", "HardQCD:qqbar2qqbarNew = on"),
    "top": ("Top:gg2ttbar = on", "Top:qqbar2ttbar = on", *_HADRONIC),
    "w": ("WeakDoubleBoson:ffbar2WW = on", *_HADRONIC),
}
_PAIR: dict[Process, tuple[int, ...]] = {
    "gluon": (21,),
    "light-quark": (1, 2, 3),
    "top": (6,),
    "w": (24,),
}
"""Kinds of the outgoing pair, as numbers of the Particle Data Group."""
_INVISIBLE = (12, 14, 16)

Arrays = dict[str, NDArray[Any]]


def simulate(
    process: Process, n: int, seed: int, particles: int, workers: int, *, multiparton: bool = True
) -> Arrays:
    """Return `n` jets: x (n, particles, 3), mask (n, particles), and jet (n, 4).

    Columns of x are eta and phi relative to the jet and pT over the jet's; of jet its pT (GeV),
    eta, mass (GeV), and number of particles that are taken.

    Args:
        process: what the jets come from.
        n: how many.
        seed: the same jets for the same seed.
        particles: how many are taken of a jet.
        workers: processes that simulate.
        multiparton: whether other partons of the protons collide too, as in the underlying event.

    Raises:
        InputError: Pythia or FastJet are not installed.
    """
    _needs_extra()
    seeds = np.random.SeedSequence(seed).generate_state(math.ceil(n / BLOCK), np.uint64)
    # What Pythia takes for a seed.
    numbers = [int(one % 900_000_000) + 1 for one in seeds]
    switch = "PartonLevel:MPI = " + ("on" if multiparton else "off")
    make = partial(_block, process, particles, switch)
    if min(workers, len(numbers)) < 2:
        blocks = list(map(make, numbers))
    else:
        with ProcessPoolExecutor(workers, mp_context=get_context("spawn")) as pool:
            blocks = list(pool.map(make, numbers))
    return {name: np.concatenate([block[name] for block in blocks])[:n] for name in blocks[0]}


def _needs_extra() -> None:
    for package in ("pythia8mc", "fastjet"):
        try:
            __import__(package)
        except ImportError as error:
            raise InputError(
                f"jets are simulated by the package {package}, which is not installed; "
                "`pip install 'physgen[hep]'`"
            ) from error


def _block(process: Process, particles: int, switch: str, seed: int) -> Arrays:
    """Return `BLOCK` jets."""
    parts: list[Arrays] = []
    found = 0
    for events in _collisions(process, switch, seed):
        # What has no pT (the beams, and what becomes of them) has no eta, and is left out.
        with np.errstate(all="ignore"):
            part = _jets(events, process, particles)
        parts.append(part)
        found += len(part["jet"])
        if found >= BLOCK:
            break
    # The two jets of a collision are not to follow one another.
    order = np.random.default_rng(seed).permutation(found)[:BLOCK]
    return {name: np.concatenate([part[name] for part in parts])[order] for name in parts[0]}


def _collisions(process: Process, switch: str, seed: int) -> Iterator[Any]:
    """Yield awkward arrays of `_EVENTS` collisions each, without end."""
    import pythia8mc

    pythia = pythia8mc.Pythia("", False)
    for setting in (
        "Print:quiet = on",
        "Beams:eCM = 13000.",
        "Random:setSeed = on",
        f"Random:seed = {seed}",
        "PhaseSpace:pTHatMin = 990.",
        "PhaseSpace:pTHatMax = 1010.",
        switch,
        *_SETTINGS[process],
    ):
        pythia.readString(setting)
    if not pythia.init():
        raise InputError("Pythia could not be set up; install it again: pip install pythia8mc")
    while True:
        yield pythia.nextBatch(_EVENTS)


def _jets(events: Any, process: Process, particles: int) -> Arrays:
    """Return the jets of collisions, see `simulate`."""
    import awkward as ak
    import fastjet
    from fastjet import _swig

    every = events.prt
    eta = np.arcsinh(every.p.pz / np.hypot(every.p.px, every.p.py))
    kind = abs(every.id)
    visible = (every.status > 0) & (abs(eta) < 5)
    for other in _INVISIBLE:
        visible = visible & (kind != other)
    stable = every[visible]
    momenta = ak.zip({"px": stable.p.px, "py": stable.p.py, "pz": stable.p.pz, "E": stable.p.e})
    _swig.ClusterSequence.set_fastjet_banner_stream(None)
    definition = fastjet.JetDefinition(fastjet.antikt_algorithm, RADIUS)
    cluster = fastjet.ClusterSequence(momenta, definition)
    jets = cluster.inclusive_jets(min_pt=PT_GEV[0])
    members = cluster.constituents(min_pt=PT_GEV[0])
    jet_pt, jet_eta, jet_phi = _coordinates(jets)

    # Outgoing particles of the hard process: 22 where they decay, else 23.
    hard = (abs(every.status) == 22) | (abs(every.status) == 23)
    chosen = ak.zeros_like(kind, dtype=bool)
    for one in _PAIR[process]:
        chosen = chosen | (kind == one)
    _, pair_eta, pair_phi = _coordinates(every.p[hard & chosen])
    pairs = ak.cartesian(
        {
            "jet": ak.zip({"eta": jet_eta, "phi": jet_phi}),
            "parton": ak.zip({"eta": pair_eta, "phi": pair_phi}),
        },
        nested=True,
    )
    apart = np.hypot(pairs.jet.eta - pairs.parton.eta, _wrapped(pairs.jet.phi - pairs.parton.phi))
    wanted = ak.any(apart < RADIUS, axis=2) & (jet_pt < PT_GEV[1])

    pt, member_eta, member_phi = _coordinates(members[wanted])
    of_jet = [column[wanted] for column in (jet_pt, jet_eta, jet_phi)]
    order = ak.argsort(pt, axis=2, ascending=False)
    columns = [member_eta - of_jet[1], _wrapped(member_phi - of_jet[2]), pt / of_jet[0]]
    flat = [ak.flatten(column[order], axis=1) for column in columns]
    mask = np.arange(particles) < ak.num(flat[0]).to_numpy()[:, None]
    x = np.stack([_padded(column, particles) for column in flat], 2).astype(np.float32)
    selected = jets[wanted]
    mass = np.sqrt(
        np.maximum(selected.E**2 - selected.px**2 - selected.py**2 - selected.pz**2, 0.0)
    )
    features = [ak.flatten(one).to_numpy() for one in (of_jet[0], of_jet[1], mass)]
    return {"x": x, "mask": mask, "jet": np.stack([*features, mask.sum(1)], 1).astype(np.float32)}


def _coordinates(momenta: Any) -> tuple[Any, Any, Any]:
    """Return pT, eta and phi."""
    pt = np.hypot(momenta.px, momenta.py)
    return pt, np.arcsinh(momenta.pz / pt), np.arctan2(momenta.py, momenta.px)


def _wrapped(angle: Any) -> Any:
    """Return angles within [-pi, pi)."""
    return (angle + np.pi) % (2 * np.pi) - np.pi


def _padded(column: Any, most: int) -> NDArray[Any]:
    """Return (n, most) of n lists, cut or filled with 0."""
    import awkward as ak

    filled = ak.fill_none(ak.pad_none(column, most, clip=True), 0.0)
    return np.asarray(ak.to_numpy(filled))
