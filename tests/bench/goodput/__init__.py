"""Goodput under overload: the share of a predictor's capacity that reaches callers in time. `python -m` runs it."""
