"""A user's own action: what is accepted, what is refused and how, and the truth made from it."""

import pytest
import torch

from physgen.errors import DomainError, InputError
from physgen.systems.base import HasAction, HasFeatures, HasFiles, Simulates, System
from physgen.systems.lattice_action import LatticeAction
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
