"""Samplers and corrections on callables: an action, a log-weight."""
