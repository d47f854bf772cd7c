"""A corpus of simple English written by code, reproducible from a seed."""
