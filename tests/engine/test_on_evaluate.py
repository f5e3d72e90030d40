"""Looking at a surrogate while it is trained."""

import dataclasses

import torch
from toys import OPTIONS, Numbers, digest, entries, make, train

from physgen.engine.loop import fit


def test_looks_are_taken_under_the_weights_to_keep_and_change_nothing(tmp_path):
    options = dataclasses.replace(OPTIONS, evaluate_every=5, ema=0.9)
    surrogate, method = make()
    seen = {}

    def on_evaluate(step):
        assert not surrogate.training
        assert not torch.is_grad_enabled()
        seen[step] = digest(surrogate)

    result = fit(
        surrogate, method, {"data": Numbers()}, tmp_path / "a", options, on_evaluate=on_evaluate
    )
    assert list(seen) == [5, 10, 12]
    assert seen[12] == digest(surrogate), "the average is what is kept, and what was looked at"
    assert result.best is None
    assert not any("held_out_loss" in entry["metrics"] for entry in entries(tmp_path / "a"))
    plain, _ = train(tmp_path / "b", options)
    assert digest(plain) == digest(surrogate)


def test_a_look_and_a_held_out_loss_go_together(tmp_path):
    options = dataclasses.replace(OPTIONS, evaluate_every=6)
    evaluations = []
    _, result = train(
        tmp_path, options, on_evaluate=evaluations.append, evaluate=lambda: float(len(evaluations))
    )
    assert evaluations == [6, 12]
    assert result.best == (1.0, 6)
