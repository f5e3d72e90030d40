"""What users call, pinned: a change here is a change for them."""

import inspect

import physgen
from physgen import pipeline


def test_the_python_face():
    assert sorted(physgen.__all__) == ["generate", "load", "train", "validate"]
    parameters = {
        name: list(inspect.signature(getattr(physgen, name)).parameters) for name in physgen.__all__
    }
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
        "validate": ["run", "trust", "progress"],
        "load": ["run", "device", "trust"],
        "generate": [
            *("run", "n", "seed", "output", "condition", "device", "overwrite", "trust"),
            "progress",
        ],
    }


def test_docstrings_say_what_may_be_raised():
    for name in physgen.__all__:
        assert getattr(pipeline, name).__doc__
