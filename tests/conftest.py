"""Hypothesis for all tests: the same examples on every run, and nothing kept between runs; see `examples`."""

from hypothesis import settings

from tests.examples import FACTOR

settings.register_profile("headgate", deadline=None, database=None, derandomize=FACTOR == 1)
settings.load_profile("headgate")
