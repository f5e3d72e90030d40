"""Whether Markov chains have mixed: what must be known before any number from them is believed."""

from __future__ import annotations

from collections.abc import Mapping

from physgen.sampling.autocorrelation import DISAGREEMENT
from physgen.validation.comparison import Comparison, Role
from physgen.validation.scorecard import Row
from physgen.validation.uncertainty import ENOUGH, Estimate

_WHOSE: dict[Role, str] = {"generated": "", "truth": " of the truth", "floor": " of the floor"}


def disagrees(estimate: Estimate) -> bool:
    """Return whether chains are shown not to have mixed."""
    return estimate.agreement < DISAGREEMENT


def mixing(comparison: Comparison, estimates: Mapping[str, Mapping[Role, Estimate]]) -> list[Row]:
    """Return a row a sample whose chains have not mixed, or do not show that they have.

    Its value is the largest tau_int, its p-value, where chains are shown not to have mixed, that of
    their agreement. Samples that claim to be exact fail where their chains
    disagree.

    Args:
        comparison: whose samples may carry chains.
        estimates: by observable and role.
    """
    rows = []
    for role, whose in _WHOSE.items():
        measured = comparison.measured.get(role)
        if measured is None or measured.chain is None:
            continue
        known = {name: by[role] for name, by in estimates.items() if by[role].error >= 0}
        bad = {name: one for name, one in known.items() if not one.converged}
        if not bad:
            continue
        p_value = None
        apart = {name: one for name, one in bad.items() if disagrees(one)}
        if apart:
            worst = min(apart, key=lambda name: apart[name].agreement)
            p_value = apart[worst].agreement
            warning = (
                f"the chains do not mix: the means of {worst!r} differ from chain to chain, or "
                f"ends of chains remember beginnings, beyond chance (p = {p_value:.1g}). They are "
                "stuck, or shorter than a few autocorrelation times; what has not converged cannot "
                "be trusted: run longer chains, or moves that go between the modes (tempering, "
                "clusters)"
            )
        else:
            worst = max(bad, key=lambda name: bad[name].tau_int)
            n, chains = len(measured.chain), len(set(measured.chain.tolist()))
            warning = (
                f"chains too short to show that they mix ({worst!r}: {n} samples in {chains} "
                f"{'chain' if chains == 1 else 'chains'}, tau_int {bad[worst].tau_int:.2g}): "
                f"errors are lower limits; run until the samples span {ENOUGH} tau_int"
            )
        claims = role == "generated" and comparison.corrected
        rows.append(
            Row(
                name=f"mixing{whose}",
                metric="mixing",
                value=known[worst].tau_int,
                error=known[worst].tau_int_error or None,
                p_value=p_value,
                verdict="fail" if apart and claims else "info",
                note=f"largest tau_int; not converged: {', '.join(bad)}",
                warning=warning,
            )
        )
    return rows
