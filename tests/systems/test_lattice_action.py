"""A user's own action: what is accepted, what is refused and how, and the truth made from it."""

import numpy as np
import pytest
import torch

from physgen.errors import DomainError, InputError
from physgen.systems import lattice_action
from physgen.systems.base import HasAction, HasFeatures, HasFiles, Simulates, System
from physgen.systems.lattice_action import LatticeAction, load_function
from physgen.systems.scalar import Phi4

GOOD = """
def action(phi):
    density = 5 * phi**2
    for axis in (1, 2):
        density = density - 2 * phi * phi.roll(1, axis)
    return density.flatten(1).sum(1)
"""


def written(tmp_path, text, name="action"):
    path = tmp_path / "my_action.py"
    path.write_text("import torch\n" + text)
    return f"{path}:{name}"


def test_a_written_action_is_that_of_phi4(tmp_path):
    system = LatticeAction(action=written(tmp_path, GOOD), shape=(4, 4))
    free = Phi4(shape=(4, 4), m2=1.0, lam=0.0)
    x = torch.randn((3, 4, 4), dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    torch.testing.assert_close(system.action(x), free.action(x))
    for protocol in (System, HasAction, Simulates, HasFeatures, HasFiles):
        assert isinstance(system, protocol)


def test_truth_is_made_from_it(tmp_path):
    system = LatticeAction(action=written(tmp_path, GOOD), shape=(4, 4))
    exact = Phi4(shape=(4, 4), m2=1.0, lam=0.0).exact()
    batch = system.simulate(3200, seed=1)
    assert batch.x.shape == (3200, 4, 4)
    assert torch.equal(batch.x[:100], system.simulate(3200, seed=1).x[:100])
    for name, value in system.observables(batch).items():
        if name in exact:
            groups = value.reshape(64, -1).mean(1)
            assert abs(groups.mean() - exact[name]) < 4.5 * groups.std() / 8, name
    with system.writer(tmp_path / "truth.h5", 3200) as append:
        append(batch)
    assert torch.equal(system.open(tmp_path / "truth.h5").read(0, 3200).x, batch.x)


TILTED = """
def action(phi):
    return (12 * (phi**2 - 1) ** 2 - 0.5 * phi).flatten(1).sum(1)
"""


def test_wells_of_different_depth_have_their_shares(tmp_path, caplog):
    """Each site is alone in a tilted double well, whose integrals are those of one dimension."""
    x = np.linspace(-2.5, 2.5, 20_001)
    weight = np.exp(-(12 * (x**2 - 1) ** 2 - 0.5 * x))
    system = LatticeAction(action=written(tmp_path, TILTED), shape=(2,))
    batch = system.simulate(512, seed=1)
    assert len(batch) == 512
    for power in (1, 2):
        exact = (x**power * weight).sum() / weight.sum()
        chains = batch.x.pow(power).mean(1).reshape(8, -1).mean(1)
        error = chains.std() / 8**0.5
        # Chains that stay in their wells have a mean of 0.05(3) instead of 0.45.
        assert abs(chains.mean() - exact) < 5 * error, power
        assert error < 0.07
    assert "do not mix" not in caplog.text


def test_chains_that_do_not_mix_say_so(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(lattice_action, "mixed", lambda series: False)
    monkeypatch.setattr(LatticeAction, "_tempered", lambda self, trial, n, generator: trial.x)
    LatticeAction(action=written(tmp_path, TILTED), shape=(2,)).simulate(64, seed=1)
    assert "the chains do not mix, even with tempering" in caplog.text


UNBOUNDED = {
    "-(torch.cos(phi - phi.roll(1, 1)) + torch.cos(phi - phi.roll(1, 2)))": "flat.* alike on all",
    "-(phi**4)": "unbounded direction",
    "phi**2 + 0.1 * phi**3": "unbounded direction",
    "(phi - phi.roll(1, 1)) ** 2 - 0.1 * phi**2": "unbounded direction",
    "(phi + phi.roll(1, 1)) ** 2 + (phi + phi.roll(1, 2)) ** 2": "flat.* alternating",
    "phi**2 * (torch.arange(16).reshape(4, 4) != 5)": "flat.* one site",
    "(phi @ (torch.eye(4) - 0.25).double()) ** 2 + (phi.roll(1, 1) - phi) ** 2": "flat",
    "0.4 * torch.log1p(phi**2)": "flat",
    "phi**2 * torch.cos(phi)": "unbounded direction",
}


@pytest.mark.parametrize("density", UNBOUNDED)
def test_what_cannot_be_normalised_is_refused(tmp_path, density):
    text = f"def action(phi):\n    return ({density}).flatten(1).sum(1)"
    with pytest.raises(DomainError, match=f"not normalisable.*{UNBOUNDED[density]}"):
        LatticeAction(action=written(tmp_path, text), shape=(4, 4))


@pytest.mark.parametrize("period", [1.0, 2 * np.pi, 10.0, 80.0])
def test_a_flat_direction_in_which_it_oscillates_is_refused(tmp_path, period):
    """By chance one value farther out is higher than one nearer, at some of these periods."""
    text = f"""
def action(phi):
    slope = sum((phi - phi.roll(1, axis)) ** 2 for axis in (1, 2))
    return (0.5 * slope - torch.cos({2 * np.pi / period} * phi)).sum((1, 2))
"""
    with pytest.raises(DomainError, match=r"flat direction, where it goes up and down.* alike on"):
        LatticeAction(action=written(tmp_path, text), shape=(4, 4))


@pytest.mark.parametrize(
    "density",
    [
        "0.01 * phi**4 - 100 * phi**2",
        "1e-6 * phi**2 + (phi - phi.roll(1, 1)) ** 2",
        "phi**6 - 5 * phi**4 - phi",
        "torch.exp(phi) + torch.exp(-phi)",
        "phi.abs()",
        "2 * torch.log1p(phi**2)",
        "5 * torch.cos(6 * phi) + 0.1 * phi**2",
        "(phi**2 - 2500) ** 2 * 1e-3",
        "0.005 * phi**2 - 100 * torch.cos(phi) + (phi - phi.roll(1, 2)) ** 2",
        "phi.abs() - 5 * torch.cos(3 * phi)",
        "0.6 * torch.log1p(phi**2)",
        "2 * torch.log1p(phi**2) + torch.cos(phi)",
        "(phi**2).clamp(max=1e-3) * 1e9 + 0.1 * phi**2",
        "torch.where(phi.abs() < 3, phi**2, torch.inf)",
    ],
)
def test_what_can_be_normalised_is_not_refused(tmp_path, density):
    text = f"def action(phi):\n    return ({density}).flatten(1).sum(1)"
    LatticeAction(action=written(tmp_path, text), shape=(4, 4))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("def action(phi):\n    return (phi**2).sum()", r"torch.float64 tensor of shape \(\)"),
        ("def action(phi):\n    return phi.float().pow(2).flatten(1).sum(1)", "float32"),
        ("def action(phi):\n    return 3.0", "a float"),
        ("def action(phi):\n    return phi.log().flatten(1).sum(1)", "nan"),
        ("def action(phi):\n    return phi.detach().flatten(1).sum(1)", "not differentiable"),
        ("def action(phi):\n    return phi.sign().flatten(1).sum(1)", "derivative"),
        (
            "def action(phi):\n    return (phi - phi.mean(0)).pow(2).flatten(1).sum(1)",
            "do not mix the batch",
        ),
        (
            "def action(phi):\n    phi.data.mul_(2)\n    return phi.pow(2).flatten(1).sum(1)",
            "changes the field",
        ),
    ],
)
def test_what_is_no_action(tmp_path, text, message):
    with pytest.raises(DomainError, match=message):
        LatticeAction(action=written(tmp_path, text), shape=(4, 4))


@pytest.mark.parametrize(
    ("text", "name", "message"),
    [
        (GOOD, "acton", "did you mean 'action'"),
        ("def action(phi:\n", "action", "SyntaxError"),
        ("def action(phi):\n    return phi.no_such()", "action", r"in line 3 of .*my_action\.py"),
        ("1 / 0", "action", r"in line 2 of .*ZeroDivisionError"),
    ],
)
def test_files_that_fail(tmp_path, text, name, message):
    with pytest.raises(InputError, match=message):
        LatticeAction(action=written(tmp_path, text, name), shape=(4, 4))


def test_files_that_are_not_there(tmp_path):
    written(tmp_path, GOOD)
    with pytest.raises(InputError, match=r"did you mean 'my_action\.py'"):
        LatticeAction(action=str(tmp_path / "my_acton.py:action"))
    with pytest.raises(InputError, match=r"FILE\.py:FUNCTION"):
        LatticeAction(action="my_action.py")
    with pytest.raises(DomainError, match="one to four"):
        LatticeAction(action=written(tmp_path, GOOD), shape=())


def test_an_action_that_is_not_there_says_how_to_name_one():
    with pytest.raises(InputError, match=r"no file.*name yours, system\.action=FILE\.py:FUNCTION"):
        load_function("nowhere.py:action")
