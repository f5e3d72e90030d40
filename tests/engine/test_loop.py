"""The loop's arithmetic against plain torch, and its promises: exactness, guards, errors."""

import dataclasses
import math

import pytest
import torch
from toys import OPTIONS, Numbers, Plain, entries, make, train

from physgen.engine.loop import fit
from physgen.engine.options import Engine
from physgen.errors import InputError, TrainingError


class Weighted(Plain):
    """Weighted squares, without noise: for comparison with a loop written out."""

    def prepare(self, batch, generator):
        return batch

    def step(self, batches, ctx):
        return {"loss": ctx.minimise(self.energy, self.optimisers["all"], batches["data"])}

    def energy(self, batch):
        return self.surrogate.energy(batch.x)


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("accumulate", [1, 3])
def test_minimise_equals_a_loop_written_out(tmp_path, weighted, accumulate):
    options = dataclasses.replace(
        OPTIONS, accumulate=accumulate, clip=0.5, warmup=4, schedule="cosine", precision="float64"
    )
    fitted, _ = train(tmp_path, options, Weighted, Numbers(8, weighted))

    surrogate, method = make(Weighted)
    surrogate.double()
    optimiser, stream = method.optimisers["all"], Numbers(8, weighted)
    for step in range(12):
        rate = min(1, (step + 1) / 5)
        if step >= 4:
            rate *= 0.5 * (1 + math.cos(math.pi * (step - 4) / 8))
        optimiser.param_groups[0]["lr"] = 0.05 * rate
        batch = next(stream).to(dtype=torch.float64)
        losses = surrogate.energy(batch.x)
        weight = torch.ones(8) if batch.weight is None else batch.weight
        optimiser.zero_grad()
        (weight * losses).mean().backward()
        torch.nn.utils.clip_grad_norm_(surrogate.parameters(), 0.5)
        optimiser.step()
    for ours, plain in zip(fitted.parameters(), surrogate.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-12, atol=1e-12)


def test_gradients_reach_only_the_optimisers_parameters(tmp_path):
    class TwoOptimisers(Weighted):
        def __init__(self, surrogate):
            super().__init__(surrogate)
            last = surrogate.net[2].parameters()
            self.optimisers = {"all": torch.optim.SGD(last, lr=0.1)}

    before, _ = make()
    after, _ = train(tmp_path, method=TwoOptimisers)
    assert torch.equal(before.net[0].weight, after.net[0].weight)
    assert after.net[0].weight.grad is None
    assert not torch.equal(before.net[2].weight, after.net[2].weight)


def test_global_random_state_is_left_alone(tmp_path):
    torch.manual_seed(3)
    expected = torch.rand(2)
    surrogate, method = make()
    torch.manual_seed(3)
    fit(surrogate, method, {"data": Numbers()}, tmp_path, OPTIONS)
    assert torch.equal(torch.rand(2), expected)


def test_noise_differs_between_steps_and_seeds(tmp_path):
    class Record(Weighted):
        def step(self, batches, ctx):
            own = torch.rand(2, generator=ctx.generator)
            seen.append((ctx.rand(1), ctx.rand(1), own, torch.rand(2)))
            return super().step(batches, ctx)

    runs = []
    for name, seed in (("a", 0), ("b", 0), ("c", 1)):
        seen = []
        train(tmp_path / name, dataclasses.replace(OPTIONS, seed=seed), Record)
        runs.append(torch.stack([torch.cat([n.flatten() for n in step]) for step in seen]))
    assert torch.equal(runs[0], runs[1])
    assert len(torch.cat([runs[0], runs[2]]).unique()) == 2 * runs[0].numel()


def test_moving_average_is_the_one_in_the_books(tmp_path):
    weights = []

    class Record(Weighted):
        def step(self, batches, ctx):
            result = super().step(batches, ctx)
            weights.append(self.surrogate.net[0].weight.detach().clone())
            return result

    surrogate, _ = train(tmp_path, dataclasses.replace(OPTIONS, ema=0.5), Record)
    average = make()[0].net[0].weight.detach()
    for count, weight in enumerate(weights):
        decay = min(0.5, (1 + count) / (10 + count))
        average = decay * average + (1 - decay) * weight
    torch.testing.assert_close(surrogate.net[0].weight.detach(), average)
    assert surrogate.limit.isinf().all(), "an infinite buffer must not turn into NaN"


def test_the_journal_holds_means_of_all_steps_once(tmp_path):
    losses = []

    class Record(Weighted):
        def step(self, batches, ctx):
            result = super().step(batches, ctx)
            losses.append(float(result["loss"]))
            return result

    train(tmp_path, dataclasses.replace(OPTIONS, checkpoint_every=100), Record)
    found = entries(tmp_path)
    assert [entry["step"] for entry in found] == [4, 8, 12]
    for entry in found:
        window = losses[entry["step"] - 4 : entry["step"]]
        assert entry["metrics"]["loss"] == pytest.approx(sum(window) / 4)


def test_a_loss_that_is_not_finite_stops_and_names_the_step(tmp_path):
    class Breaks(Weighted):
        def energy(self, batch):
            losses = super().energy(batch)
            return losses * float("nan") if self.broken else losses

        broken = False

        def step(self, batches, ctx):
            self.broken = ctx.step == 6
            return super().step(batches, ctx)

    with pytest.raises(TrainingError, match=r"step 7; .*step-000000005") as caught:
        train(tmp_path, method=Breaks)
    assert "learning rate" in str(caught.value)
    assert entries(tmp_path, "event")[-1]["reason"] == str(caught.value)
    assert [path.name for path in (tmp_path / "checkpoints").iterdir()] == ["step-000000005"]
    assert all(torch.isfinite(p).all() for p in train(tmp_path, method=Weighted)[0].parameters())


def test_gradients_that_are_not_finite_are_never_saved(tmp_path):
    class Breaks(Weighted):
        def energy(self, batch):
            # The loss is 0 and its gradient 0 * inf.
            return torch.sqrt(super().energy(batch) * 0)

    with pytest.raises(TrainingError, match="not finite"):
        train(tmp_path, dataclasses.replace(OPTIONS, steps=1), Breaks)
    assert not list(tmp_path.glob("checkpoints/*"))


@pytest.mark.parametrize(
    "changes", [{"batch_size": 0}, {"ema": 1.0}, {"clip": 0.0}, {"steps": -1}, {"keep": 0}]
)
def test_impossible_options_are_named(changes):
    with pytest.raises(InputError, match=f"engine.{next(iter(changes))}"):
        Engine(**changes)


def test_missing_input_is_named(tmp_path):
    surrogate, method = make()
    with pytest.raises(InputError, match=r"'data'.*data section"):
        fit(surrogate, method, {}, tmp_path, OPTIONS)


def test_scalar_losses_are_refused(tmp_path):
    class Scalar(Weighted):
        def energy(self, batch):
            return super().energy(batch).mean()

    with pytest.raises(TrainingError, match=r"shape \(\): expected one loss a sample"):
        train(tmp_path, method=Scalar)


def test_out_of_memory_names_the_setting(tmp_path):
    class Huge(Weighted):
        def energy(self, batch):
            return batch.x.new_empty(2**50).sum() + super().energy(batch)

    with pytest.raises(TrainingError, match=r"engine.batch_size=8.*double engine.accumulate"):
        train(tmp_path, method=Huge)


def test_bf16_computes_in_bfloat16_and_keeps_float32(tmp_path):
    kinds = set()

    class Record(Weighted):
        def energy(self, batch):
            kinds.add(self.surrogate.net(batch.x).dtype)
            return super().energy(batch).float()

    surrogate, _ = train(tmp_path, dataclasses.replace(OPTIONS, precision="bf16"), Record)
    assert kinds == {torch.bfloat16}
    assert surrogate.dtype == torch.float32


def test_data_free_methods_need_no_streams(tmp_path):
    class DataFree(Plain):
        inputs = ()

        def step(self, batches, ctx):
            return {"loss": ctx.minimise(self.energy, self.optimisers["all"], ctx.randn(3))}

        def energy(self, x):
            return self.surrogate.energy(x)

    surrogate, method = make(DataFree)
    options = dataclasses.replace(OPTIONS, accumulate=2, deterministic=True)
    assert fit(surrogate, method, {}, tmp_path, options).finished
    assert not torch.are_deterministic_algorithms_enabled()


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_compiled_losses_agree_with_eager_ones(tmp_path):
    eager, _ = train(tmp_path / "eager", method=Weighted)
    compiled, _ = train(tmp_path / "compiled", dataclasses.replace(OPTIONS, compile=True), Weighted)
    for ours, plain in zip(compiled.parameters(), eager.parameters(), strict=True):
        torch.testing.assert_close(ours, plain, rtol=1e-4, atol=1e-5)
