"""Tasks of law: a surrogate is trained, judged, and generates samples.

    law run tasks.Generate --recipe ising-rbm --n 10000

A training that was interrupted goes on, since a run directory belongs to its recipe.
"""

from __future__ import annotations

from pathlib import Path

import law
import luigi

import physgen
from physgen.overrides import parse_overrides


class Surrogate(law.Task):
    """What all tasks are told: the recipe, and changes to it."""

    recipe = luigi.Parameter(description="name of a recipe, or its file")
    changes = law.CSVParameter(
        default=(), description=r"engine.steps=2000,system.shape=[4\,4], for instance"
    )

    def target(self, name: str) -> law.LocalFileTarget:
        """Return a file of results, in a folder of this recipe with these changes."""
        changed = f"-{law.util.create_hash(self.changes)}" if self.changes else ""
        # A relative path would begin at the root of the file system.
        return law.LocalFileTarget(Path.cwd() / "results" / f"{self.recipe}{changed}" / name)


class Train(Surrogate):
    """Train; the output says where the run directory is."""

    def output(self) -> law.LocalFileTarget:
        return self.target("run.txt")

    def run(self) -> None:
        run = physgen.train(self.recipe, parse_overrides(self.changes), score=False, track=False)
        self.output().dump(str(run.path), formatter="text")


class Validate(Surrogate):
    """Judge the samples; the output is the scorecard."""

    def requires(self) -> Train:
        return Train.req(self)

    def output(self) -> law.LocalFileTarget:
        return self.target("scorecard.json")

    def run(self) -> None:
        card = physgen.validate(self.input().load(formatter="text"))
        self.output().dump(card.to_json(), formatter="text")


class Generate(Surrogate):
    """Generate samples, once they are judged."""

    n = luigi.IntParameter(default=10_000, description="how many samples")
    seed = luigi.IntParameter(default=1)

    def requires(self) -> dict[str, Surrogate]:
        return {"run": Train.req(self), "scores": Validate.req(self)}

    def output(self) -> law.LocalFileTarget:
        return self.target(f"samples-{self.n}-{self.seed}.h5")

    def run(self) -> None:
        sampler = physgen.load(self.input()["run"].load(formatter="text"))
        self.output().parent.touch()
        sampler.write(self.output().abspath, self.n, self.seed)
