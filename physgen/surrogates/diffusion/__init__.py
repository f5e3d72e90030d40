"""Diffusion models: schedule x denoiser x sampler, and the methods that train them."""
