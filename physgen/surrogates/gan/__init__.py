"""Generative adversarial networks: a generator, its critic, and the games they play."""
