r"""Conventions in which phi^4 theory is written, and what takes one to another.

With V sites in d dimensions, a field phi of the convention `plain` (Albergo et al., arXiv
2101.08176) and another convention's field phi_c,

    plain:     S = sum_x [ m^2 phi^2 + lambda phi^4
                           + sum_mu (2 phi^2 - phi phi_{+mu} - phi phi_{-mu}) ],
    standard:  S = sum_x [ m^2 phi^2 / 2 + lambda phi^4 / 4!
                           + sum_mu (phi_{+mu} - phi)^2 / 2 ],
    hopping:   S = sum_x [ -2 kappa sum_mu phi phi_{+mu} + phi^2 + lambda (phi^2 - 1)^2 ],

phi = s phi_c with s = 1 / sqrt(2) and s = sqrt(kappa), and the couplings are related by

    m^2 = m_c^2, lambda = lambda_c / 6;    m^2 = (1 - 2 lambda_c) / kappa - 2 d,
    lambda = lambda_c / kappa^2.

Actions of a field are equal but for the constant V lambda_c of the hopping form, S_c(phi_c) =
S(s phi_c) + V lambda_c, and so ln Z_c = ln Z - V ln s - V lambda_c (Montvay & Muenster, Quantum
Fields on a Lattice, 1994, section 2.1).
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Literal

from physgen.errors import DomainError

Name = Literal["plain", "standard", "hopping"]

TEXTS: dict[Name, str] = {
    "plain": "S = sum_x [m2 phi^2 + lam phi^4 + sum_mu (2 phi^2 - phi phi_+mu - phi phi_-mu)]",
    "standard": "S = sum_x [m2 phi^2 / 2 + lam phi^4 / 4! + sum_mu (phi_+mu - phi)^2 / 2]",
    "hopping": "S = sum_x [-2 kappa sum_mu phi phi_+mu + phi^2 + lam (phi^2 - 1)^2]",
}
"""What files say of their convention."""


@dataclass(frozen=True)
class Plain:
    """A theory in the convention `plain`, and the way there.

    Attributes:
        m2, lam: its couplings.
        scale: s, phi = s phi_c.
        constant: of a site, S_c(phi_c) = S(s phi_c) + V constant.

    >>> Plain(-4.0, 8.0).to("standard", 2)
    {'m2': -4.0, 'lam': 48.0}
    """

    m2: float
    lam: float
    scale: float = 1.0
    constant: float = 0.0

    def to(self, convention: Name, dimensions: int) -> dict[str, float]:
        """Return the couplings of this theory in a convention, by their names there."""
        if convention == "plain":
            return {"m2": self.m2, "lam": self.lam}
        if convention == "standard":
            return {"m2": self.m2, "lam": 6 * self.lam}
        # 2 lambda kappa^2 + (m^2 + 2 d) kappa = 1, the positive root, without cancellation.
        a = self.m2 + 2 * dimensions
        root = math.sqrt(a * a + 8 * self.lam)
        kappa = 2 / (a + root) if a > 0 else (root - a) / (4 * self.lam)
        return {"kappa": kappa, "lam": self.lam * kappa**2}


def plain(convention: Name, dimensions: int, m2: float, lam: float, kappa: float) -> Plain:
    """Return the theory that couplings of a convention mean; `m2` has no meaning in `hopping`.

    Raises:
        DomainError: kappa is not positive, or given where the convention has none.

    >>> theory = plain("hopping", 2, math.nan, 0.5, 0.25)
    >>> theory.m2, theory.lam, theory.scale
    (-4.0, 8.0, 0.5)
    """
    if convention == "hopping":
        if not kappa > 0:
            raise DomainError(
                f"phi4 in the convention hopping needs kappa > 0, and it is {kappa:g}"
            )
        return Plain((1 - 2 * lam) / kappa - 2 * dimensions, lam / kappa**2, kappa**0.5, lam)
    if kappa != 0:
        raise DomainError(
            f"phi4 in the convention {convention} has no kappa (it is {kappa:g}): leave it out, or "
            "set convention to hopping"
        )
    return Plain(m2, lam / 6, 0.5**0.5) if convention == "standard" else Plain(m2, lam)


def factor(name: str, scale: float) -> float:
    """Return by what an observable of `plain` is multiplied to be that of phi_c."""
    powers = {"phi^2": 2, "phi^4": 4, "m": 1, "|m|": 1, "M^2": 2, "M^4": 4, "chi2": 2}
    return scale ** -powers.get(name, 0)
