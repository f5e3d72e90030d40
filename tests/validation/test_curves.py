"""Curves of the training: the journal in panels, and the optimum of a game."""

import json
import math

import numpy as np

from physgen.validation import curves


def panels(tmp_path, names):
    """Return the axes of a journal with these metrics, by their label."""
    path = tmp_path / "journal.jsonl"
    records = [{"step": i, "metrics": dict.fromkeys(names, 0.1 * i)} for i in range(5)]
    path.write_text("".join(json.dumps(record) + "\n" for record in records))
    ((figure, title, caption),) = curves.losses(path)
    assert title == "Training"
    return {axis.get_ylabel(): axis for axis in figure.axes}, caption


def levels(axis):
    return [line.get_ydata()[0] for line in axis.lines if line.get_linestyle() == "--"]


def test_what_a_discriminator_says_is_shown_with_its_optimum(tmp_path):
    axes, caption = panels(tmp_path, ["loss", "critic_loss", "D_real", "D_fake", "coverage"])
    assert list(axes) == ["loss", "critic_loss", "D", "coverage"]
    assert len(axes["D"].lines) == 3
    assert levels(axes["D"]) == [0.5]
    np.testing.assert_allclose(levels(axes["critic_loss"]), [2 * math.log(2)])
    assert not levels(axes["loss"])
    # Values reach 0.4; the optimum is in view all the same.
    for name in ("D", "critic_loss"):
        low, high = axes[name].get_ylim()
        assert low < levels(axes[name])[0] < high
    assert "2 ln 2 - 2 JS" in caption


def test_scores_have_no_such_optimum(tmp_path):
    axes, caption = panels(tmp_path, ["loss", "critic_loss", "score_real", "score_fake"])
    assert list(axes) == ["loss", "critic_loss", "score"]
    assert not any(levels(axis) for axis in axes.values())
    assert "JS" not in caption
