"""A run that stops goes on as if it had not, and only where it may."""

import copy
import dataclasses
import os
import signal

import pytest
import torch
from toys import OPTIONS, Numbers, Plain, WithChains, digest, entries, make, train

from physgen.engine.loop import fit
from physgen.errors import CheckpointError


@pytest.mark.parametrize("method", [Plain, WithChains])
@pytest.mark.parametrize("extra", [{}, {"accumulate": 2, "ema": 0.9, "clip": 1.0, "warmup": 3}])
def test_a_run_in_two_parts_equals_a_run_in_one(tmp_path, method, extra):
    options = dataclasses.replace(OPTIONS, **extra)
    whole, _ = train(tmp_path / "whole", options, method)

    def stop_at_six(step, metrics):
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)
            os.kill(os.getpid(), signal.SIGTERM)

    _, first = train(tmp_path / "parts", options, method, progress=stop_at_six)
    assert not first.finished
    assert first.step in (8, 9)
    assert "run the same command again" in first.message
    saved = sorted(path.name for path in (tmp_path / "parts/checkpoints").iterdir())
    assert saved == ["step-000000005", f"step-{first.step:09d}"], "two signals, one save"
    resumed, second = train(tmp_path / "parts", options, method)
    assert second.finished
    assert second.resumed_at == first.step
    assert digest(resumed) == digest(whole)
    names = [entry["event"] for entry in entries(tmp_path / "parts", "event")]
    assert names == ["start", "stop", "resume", "finish"]


def test_best_weights_are_kept_and_survive_a_resume(tmp_path):
    options = dataclasses.replace(OPTIONS, evaluate_every=3, checkpoint_every=6, ema=0.9)
    losses = {3: 2.0, 6: 1.0, 9: 3.0, 12: 4.0}
    surrogate, method = make()
    kept = {}

    def evaluate():
        assert not surrogate.training
        step = 3 * (len(kept) + 1)
        kept[step] = copy.deepcopy(surrogate.state_dict())
        return losses[step]

    result = fit(surrogate, method, {"data": Numbers()}, tmp_path, options, evaluate=evaluate)
    assert result.best == (1.0, 6)
    assert torch.equal(surrogate.net[0].weight, kept[6]["net.0.weight"])
    again, result = train(tmp_path, options, evaluate=evaluate)
    assert result.best == (1.0, 6)
    assert digest(again) == digest(surrogate)
    values = {
        e["step"]: e["metrics"]["held_out_loss"] for e in entries(tmp_path) if e["step"] % 3 == 0
    }
    assert values == losses


def test_resume_refuses_what_changed_unless_forced(tmp_path):
    train(tmp_path, identity={"recipe": "aaa", "data": "bbb"})
    longer = dataclasses.replace(OPTIONS, steps=14)
    with pytest.raises(CheckpointError, match=r"another recipe \(aaa, now ccc\)"):
        train(tmp_path, longer, identity={"recipe": "ccc", "data": "bbb"})
    _, result = train(tmp_path, longer, identity={"recipe": "ccc", "data": "bbb"}, force=True)
    assert result.resumed_at == 12
    assert result.step == 14


def test_forced_resume_on_other_data_starts_them_anew(tmp_path):
    class Other(Numbers):
        def load_state_dict(self, state):
            raise CheckpointError("cursor of another stream")

    train(tmp_path)
    longer = dataclasses.replace(OPTIONS, steps=14)
    with pytest.raises(CheckpointError, match="another stream"):
        train(tmp_path, longer, stream=Other())
    other = Other()
    with pytest.warns(RuntimeWarning, match="the data start anew"):
        train(tmp_path, longer, stream=other, force=True)
    assert other.position == 2


def test_forced_resume_takes_the_new_learning_rate(tmp_path):
    train(tmp_path)
    surrogate, method = make(learning_rate=0.001)
    options = dataclasses.replace(OPTIONS, steps=13)
    fit(surrogate, method, {"data": Numbers()}, tmp_path, options, force=True)
    assert entries(tmp_path)[-1]["metrics"]["learning_rate"] == 0.001


def test_another_model_is_refused_with_reason(tmp_path):
    train(tmp_path)
    surrogate, _ = make()
    surrogate.net[0] = torch.nn.Linear(3, 7)
    with pytest.raises(CheckpointError, match="does not fit this model"):
        fit(surrogate, Plain(surrogate), {"data": Numbers()}, tmp_path, OPTIONS)


def test_a_second_process_is_refused(tmp_path):
    def enter_again(step, metrics):
        with pytest.raises(CheckpointError, match=f"in use by process {os.getpid()}"):
            train(tmp_path)
        refused.append(step)

    refused = []
    train(tmp_path, progress=enter_again)
    assert refused


@pytest.mark.cuda
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("method", [Plain, WithChains])
def test_cuda_resumes_where_it_stopped(tmp_path, method):
    options = dataclasses.replace(OPTIONS, device="cuda", ema=0.9, deterministic=True)
    whole, _ = train(tmp_path / "whole", options, method)

    def stop(step, metrics):
        if step == 8:
            os.kill(os.getpid(), signal.SIGTERM)

    train(tmp_path / "parts", options, method, progress=stop)
    resumed, _ = train(tmp_path / "parts", options, method)
    for ours, plain in zip(resumed.parameters(), whole.parameters(), strict=True):
        torch.testing.assert_close(ours, plain)
