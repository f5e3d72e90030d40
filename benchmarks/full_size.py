"""One recipe at its size for a GPU: `python benchmarks/run.py full-size --recipe NAME --results`.

A training that is stopped goes on where it was when the same command is given again.
"""

import statistics

import physgen
from physgen.card import read_card
from physgen.engine.device import choose_device
from physgen.timing import milliseconds

PRESET, BATCHES, REPEATS = "gpu", (1, 100, 10_000), 5


def run(recipe):
    trained = physgen.train(recipe, preset=PRESET, track=False)
    surrogate = trained.load().to(choose_device())
    rows = [
        {
            "name": f"{recipe}: {row.name}",
            "value": row.value,
            "unit": row.unit,
            "error": row.error,
            "floor": row.floor,
            "verdict": row.verdict,
        }
        for row in trained.scorecard.rows
    ]
    card = read_card(trained.path / "surrogate")
    rows.append(
        {"name": f"{recipe}: training", "value": float(card["training_seconds"]), "unit": "s"}
    )
    conditions = None if trained.data is None else trained.data.source.read(0, 2000).condition
    taken = milliseconds(surrogate, conditions, batches=BATCHES, repeats=REPEATS, seed=1)
    return rows + [
        {
            "name": f"{recipe}: sampling, batches of {size}",
            "value": float(statistics.median(values)),
            "unit": "ms a sample",
            "spread": [float(min(values)), float(max(values))],
        }
        for size, values in taken.items()
    ]
