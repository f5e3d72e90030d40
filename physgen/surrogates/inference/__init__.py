"""Posteriors of parameters, sampled by what is learned of the likelihood."""
