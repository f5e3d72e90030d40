"""How often metrics read the files that are judged."""

from collections import Counter
from itertools import pairwise

import torch

from physgen.against import Against, Criteria
from physgen.batch import Batch
from physgen.io.calochallenge import CaloChallengeSource, calochallenge_writer

METRICS = ("means", "combined-test", "response", "regions", "equivalent-events", "memorisation")


def test_no_metric_reads_a_file_more_than_once(tmp_path, monkeypatch):
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
    changes = {"validation.metrics": [{"kind": kind} for kind in METRICS], "sampling.n": 100}
    against = Against(tmp_path / "truth.h5", Criteria(overrides=changes))
    passes = []
    against.score(tmp_path / "ours.h5", lambda done, of: passes.append(Counter(read)))
    assert len(passes) == len(METRICS)
    by_metric = [{name: b[name] - a[name] for name in files} for a, b in pairwise(passes)]
    # The first that asks for whole files has them measured, once for all.
    assert all(n <= by_metric[0][name] <= n + 1 for name in files)
    assert by_metric[1:] == [dict.fromkeys(files, 0)] * 4
    # Besides drawn from (the truth twice) and identified, the truth looked at for its format; and
    # single rows for what they carry.
    assert read["ours.h5"] <= 3 * n + 5
    assert read["truth.h5"] <= 5 * n + 5
