"""The exit codes of `headgate-load`, which scripts read."""

from enum import IntEnum


class Exit(IntEnum):
    """Where several apply, the first of INTERRUPTED, UNREACHABLE, NO_LEVEL, GENERATOR, UNSTABLE, FAILED counts."""

    OK = 0
    UNWRITTEN = 1  # a result could not be written
    UNREACHABLE = 3  # target cannot be reached, its inputs are unknown, or it answers nothing but errors
    UNSTABLE = 4  # a level never stood still (where --fail-on says unstable)
    GENERATOR = 5  # measured, but the numbers tell of the generator
    NO_LEVEL = 6  # no level keeps the objectives
    USAGE = 64  # bad settings, all named at once
    FAILED = 99  # an objective or a comparison failed
    INTERRUPTED = 130  # what was measured is printed
