"""What workers and those that they join say to each other: JSON, each message after its length in four bytes."""

import asyncio
import json
from typing import Any

# Of whoever has not shown the token yet; then of whoever has.
MAX_STRANGER = 4096
MAX_MEMBER = 1 << 30
_SIZE = 4


def write_message(writer: asyncio.StreamWriter, message: dict[str, object]) -> None:
    """Send it, to one that is gone too."""
    data = json.dumps(message).encode()
    writer.write(len(data).to_bytes(_SIZE, "big") + data)


async def read_message(reader: asyncio.StreamReader, most: int) -> dict[str, Any] | None:
    """The next one; None where the other side has gone, or sends what is no message or longer than `most`."""
    try:
        size = int.from_bytes(await reader.readexactly(_SIZE), "big")
        message = json.loads(await reader.readexactly(size)) if size <= most else None
    except (asyncio.IncompleteReadError, ConnectionError, ValueError):
        return None
    return message if isinstance(message, dict) else None
