"""PURE: counts the events of a `text/event-stream` body as it arrives."""

import json

_DONE = b"[DONE]"
_TEXTS = ("content", "reasoning_content", "reasoning", "text")


class Events:
    """Counts `data:` lines that carry a piece of the answer: for most servers, one token.

    OpenAI's first chunk, which only names the role, its last ones, which only tell reason and usage, and `[DONE]` are
    no pieces. An event that is not a chunk of choices is one. The format is that of WHATWG HTML, section 9.2.6.
    """

    __slots__ = ("_rest",)

    def __init__(self) -> None:
        self._rest = b""

    def feed(self, data: bytes) -> int:
        """How many pieces ended in `data`; a line may be cut anywhere."""
        *lines, self._rest = (self._rest + data).split(b"\n")
        return sum(map(_is_piece, lines))

    def reset(self) -> None:
        """Forget a line that was cut off: the next answer begins."""
        self._rest = b""


def _is_piece(line: bytes) -> bool:
    name, _, value = line.partition(b":")
    value = value.strip()
    if name != b"data" or not value or value == _DONE:
        return False
    try:
        chunk = json.loads(value)
    except ValueError:
        return True
    choices = chunk.get("choices") if isinstance(chunk, dict) else None
    if not isinstance(choices, list):
        return True
    parts = [part for choice in choices if isinstance(choice, dict) for part in (choice.get("delta"), choice)]
    return any(part.get(name) for part in parts if isinstance(part, dict) for name in _TEXTS)
