"""What users call, pinned: a change here is a change for them."""

import inspect
import subprocess
import sys
from importlib.metadata import entry_points

import pytest

import physgen


def test_the_python_face():
    classes, verbs = physgen.__all__[:6], physgen.__all__[6:]
    assert classes == ["Batch", "Run", "Sampler", "Scan", "Scorecard", "Shards"]
    parameters = {
        name: list(inspect.signature(getattr(physgen, name)).parameters) for name in verbs
    }
    asked = ["n", "seed", "condition"]
    write = ["self", "output", *asked, "overwrite", "progress"]
    assert list(inspect.signature(physgen.Sampler.sample).parameters) == ["self", *asked]
    assert list(inspect.signature(physgen.Sampler.write).parameters) == write
    shards = ["self", "folder", "client", "overwrite", "progress"]
    assert list(inspect.signature(physgen.Shards.write).parameters) == shards
    assert parameters == {
        "train": [
            "recipe",
            "overrides",
            "preset",
            "runs",
            "force",
            "score",
            "track",
            "trust",
            "progress",
            "sections",
        ],
        "validate": ["run", "sampling", "output", "trust", "progress"],
        "load": ["run", "device", "sampling", "uncorrected", "trust"],
        "generate": ["run", *asked, "device"],
        "complete": ["run", "x", "known", "seed", "condition"],
        "optimize": ["problem", "overrides", "preset", "runs", "track", "progress"],
        "refine": ["run", "file", "output", "seed", "overwrite", "progress"],
    }


def test_docstrings_say_what_may_be_raised():
    for name in physgen.__all__[6:]:
        assert "Raises:" in getattr(physgen, name).__doc__


def test_what_users_call_or_name_in_recipes_has_an_example():
    """`make test` runs them."""
    public = [getattr(physgen, name) for name in physgen.__all__]
    for kind in ("systems", "transforms", "surrogates", "methods", "metrics"):
        for entry in entry_points(group=f"physgen.{kind}"):
            if entry.value.startswith("physgen."):
                public.append(entry.load())
    without = [one.__name__ for one in public if ">>> " not in (inspect.getdoc(one) or "")]
    assert len(public) > 60
    assert without == []


HEAVY = "torch mlflow uproot awkward pandas matplotlib scipy numba numpy h5py sklearn pydantic"
"""What takes most of a start, if it is imported."""
HELP = "import physgen.cli; sys.argv = ['physgen', '--help']; physgen.cli.main()"


@pytest.mark.parametrize("code", ["import physgen", HELP])
def test_what_is_heavy_is_imported_only_where_it_is_used(code):
    """See `benchmarks/startup.py` for the seconds."""
    program = f"""
import sys
try:
    {code}
except SystemExit:
    pass
print([name for name in {HEAVY.split()} if name in sys.modules])
"""
    out = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True
    )
    assert out.stdout.splitlines()[-1] == "[]"
