"""Autoencoders: principal components, plain ones, variational ones of one level or several."""
