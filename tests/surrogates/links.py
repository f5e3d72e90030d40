"""Potentials of gauge flows written down in torch, to be differentiated; slow."""

import math

import torch

from physgen.sampling.manifold import matrices
from physgen.systems.gauge import Gauge
from physgen.systems.kernels.gauge_flow import TERMS


def generators(n):
    """T^a, tr T^a T^b = -delta / 2; of U(1), i."""
    if n == 1:
        return torch.tensor([[[1j]]], dtype=torch.complex128)
    found = []
    for i in range(n):
        for j in range(i + 1, n):
            for low, high in ((0.5j, 0.5j), (0.5, -0.5)):
                t = torch.zeros(n, n, dtype=torch.complex128)
                t[i, j], t[j, i] = low, high
                found.append(t)
    for k in range(1, n):
        row = torch.tensor([1.0] * k + [-k] + [0.0] * (n - k - 1), dtype=torch.complex128)
        found.append(0.5j * math.sqrt(2 / (k * (k + 1))) * torch.diag(row))
    return torch.stack(found)


def some(group, shape, n=1, seed=1):
    """Haar links (n, d, *shape, N, N), complex."""
    x = Gauge(group=group, shape=shape).arbitrary(n, torch.Generator().manual_seed(seed))
    if group == "U(1)":
        return torch.polar(torch.ones_like(x), x)[..., None, None]
    return matrices(x)


def potential(u, c):
    """Phi of links (d, *shape, N, N) with coefficients by name."""
    d = u.shape[0]
    shape = u.shape[1:-2]

    def at(links, axis, by=1):
        return torch.roll(links, -by, axis)

    def trace(m):
        return m.diagonal(dim1=-2, dim2=-1).sum(-1)

    total = 0.0
    for mu in range(d):
        for nu in range(mu):
            t = trace(u[mu] @ at(u[nu], mu) @ at(u[mu], nu).mH @ u[nu].mH)
            x, y = t.real, t.imag
            single = {"u": x, "u^2": x**2, "u^3": x**3, "v^2": y**2, "u v^2": x * y**2}
            total = total + sum(c[name] * value.sum() for name, value in single.items())
    for mu in range(d):
        loops = []
        for nu in range(d):
            if nu == mu:
                continue
            up = at(u[nu], mu) @ at(u[mu], nu).mH @ u[nu].mH
            low = at(u[nu], nu, -1)
            down = at(low, mu).mH @ at(u[mu], nu, -1).mH @ low
            loops += [(nu, u[mu] @ up), (nu, u[mu] @ down)]
        for k, (nu, one) in enumerate(loops):
            for rho, two in loops[:k]:
                kind = "planar" if nu == rho else "bent"
                if kind == "planar" and shape[nu] == 2:
                    continue
                a, b = trace(one), trace(two)
                pair = {
                    "R": trace(one @ two.mH).real,
                    "F": trace(one @ two).real,
                    "uu": a.real * b.real,
                    "vv": a.imag * b.imag,
                }
                if kind == "planar":
                    both = a.real + b.real
                    pair["(u + u) R"] = both * pair["R"]
                    pair["(u + u) F"] = both * pair["F"]
                    pair["uu (u + u)"] = both * pair["uu"]
                total = total + sum(c[f"{kind} {name}"] * v.sum() for name, v in pair.items())
    return total


def differentiated(u, c):
    """Gradient (links, dim) and Laplacian of the potential by autograd."""
    shape, n = u.shape, u.shape[-1]
    basis = generators(n)
    coefficients = dict(zip(TERMS, c, strict=True))

    def phi(s):
        algebra = torch.einsum("ea,aij->eij", s.to(torch.complex128), basis)
        moved = torch.linalg.matrix_exp(algebra) @ u.reshape(-1, n, n)
        return potential(moved.reshape(shape), coefficients)

    zero = torch.zeros(math.prod(shape[:-2]), len(basis), dtype=torch.float64)
    gradient = torch.autograd.functional.jacobian(phi, zero)
    hessian = torch.autograd.functional.hessian(phi, zero, vectorize=True)
    size = zero.numel()
    return gradient, hessian.reshape(size, size).trace()
