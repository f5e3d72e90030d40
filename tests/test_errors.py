"""What is suggested for a word that is not known."""

import pytest

from physgen.errors import suggest


@pytest.mark.parametrize(
    ("name", "choices", "said"),
    [
        ("step", ("steps", "seed", "keep"), "; did you mean 'steps'?"),
        ("spte", ("steps", "spite", "spate"), "; did you mean 'spite' or 'spate'?"),
        ("lr", ("learning_rate", "clip"), "; there are 'clip', 'learning_rate'"),
        ("x", ("only",), "; there is 'only'"),
        ("x", (), ""),
        ("?", map(str, range(14)), "and 2 more"),
    ],
)
def test_only_near_words_are_suggested_else_what_there_is(name, choices, said):
    assert suggest(name, choices).endswith(said)
