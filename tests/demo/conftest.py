"""What the tests of the demo need of this process."""

import gc

import pytest


@pytest.fixture(autouse=True)
def _no_garbage() -> None:
    """Leave nothing of earlier tests for a collection between fork and exec.

    uvloop's child runs Python code before it executes its program; a channel of grpcio that is finalised there waits
    for a thread that the child does not have.
    """
    gc.collect()
