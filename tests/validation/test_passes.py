"""How often metrics read the files that are judged."""

from collections import Counter
from itertools import pairwise

import pytest
import torch

from physgen.against import Against, Criteria
from physgen.batch import Batch
from physgen.io.calochallenge import CaloChallengeSource, calochallenge_writer
from physgen.registry import registered

# The first that asks for whole files has them measured, once for all.
FIRST = ("means", "combined-test")
FEW = [
    {"kind": kind} for kind in (*FIRST, "response", "regions", "equivalent-events", "memorisation")
]
# The networks of classifiers are small here; how often they read does not depend on it.
SETTINGS = {
    "classifier": [
        {"model": model, "level": level, "n_train": 20, "epochs": 1}
        for model, level in (
            ("boosted", "low"),
            ("boosted", "high"),
            ("neural", "low"),
            ("neural", "high"),
            ("convolutional", "low"),
        )
    ],
    "coverage": [{}, {"level": "voxels"}],
}
NOT_OF_SHOWERS = {
    "calibration",
    "constraints",
    "energy-mover",
    "importance",
    "inception-score",
    "jet-wasserstein",
    "label-accuracy",
    "posterior-test",
}
NOT_OF_SHOWERS |= {"event-weights", "likelihood", "timing"}


def every_metric():
    """One of each kind that showers in files may be asked, and of each setting of some."""
    kinds = [
        kind for kind in sorted(registered("metrics")) if kind not in {*FIRST, *NOT_OF_SHOWERS}
    ]
    return [
        {"kind": kind, **settings}
        for kind in (*FIRST, *kinds)
        for settings in SETTINGS.get(kind, [{}])
    ]


@pytest.mark.parametrize("metrics", [FEW, pytest.param(every_metric(), marks=pytest.mark.slow)])
def test_no_metric_reads_a_file_more_than_once(tmp_path, monkeypatch, metrics):
    read = Counter()
    arrays = CaloChallengeSource.arrays

    def counted(source, start, stop):
        read[source.path.name] += min(stop, len(source)) - start
        return arrays(source, start, stop)

    monkeypatch.setattr(CaloChallengeSource, "arrays", counted)
    n, files = 300, ["ours.h5", "truth.h5"]
    generator = torch.Generator().manual_seed(1)
    for name in files:
        energy = 1000 + 1000 * torch.rand((n, 1), generator=generator)
        voxels = torch.rand((n, 368), generator=generator) * energy / 200
        with calochallenge_writer(tmp_path / name) as append:
            append(Batch(voxels, condition=energy))
    changes = {"validation.metrics": metrics, "sampling.n": 100}
    against = Against(tmp_path / "truth.h5", Criteria(overrides=changes))
    passes = []
    path = tmp_path / "ours.h5"
    card = against.score(path, lambda done, of: passes.append(Counter(read)))[1]
    assert len(passes) == len(metrics)
    measured = {row.metric for row in card.rows if row.value is not None}
    assert measured >= {metric["kind"] for metric in metrics}
    by_metric = [{name: b[name] - a[name] for name in files} for a, b in pairwise(passes)]
    assert all(n <= by_metric[0][name] <= n + 1 for name in files)
    assert by_metric[1:] == [dict.fromkeys(files, 0)] * (len(metrics) - 2)
    # Besides drawn from (the truth twice), identified, and searched for rows that cannot be, the
    # truth looked at for its format; and single rows for what they carry.
    assert read["ours.h5"] <= 4 * n + 5
    assert read["truth.h5"] <= 6 * n + 5
