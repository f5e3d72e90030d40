"""One recipe at its size for a GPU: `python benchmarks/run.py full-size --recipe NAME --results`.

`--set key=value` names files and runs that a recipe needs (data.path, method.teacher).
A training that is stopped goes on where it was when the same command is given again.
"""

from device_speed import sampling

import physgen
from physgen.card import read_card
from physgen.overrides import parse_overrides


def run(recipe, *changes):
    trained = physgen.train(recipe, parse_overrides(changes), preset="gpu", track=False)
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
    return rows + sampling(trained)
