r"""Plaquettes of U(1) on a torus with a learned distribution of their topological charge.

As in `physgen.surrogates.flows.lattice.closure`, V independent phi_P ~ exp(beta cos phi) are drawn
and their closure defect, sum_P phi_P - 2 pi n with the nearest integer n, is shared out. Of itself
n has the probabilities r_n. But a charge Q ~ p(Q) is drawn too, and the first of R candidates phi
that has n = Q is taken, or else the last one: so n has the probabilities c_n r_n with

    c_n = p(n) sum_{j < R} (1 - r_n)^j + sum_{Q != n} p(Q) (1 - r_Q)^(R - 1),

and matter fields, which suppress the charge, do not have to be met by weights. Seen from the angles
theta_P = phi_P - t, any |t| < pi / V may have been shared out; each time that a theta_P + t crosses
pi, n falls by one. With n_k = Q(theta) - k between the crossings t_k and t_{k+1},

    q(theta) = V (2 pi)^(V-1) (2 pi I_0(beta))^(-V) sum_k c_{n_k}
               int_{t_k}^{t_{k+1}} dt exp beta (C cos t - S sin t)

with respect to Haar's measure, C = sum_P cos theta_P, S = sum_P sin theta_P. The integrals are done
by Gauss's rule, and the r_n from the characteristic function of the sum of V angles,

    r_n = (1 / 2 pi) int ds psi(s)^V (2 / s) sin(pi s) cos(2 pi n s),    psi(s) = <cos(s phi)>.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from physgen.surrogates.flows.lattice.von_mises import VonMises, gauss_rule

NODES = 16
"""Of Gauss's rule between two crossings."""
CROSSINGS = 8
"""Of each side, that are looked at: within pi / V there are hardly ever two."""
SCALE = 8.0
"""Of the logarithms of p(Q) to what is learned: they have further to go than weights."""
_HIGHEST = 24
"""Integer n beyond which r_n is taken as zero."""


class ChargedPlaquettes(nn.Module):
    """V plaquette angles with a density, of which the charge has a distribution of its own.

    Args:
        volume: V.
        beta: where training starts, with p(Q) = r_Q.
        charges: p(Q) is learned for |Q| = 0 ... `charges`; larger ones come as last candidates.
        candidates: R.

    >>> natural = ChargedPlaquettes(16, beta=2.0).natural()
    >>> round((natural[0] + 2 * natural[1:].sum()).item(), 9)  # of all charges, both signs
    1.0
    """

    def __init__(self, volume: int, beta: float, charges: int = 3, candidates: int = 8) -> None:
        super().__init__()
        self.volume, self.candidates = volume, candidates
        self.highest, self.last = min(charges, (volume - 1) // 2), min(_HIGHEST, volume // 2)
        self.log_beta = nn.Parameter(torch.tensor(math.log(beta)))
        self.logits = nn.Parameter(torch.zeros(self.highest + 1))
        with torch.no_grad():
            natural = self.natural()[: self.highest + 1].clamp_min(1e-12)
            self.logits.copy_((natural / natural[0]).log() / SCALE)

    @property
    def n_uniform(self) -> int:
        """Uniform numbers behind one sample."""
        return self.candidates * self.volume + 1

    def natural(self) -> Tensor:
        """Return (N,), the r_n of n >= 0, in double precision."""
        beta, volume = self.log_beta.double().exp(), self.volume
        large = volume >= 16
        nodes, weights = gauss_rule(128 if large else 256, beta)
        phi = 2 * math.pi * nodes - math.pi
        density = (beta * (phi.cos() - 1)).exp() * weights
        # psi falls like a Gaussian and then, where the density at pi is no zero, as 1 / s.
        width = (volume * (density * phi.square()).sum() / density.sum()).sqrt().detach()
        reach = (9 / width).clamp(min=3.0 if large else 40.0)
        s, ds = gauss_rule(1000 if large else 2000, beta)
        s, ds = reach * s, reach * ds
        psi = (density * (s[:, None] * phi).cos()).sum(1) / density.sum()
        n = torch.arange(self.last + 1, dtype=beta.dtype, device=beta.device)
        wave = (2 * math.pi * n[:, None] * s).cos() * torch.sinc(s) * 2 * math.pi
        return (wave * psi.pow(volume) * ds).sum(1) / math.pi

    def probabilities(self) -> Tensor:
        """Return (H + 1,), p(Q) of Q >= 0; negative charges are as probable."""
        logits = SCALE * self.logits.double()
        both = torch.cat([logits[:1], logits[1:] + math.log(2)])
        return (logits - both.logsumexp(0)).exp()

    def factors(self) -> Tensor:
        """Return (N,), the c_n of n >= 0, differentiable."""
        natural, wanted = self.natural(), self.probabilities()
        shares = torch.nn.functional.pad(wanted, (0, self.last - self.highest))
        failed = shares * (1 - natural).pow(self.candidates - 1)
        both = failed.sum() + failed[1:].sum()
        powers = torch.arange(self.candidates, device=natural.device)
        taken = shares * (1 - natural)[:, None].pow(powers).sum(1)
        return taken + both - failed

    def draw(self, u: Tensor) -> Tensor:
        """Map (B, n_uniform) uniform numbers to (B, V) angles. They jump with all parameters."""
        with torch.no_grad():
            beta, wanted = self.log_beta.double().exp(), self.probabilities()
            edges = torch.cat([wanted[1:].flip(0), wanted]).cumsum(0)[:-1]
            charge = torch.searchsorted(edges, u[:, -1].contiguous()) - self.highest
            several = u[:, :-1].reshape(u.shape[0], self.candidates, self.volume)
            phi = VonMises(beta, beta.new_zeros(1)).quantile(several)
            total = phi.sum(2)
            n = (total / (2 * math.pi)).round()
            fits = n == charge[:, None]
            last = torch.arange(self.candidates, device=u.device) == self.candidates - 1
            first = (fits | last).to(torch.uint8).argmax(1, keepdim=True)
            phi = phi.gather(1, first[..., None].expand(-1, 1, self.volume))[:, 0]
            defect = (total - 2 * math.pi * n).gather(1, first)
            return phi - defect / self.volume

    def log_prob(self, theta: Tensor) -> Tensor:
        """Return (B,) ln q of (B, V) angles in [-pi, pi), with respect to Haar's measure."""
        beta, volume = self.log_beta.double().exp(), self.volume
        cosines, sines = theta.cos().sum(1)[:, None], theta.sin().sum(1)[:, None]
        charge = (theta.sum(1) / (2 * math.pi)).round().long()[:, None]
        ordered, count = theta.sort(1).values, min(volume, CROSSINGS)
        # The smallest angle is the first to cross -pi downwards, the largest pi upwards.
        down, up = -math.pi - ordered[:, :count].flip(1), math.pi - ordered.flip(1)[:, :count]
        edges = torch.cat([down, up], 1).clamp(-math.pi / volume, math.pi / volume)
        n = charge - torch.arange(1 - count, count, device=theta.device)
        factor = self.factors()[n.abs().clamp(max=self.last)]
        nodes, weights = gauss_rule(NODES, beta)
        low, size = edges[:, :-1, None], edges.diff(dim=1)[..., None]
        t = low + size * nodes
        wave = cosines[..., None] * (t.cos() - 1) - sines[..., None] * t.sin()
        integral = (factor[..., None] * size * weights * (beta * wave).exp()).sum((1, 2))
        constant = math.log(volume / (2 * math.pi))
        constant = constant - volume * (torch.special.i0e(beta).log() + beta)
        total: Tensor = constant + beta * cosines[:, 0] + integral.log()
        return total
