"""Families of generative models, each with the methods that train it."""
