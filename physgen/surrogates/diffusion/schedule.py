r"""Noise schedules: what is left of a sample, and how much noise there is, at time t in [0, 1].

    z_t = alpha(t) x + sigma(t) eps,    eps ~ N(0, 1),    lambda(t) = log(alpha^2 / sigma^2),

goes from all but clean at t = 0 to all but noise at t = 1 (Kingma et al., arXiv 2107.00630). The
log-signal-to-noise ratio lambda says how noisy z is; the scaling says how large:

    preserving   alpha^2 = sigmoid(lambda),     sigma^2 = sigmoid(-lambda),    alpha^2 + sigma^2 = 1
    exploding    alpha = 1,                     sigma = exp(-lambda / 2)
    straight     alpha = sigmoid(lambda / 2),   sigma = sigmoid(-lambda / 2),  alpha + sigma = 1

A model that knows one scaling knows all, since z / (alpha + sigma) depends on lambda alone.
Discrete diffusion is a grid on these: between neighbouring times s < t noise of variance
beta = 1 - alpha(t)^2 / alpha(s)^2 is added.
"""

from __future__ import annotations

import math
from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional

from physgen.surrogates.sampler_options import Spacing

Scaling = Literal["preserving", "exploding", "straight"]
ScheduleName = Literal["linear", "cosine", "edm", "straight", "learned"]

CURVATURE = 7.0
"""The exponent rho of Karras et al.: the larger, the more steps at little noise."""


class Grid(NamedTuple):
    """Noise levels to step through, from the noisiest to a clean sample; each tensor is (N + 1,).

    The last log-signal-to-noise ratio is infinite: there alpha is 1 and sigma 0.
    """

    log_snr: Tensor
    alpha: Tensor
    sigma: Tensor


class Schedule(nn.Module):
    """A falling lambda(t), finite on all of [0, 1], and a scaling."""

    scaling: Scaling = "preserving"

    def log_snr(self, time: Tensor) -> Tensor:
        """Return lambda of times in [0, 1], of any shape."""
        raise NotImplementedError

    def amplitudes(self, log_snr: Tensor) -> tuple[Tensor, Tensor]:
        """Return alpha and sigma at lambda, of the same shape."""
        if self.scaling == "exploding":
            return torch.ones_like(log_snr), (-log_snr / 2).exp()
        if self.scaling == "straight":
            return (log_snr / 2).sigmoid(), (-log_snr / 2).sigmoid()
        return log_snr.sigmoid().sqrt(), (-log_snr).sigmoid().sqrt()

    def grid(self, steps: int, spacing: Spacing, like: Tensor) -> Grid:
        """Return `steps` levels from t = 1 to t = 0 and a clean one behind them.

        Args:
            steps: N, at least 1.
            spacing: "time" puts the levels equally far apart in t; "noise" puts the powers
                (sigma / alpha)^(1/7) equally far apart (Karras et al., arXiv 2206.00364, eq. 5).
                "even" ends at t = 1/N, equally far from the clean level: of few levels, none is to
                be spent on t = 0, where hardly anything is left to do.
            like: a tensor of the type and on the device wanted.

        >>> Straight().grid(2, "even", torch.zeros(())).sigma.round(decimals=2)
        tensor([1.0000, 0.5000, 0.0000])
        """
        end = 1 / steps if spacing == "even" else 0.0
        time = torch.linspace(1, end, steps, dtype=like.dtype, device=like.device)
        if spacing == "noise":
            first, last = self.log_snr(like.new_tensor([1.0, 0.0])).unbind()
            power = -0.5 / CURVATURE
            levels = torch.lerp((power * last).exp(), (power * first).exp(), time)
            log_snr = levels.log() / power
        else:
            log_snr = self.log_snr(time)
        log_snr = functional.pad(log_snr, (0, 1), value=math.inf)
        return Grid(log_snr, *self.amplitudes(log_snr))


class Linear(Schedule):
    """DDPM (Ho et al., arXiv 2006.11239) in continuous time (Song et al., arXiv 2011.13456).

    The rate of noise rises linearly from 0.1 to 20: log alpha^2 = -(0.1 t + 19.9 t^2 / 2). In 1000
    steps these are the betas of DDPM, 10^-4 to 0.02. Time 0 stands for its first step, t = 1/1000.
    """

    def log_snr(self, time: Tensor) -> Tensor:
        """Return lambda."""
        time = torch.lerp(torch.full_like(time, 1e-3), torch.ones_like(time), time)
        return -(0.1 * time + 9.95 * time.square()).expm1().log()


class Cosine(Schedule):
    """Alpha and sigma are cosine and sine of an angle (Nichol & Dhariwal, arXiv 2102.09672).

    It rises linearly from their offset, pi/2 0.008/1.008, to where lambda is -10 (as it is at the
    end of the linear schedule), since at pi/2 it would be infinite.

    >>> schedule = Cosine()
    >>> alpha, sigma = schedule.amplitudes(schedule.log_snr(torch.tensor(0.5)))
    >>> round(float(alpha**2 + sigma**2), 6)
    1.0
    """

    def log_snr(self, time: Tensor) -> Tensor:
        """Return lambda."""
        start, end = 0.5 * math.pi * 0.008 / 1.008, math.atan(math.exp(5))
        return -2 * (start + (end - start) * time).tan().log()


class Karras(Schedule):
    """EDM (Karras et al., arXiv 2206.00364, eq. 5): sigma^(1/7) linear in t, from 0.002 to 80."""

    scaling: Scaling = "exploding"

    def log_snr(self, time: Tensor) -> Tensor:
        """Return lambda."""
        start, end = math.pow(0.002, 1 / CURVATURE), math.pow(80, 1 / CURVATURE)
        return -2 * CURVATURE * (start + (end - start) * time).log()


class Straight(Schedule):
    """The straight path of flow matching (Lipman et al., arXiv 2210.02747): sigma is t.

    Kept 10^-3 away from both ends, where lambda is infinite.
    """

    scaling: Scaling = "straight"

    def log_snr(self, time: Tensor) -> Tensor:
        """Return lambda."""
        return -2 * torch.logit(1e-3 + (1 - 2e-3) * time)


class Learned(Schedule):
    """A monotone network (Kingma et al., arXiv 2107.00630, appendix H): its two ends, and a shape.

    lambda(t) = lambda_0 + (lambda_1 - lambda_0) (f(t) - f(0)) / (f(1) - f(0)),
    f(t) = t + sum_k w_k sigmoid(a_k (t - b_k)) with positive w and a.
    """

    def __init__(self, n_units: int = 32) -> None:
        super().__init__()
        self.ends = nn.Parameter(torch.tensor([9.0, -9.0]))
        self.weights = nn.Parameter(torch.full((n_units,), -4.0))
        self.slopes = nn.Parameter(torch.full((n_units,), 8.0))
        self.centres = nn.Parameter(torch.linspace(0, 1, n_units))

    @property
    def shape(self) -> list[nn.Parameter]:
        """The parameters on which the variational bound does not depend."""
        return [self.weights, self.slopes, self.centres]

    def log_snr(self, time: Tensor) -> Tensor:
        """Return lambda."""
        first, last = self._rise(torch.zeros_like(time)), self._rise(torch.ones_like(time))
        share = (self._rise(time) - first) / (last - first)
        log_snr: Tensor = torch.lerp(self.ends[0], self.ends[1], share)
        return log_snr

    def _rise(self, time: Tensor) -> Tensor:
        pull = functional.softplus(self.slopes) * (time[..., None] - self.centres)
        return time + (functional.softplus(self.weights) * pull.sigmoid()).sum(-1)


SCHEDULES: dict[ScheduleName, type[Schedule]] = {
    "linear": Linear,
    "cosine": Cosine,
    "edm": Karras,
    "straight": Straight,
    "learned": Learned,
}
