"""Files for pyerrors: their structure, and what the library itself reads from them."""

import gzip
import json

import numpy as np
import pytest

from physgen.errors import InputError
from physgen.io.pyerrors import Replica, write_pyerrors
from physgen.validation.uncertainty import gamma_method


def two_replicas(seed=0):
    """Series of AR(1) in two replicas of every fourth trajectory, some of them missing."""
    rng = np.random.default_rng(seed)
    x, last = np.empty((2, 3000)), np.zeros(2)
    for time in range(3000):
        last = x[:, time] = 0.8 * last + rng.normal(size=2)
    kept = [np.setdiff1d(np.arange(3000), gone) for gone in ([7, 8, 100], [2000])]
    replicas = [
        Replica("a|b", np.arange(2997), 4 * kept[0] + 100),
        Replica("r2", np.arange(2997, 5996), 4 * kept[1] + 8),
    ]
    return replicas, np.concatenate([x[0, kept[0]], x[1, kept[1]]])


def read(path):
    return json.loads(gzip.decompress(path.read_bytes()))


def test_replicas_trajectories_and_gaps_are_kept(tmp_path):
    replicas, x = two_replicas()
    path = tmp_path / "beta|6.json.gz"
    sometimes = np.where(np.arange(len(x)) < 2997, np.nan, x)  # in the second replica alone
    sometimes[2999] = np.nan
    values = {"x": x, "never": np.full(len(x), np.nan), "y": sometimes}
    assert write_pyerrors(path, values, replicas) == ["x", "y"]
    document = read(path)
    assert document["version"] == "1.1"
    first, second = document["obsdata"]
    assert (first["type"], first["layout"], first["tag"]) == ("Obs", "1", ["x"])
    assert first["value"] == [x.mean()]
    (data,) = first["data"]
    assert data["id"] == "beta_6"
    assert [one["name"] for one in data["replica"]] == ["beta_6|a_b", "beta_6|r2"]
    for one, replica in zip(data["replica"], replicas, strict=True):
        numbers, deltas = np.array(one["deltas"]).T
        assert numbers.tolist() == replica.trajectory.tolist()
        assert deltas == pytest.approx(x[replica.rows] - x.mean(), abs=1e-15)
    (only,) = second["data"][0]["replica"]
    assert only["name"] == "beta_6|r2"
    assert [number for number, _ in only["deltas"]] == [
        n for n in replicas[1].trajectory.tolist() if n != 8 + 4 * 2
    ]


@pytest.mark.filterwarnings("ignore::DeprecationWarning")  # It imports scipy.odr.
def test_pyerrors_reads_the_same_means_errors_and_replicas(tmp_path):
    pytest.importorskip("pyerrors")
    from pyerrors.input.json import load_json

    replicas, x = two_replicas()
    path = tmp_path / "beta6.json.gz"
    write_pyerrors(path, {"x": x, "x^2": x**2}, replicas, description="a test")
    theirs, square = load_json(str(path), verbose=False)
    assert [theirs.tag, square.tag] == ["x", "x^2"]
    assert theirs.names == ["beta6|a_b", "beta6|r2"]
    assert list(theirs.idl["beta6|a_b"]) == replicas[0].trajectory.tolist()
    assert theirs.r_values["beta6|r2"] == pytest.approx(x[2997:].mean(), abs=1e-14)
    theirs.gamma_method(S=1.5)
    full = np.full(6000, np.nan)
    for number, replica in enumerate(replicas):
        full[3000 * number + (replica.trajectory - (100, 8)[number]) // 4] = x[replica.rows]
    ours = gamma_method(full, chain=np.repeat([0, 1], 3000))
    assert theirs.value == pytest.approx(ours.value, abs=1e-14)
    assert theirs.dvalue == pytest.approx(ours.error, rel=0.03)
    # Functions of observables see that both are of the same trajectories.
    variance = square - theirs**2
    variance.gamma_method(S=1.5)
    assert variance.value == pytest.approx(x.var(), rel=1e-12)
    assert abs(variance.value - 1 / (1 - 0.8**2)) < 5 * variance.dvalue


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"path": "obs.json"}, "end in .json.gz"),
        ({"trajectory": [1, 2, 4, 3, 5, 6]}, "r1: its trajectory numbers do not rise"),
        ({"values": [1.0, 2, np.nan, np.nan, 3, 4]}, "P of replica r1: 4 measurements"),
        ({"values": [1.0, 2, np.inf, 3, 4, 5]}, "1 of them infinite"),
        ({"twice": True}, "two replicas have the same name"),
    ],
)
def test_what_pyerrors_could_not_read_is_refused_and_nothing_left(tmp_path, change, message):
    trajectory = np.array(change.get("trajectory", np.arange(6)))
    replicas = [Replica("r1", np.arange(6), trajectory)] * (2 if "twice" in change else 1)
    values = {"P": np.array(change.get("values", np.arange(6.0)))}
    with pytest.raises(InputError, match=message):
        write_pyerrors(tmp_path / change.get("path", "obs.json.gz"), values, replicas)
    assert list(tmp_path.iterdir()) == []
