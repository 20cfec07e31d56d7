"""What a request says of itself in header fields: those that the settings name, and who has passed it on."""

import re
from collections.abc import Sequence
from typing import NamedTuple
from zlib import crc32

_PATIENCE = re.compile(rb"([0-9]{1,9}(?:\.[0-9]{1,6})?)(ms|s|m|)")
# A bare number is milliseconds, as in Envoy's headers.
_UNIT_S = {b"": 0.001, b"ms": 0.001, b"s": 1.0, b"m": 60.0}
_PRIORITY = re.compile(rb"[0-9]{1,4}")


class Said(NamedTuple):
    """`patience` is seconds or None, `priority` V2's (1 is the highest, 0 none), `tenant` a number, 0 for none.

    `proxied` says that it came through Knative's activator, which counts it too, and `form` in which form the server's
    load is asked for, in lower case.
    """

    patience: float | None
    priority: int
    tenant: int
    proxied: bool
    form: bytes


def read_patience(value: bytes) -> float | None:
    """Seconds of `250`, `250ms`, `2s` or `1m`; None where it is none of these, and means nothing."""
    match = _PATIENCE.fullmatch(value)
    return float(match[1]) * _UNIT_S[match[2]] if match else None


class Reader:
    """Reads the named fields; names are lower case, b"" reads none. Tenants are hashed: no label ever names them.

    `activator` looks for what came through Knative's activator, `load` for the wish to be told the load.
    """

    __slots__ = ("_deadline", "_priority", "_tenant", "is_needed")

    def __init__(
        self,
        *,
        deadline: bytes = b"",
        priority: bytes = b"",
        tenant: bytes = b"",
        activator: bool = False,
        load: bool = False,
    ) -> None:
        self._deadline = deadline
        self._priority = priority
        self._tenant = tenant
        self.is_needed = bool(deadline or priority or tenant or activator or load)

    def read(self, fields: Sequence[tuple[bytes, bytes]]) -> Said:
        """What the fields say; what is malformed says nothing."""
        patience: float | None = None
        priority = tenant = 0
        proxied, form = False, b""
        for name, value in fields:
            name = name.lower()
            if name == self._deadline:
                patience = read_patience(value)
            elif name == self._priority and _PRIORITY.fullmatch(value):
                priority = int(value)
            elif name == self._tenant and value:
                tenant = crc32(value) or 1
            elif name == b"k-proxy-request":
                proxied = value == b"activator"
            elif name == b"endpoint-load-metrics-format":
                form = value.lower()
        return Said(patience, priority, tenant, proxied, form)
