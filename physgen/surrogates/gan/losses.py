r"""What a generator G and a critic c play for, and what keeps the critic smooth.

A critic scores samples, c(x) in R; as a discriminator it says D(x) = sigmoid(c(x)). What each side
minimises, with x from the data and y = G(z):

    minimax         c: -log D(x) - log(1 - D(y))              G: log(1 - D(y))
    non-saturating  c: the same                               G: -log D(y)
    hinge           c: max(0, 1 - c(x)) + max(0, 1 + c(y))    G: -c(y)
    wasserstein     c: c(y) - c(x), |grad c| <= 1             G: -c(y)

For samples y of density q the best discriminator of minimax is D*(x) = p(x) / (p(x) + q(x)), which
is 1/2 everywhere once q = p, and its value is

    max_D E_p[log D] + E_q[log(1 - D)] = 2 JS(p, q) - 2 log 2

(Goodfellow et al., arXiv 1406.2661, proposition 1 and theorem 1). The best Wasserstein critic gives
E_p[c] - E_q[c] = W1(p, q) (Arjovsky, Chintala & Bottou, arXiv 1701.07875, equation 2), provided it
is 1-Lipschitz. Clipping weights makes it K-Lipschitz for an unknown K; the gradient penalty

    lambda (|grad c(u x + (1 - u) y)| - 1)^2,   u uniform in [0, 1]

(Gulrajani et al., arXiv 1704.00028, equation 3) holds K near 1. The penalty R1,
gamma/2 |grad c(x)|^2 on data alone (Mescheder, Geiger & Nowozin, arXiv 1801.04406, equation 9),
makes the games with a discriminator converge locally.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor
from torch.nn.functional import relu, softplus

LossName = Literal["minimax", "non-saturating", "hinge", "wasserstein"]

Critic = Callable[[Tensor, Tensor | None], Tensor]
"""Maps samples (B, ...) and their conditions (B, C) to scores (B,)."""


@dataclass(frozen=True)
class Loss:
    """What both sides minimise, score by score; all functions map (B,) to (B,).

    Attributes:
        real: of the critic, for scores of data.
        fake: of the critic, for scores of generated samples.
        generator: of the generator, for the same scores.
        shown: what a score means: the probability D for a discriminator, else the score itself.
        meaning: the name of what is shown.
        saturates: the critic's loss is 0 once it tells all samples apart.

    >>> loss = LOSSES["hinge"]
    >>> loss.real(torch.tensor([-1.0, 0.0, 1.0, 2.0])).tolist()
    [2.0, 1.0, 0.0, 0.0]
    """

    real: Callable[[Tensor], Tensor]
    fake: Callable[[Tensor], Tensor]
    generator: Callable[[Tensor], Tensor]
    shown: Callable[[Tensor], Tensor] = torch.sigmoid
    meaning: Literal["D", "score"] = "D"
    saturates: bool = True


LOSSES: dict[LossName, Loss] = {
    "minimax": Loss(
        real=lambda score: softplus(-score),
        fake=softplus,
        generator=lambda score: -softplus(score),
    ),
    "non-saturating": Loss(
        real=lambda score: softplus(-score),
        fake=softplus,
        generator=lambda score: softplus(-score),
    ),
    "hinge": Loss(
        real=lambda score: relu(1 - score),
        fake=lambda score: relu(1 + score),
        generator=torch.neg,
        shown=torch.clone,
        meaning="score",
    ),
    "wasserstein": Loss(
        real=torch.neg,
        fake=torch.clone,
        generator=torch.neg,
        shown=torch.clone,
        meaning="score",
        saturates=False,
    ),
}


@torch.compiler.disable  # type: ignore[untyped-decorator]  # Compiled, it has no derivatives.
def squared_slope(critic: Critic, x: Tensor, condition: Tensor | None) -> Tensor:
    """Return (B,) |grad_x c(x)|^2, differentiable in the critic's parameters."""
    x = x.detach().requires_grad_()
    with torch.enable_grad():
        # A score depends on its own sample alone, so that the sum has the gradients of each.
        (gradient,) = torch.autograd.grad(critic(x, condition).sum(), x, create_graph=True)
    return gradient.flatten(1).square().sum(1)


def slope_penalty(
    critic: Critic, real: Tensor, fake: Tensor, mix: Tensor, condition: Tensor | None
) -> Tensor:
    """Return (B,) (|grad c| - 1)^2 at mix * real + (1 - mix) * fake, for (B, 1) mixes."""
    u = mix.reshape(-1, *(1,) * (real.ndim - 1))
    squared: Tensor = squared_slope(critic, u * real + (1 - u) * fake, condition)
    # The root has no derivative at 0, where a critic starts that has not seen its input.
    return ((squared + torch.finfo(squared.dtype).tiny).sqrt() - 1).square()
