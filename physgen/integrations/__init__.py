"""Surrogates inside other programs: one file a host, each imported by those who use that host."""
