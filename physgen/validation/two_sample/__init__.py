"""Tests of whether two samples are of one distribution, which complement each other.

Each is a function of differences of the mean features of the pooled rows, see
`physgen.validation.permutation`, so that all of them are relabelled together and combine to one
p-value (`combination`).
"""
