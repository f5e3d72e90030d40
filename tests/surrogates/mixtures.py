"""A Gaussian mixture whose diffusion is known in closed form, and the schedules to diffuse it."""

import math

import torch
from randomised import randomised

from physgen.surrogates.diffusion.schedule import SCHEDULES


def schedule_of(name, scale=1.0):
    """A schedule in double precision; a learned one has a random shape between sensible ends."""
    schedule = SCHEDULES[name]().double()
    if name == "learned":
        randomised(schedule, scale)
        with torch.no_grad():
            schedule.ends.copy_(torch.tensor([8.0, -9.0]))
    return schedule


class Mixture:
    """Normals of one width about a few centres in the plane; all in double precision."""

    def __init__(self, centres=((-1.0, 0.5), (1.2, 0.8), (0.3, -1.0)), width=0.4):
        self.centres = torch.tensor(centres, dtype=torch.float64)
        self.width = width

    def sample(self, n, generator):
        rows = torch.randint(len(self.centres), (n,), generator=generator)
        noise = torch.randn(n, self.centres.shape[1], generator=generator, dtype=torch.float64)
        return self.centres[rows] + self.width * noise

    def log_prob(self, x):
        square = (x[:, None] - self.centres).square().sum(-1) / self.width**2
        norm = x.shape[1] * math.log(2 * math.pi * self.width**2)
        return (-0.5 * (square + norm)).logsumexp(1) - math.log(len(self.centres))

    def denoiser(self, schedule):
        """E[x | z], for lambda () or (B,)."""

        def denoise(z, log_snr):
            alpha, sigma = schedule.amplitudes(log_snr.expand(len(z))[:, None])
            variance = (alpha * self.width).square() + sigma.square()
            distance = z[:, None] - alpha[:, None] * self.centres
            weight = (-0.5 * distance.square().sum(-1) / variance).softmax(1)
            gain = alpha * self.width**2 / variance
            return (weight[..., None] * (self.centres + gain[:, None] * distance)).sum(1)

        return denoise
