"""What is compared of a gauge configuration that was read, each with both numbers."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass

from physgen.io.lattice.configuration import Header
from physgen.io.lattice.loops import Measured

PLAQUETTE = 1e-5
"""How far the stored plaquette may be from that of the links."""
LINK_TRACE = 1e-6
"""How far the stored link trace may be from that of the links."""
EXACT = 1e-10
"""How far either may be where all digits are stored."""
UNITARY = 1e-5
"""Distance from the group that single precision explains."""

_ALONE = 1e3
"""Times the mean distance of other links from the group that no link in double precision has."""
_ROUNDING = 1e-12


@dataclass(frozen=True)
class Check:
    """A number that was compared.

    Attributes:
        name: what it is.
        stored: what the file says, or what it must be, as text.
        found: what it is, as text.
        passed: whether both agree.
        where: what the number belongs to, if not to the whole configuration.

    >>> str(Check("plaquette", "the stored 0.5", "0.6", passed=False))
    'plaquette 0.6 is not the stored 0.5'
    """

    name: str
    stored: str
    found: str
    passed: bool
    where: str = ""

    def __str__(self) -> str:
        relation = "agrees with" if self.passed else "is not"
        return f"{self.name} {self.found}{self.where} {relation} {self.stored}"


def compared(header: Header, measured: Measured, sums: Mapping[str, int]) -> tuple[Check, ...]:
    """Return all checks that a configuration allows."""
    checks = [
        Check(
            f"checksum {name}" if name != "checksum" else name,
            f"the stored {int(header.stored[name]):08x}",
            f"{found:08x}",
            int(header.stored[name]) == found,
        )
        for name, found in sums.items()
        if name in header.stored
    ]
    for name, found, tolerance in (
        ("plaquette", measured.plaquette, PLAQUETTE),
        ("link trace", measured.link_trace, LINK_TRACE),
    ):
        if name in header.stored:
            stored = float(header.stored[name])
            tolerance = EXACT if header.exact else tolerance
            passed = abs(found - stored) <= tolerance
            checks.append(Check(name, f"the stored {stored:.10g}", f"{found:.10g}", passed))
    *site, mu = measured.worst
    at = f" at (t, z, y, x) = {tuple(site)}, direction {'xyzt'[mu - len(site)]}"
    at = at if len(site) == 4 else f" at site {tuple(site)}"
    checks += [
        Check(
            name,
            f"0 (within {UNITARY:g}: in {header.group})",
            f"{found:.3g}",
            found <= UNITARY,
            at * (not found <= UNITARY),
        )
        for name, found in (
            ("largest |U U^+ - 1|", measured.unitarity),
            ("largest |det U - 1|", measured.determinant),
        )
        if header.n > 1 or name.startswith("largest |U")
    ]
    worst, others = max(measured.unitarity, measured.determinant), measured.typical
    if header.bits == 64 and worst > max(_ALONE * others, _ROUNDING):
        # Numbers of single precision are as far from the group on all links.
        stated = f"that of the other links, {others:.1g} on average: one is damaged"
        checks.append(Check("distance from the group", stated, f"{worst:.3g}", False, at))
    return tuple(checks)


def failures(checks: Iterable[Check]) -> list[Check]:
    """Return the checks that failed."""
    return [check for check in checks if not check.passed]


def verdict(header: Header, checks: Iterable[Check]) -> str:
    """Return what is to be said of the checksum: agrees, is not what is stored, or none stored."""
    sums = [check for check in checks if check.name.startswith("checksum")]
    if not sums:
        return "none stored"
    wrong = failures(sums)
    return "; ".join(map(str, wrong)) if wrong else "agrees"
