"""Where the generated messages are registered: a pool of their own, in place of protobuf's one for the whole process.

tritonclient, the KServe SDK and grpcio-health-checking register messages of the same full names from files of their
own; in one pool the second import, whichever it is, raises TypeError: duplicate symbol 'inference.ServerLiveRequest'.
"""

from functools import cache

from google.protobuf.descriptor_pool import DescriptorPool


@cache
def Default() -> DescriptorPool:  # noqa: N802 (the name that generated code calls)
    """The pool of the modules in this package."""
    return DescriptorPool()
