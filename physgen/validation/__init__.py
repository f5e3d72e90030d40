"""Observables, distances, errors, verdicts: knows nothing of models."""
