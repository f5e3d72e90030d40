"""physgen: generative surrogates for physics, with error bars.

```python
import physgen

run = physgen.train("ising-rbm", engine={"steps": 2000})
sampler = physgen.load(run)              # or the path of a run directory
batch = sampler.sample(10_000, seed=1)   # those of physgen.generate(run, 10_000, seed=1)
scorecard = physgen.validate(run)
```
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from physgen.version import __version__ as __version__

if TYPE_CHECKING:
    from physgen.batch import Batch
    from physgen.completion import complete
    from physgen.generation import Sampler
    from physgen.optimisation.verb import optimize
    from physgen.pipeline import generate, load, train, validate
    from physgen.refinement import refine
    from physgen.run import Run
    from physgen.scale.scan import Scan
    from physgen.scale.shards import Shards
    from physgen.validation.scorecard import Scorecard

__all__ = [
    "Batch",
    "Run",
    "Sampler",
    "Scan",
    "Scorecard",
    "Shards",
    "complete",
    "generate",
    "load",
    "optimize",
    "refine",
    "train",
    "validate",
]

_PLACES = {
    "Batch": "physgen.batch",
    "Run": "physgen.run",
    "Sampler": "physgen.generation",
    "Scan": "physgen.scale.scan",
    "Scorecard": "physgen.validation.scorecard",
    "Shards": "physgen.scale.shards",
    "complete": "physgen.completion",
    "optimize": "physgen.optimisation.verb",
    "refine": "physgen.refinement",
}


def __getattr__(name: str) -> Any:
    # Torch is imported by the first use of a name, so that `import physgen` is cheap.
    if name not in __all__:
        raise AttributeError(f"module 'physgen' has no attribute {name!r}")
    result = getattr(import_module(_PLACES.get(name, "physgen.pipeline")), name)
    globals()[name] = result
    return result
