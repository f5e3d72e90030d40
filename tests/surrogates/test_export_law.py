"""Every registered surrogate exports to ONNX with the numbers of torch, or says why it does not."""

from pathlib import Path

import numpy as np
import pytest
import torch
from randomised import randomised
from registered import KINDS, ONE_OF_A_KIND, built

from physgen.errors import InputError
from physgen.export.base import Trained
from physgen.export.onnx import exported, mappable
from physgen.surrogates.diffusion.model import Diffusion
from physgen.surrogates.sampler_options import SamplerOptions

RELATIVE = {"float32": 1e-5, "float64": 1e-12}
"""Largest difference, in units of the largest entry of the samples."""
LOOSER = {"shower-diffusion": 1e-4}
"""Voxels are exponentials of numbers of single precision as large as ln(E / E_least) = 12, and what
is left of a layer's energy is divided among those above the threshold."""
REFUSED = {
    "autoregressive-potts": "one after the other",
    "autoregressive-spins": "one after the other",
    "autoregressive-spins, conv": "one after the other",
    **dict.fromkeys(("rbm", "rbm, potts", "gaussian-rbm", "energy"), "Markov chains"),
    **dict.fromkeys(("gauge-flow", "stochastic-gauge-flow"), "compiled kernels"),
    "link-diffusion": "noise at every step",
    **dict.fromkeys(("point-diffusion", "point-generator", "independent-items"), "mask"),
    **dict.fromkeys(("point-diffusion, groups", "point-diffusion, moments"), "mask"),
    "flow, normflows": "stands still",
    **dict.fromkeys(("likelihood-flow", "likelihood-ratio"), "no map of noise"),
    "reweighting": "weighs events",
    "reweighted": "have weights",
    "translator": "of other events",
    "unrefined": "nothing to export",
    "shower-flow": "depend on the energies",
}
"""Families that do not export, and what they say of it."""
LONG = {
    *("checkerboard-flow", "diffusion-flow", "flow, autoregressive", "flow, continuous"),
    *("shower-copula", "shower-diffusion", "u1-coupling-flow", "variational-diffusion"),
    *("bridge", "closure-defect"),
    *ONE_OF_A_KIND,
}
"""Of which a shorter one is of the same kind, or which have many operators."""


def ready(kind):
    surrogate, _, batch = built(kind)
    surrogate.initialise(batch)
    randomised(surrogate, 0.1).eval()
    if isinstance(surrogate, Diffusion) and kind != "diffusion-flow":
        surrogate.use_sampler(SamplerOptions(kind="ddim", steps=2))
    return Trained(surrogate, Path("run"), "recipe", kind, {}), batch


@pytest.mark.parametrize(
    "kind",
    [
        pytest.param(kind, marks=[pytest.mark.slow] if kind in LONG else [])
        for kind in sorted({*KINDS} - {*REFUSED})
    ],
)
def test_the_model_has_the_numbers_of_torch(kind):
    ort = pytest.importorskip("onnxruntime")
    trained, batch = ready(kind)
    surrogate = mappable(trained)
    content = exported(surrogate).SerializeToString()
    session = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    names = [one.name for one in session.get_inputs()]
    for n in (1, 3, 17):
        generator = torch.Generator().manual_seed(n)
        noise = torch.randn(n, *surrogate.noise_shape, generator=generator, dtype=surrogate.dtype)
        given = None if batch.condition is None else batch.condition[:n].to(surrogate.dtype)
        with torch.no_grad():
            expected = surrogate.from_noise(noise, given).numpy()
        rows = [noise, *([] if given is None else given.split(1, 1))]
        feed = {name: row.numpy() for name, row in zip(names, rows, strict=True)}
        found = session.run(None, feed)[0]
        assert (found.shape, found.dtype) == (expected.shape, expected.dtype)
        error = np.abs(found - expected).max() / np.abs(expected).max()
        precision = str(surrogate.dtype).removeprefix("torch.")
        assert error < LOOSER.get(kind, RELATIVE[precision])


@pytest.mark.parametrize("kind", sorted(REFUSED))
def test_what_does_not_export_says_why(kind):
    trained, _ = ready(kind)
    with pytest.raises(InputError, match=REFUSED[kind]):
        mappable(trained)
