"""Layers whose parameters are random."""

import torch


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def randomised(module, scale=0.3):
    """New layers are the identity, which would satisfy most laws for the wrong reason."""
    noise = generator(1)
    with torch.no_grad():
        for parameter in module.parameters():
            parameter.copy_(scale * torch.randn(parameter.shape, generator=noise))
    return module
