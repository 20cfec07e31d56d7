"""Files that are replaced while they are used, such as mounted Secrets and ConfigMaps."""

import os
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Generic, TypeVar

from agent.errors import CertificateError

Made = TypeVar("Made")
Stamp = tuple[int, int, int]


def stamp(path: str) -> Stamp:
    """Differs when the file does. A mounted Secret or ConfigMap changes by a symbolic link that points elsewhere."""
    try:
        found = os.stat(path)  # noqa: PTH116 - "" is no path
    except (OSError, ValueError):
        return 0, 0, 0
    return found.st_mtime_ns, found.st_ino, found.st_size


def contents(path: str) -> bytes:
    """What the file holds. Raises CertificateError, which names it."""
    try:
        return Path(path).read_bytes()
    except (OSError, ValueError) as error:
        raise CertificateError(f"{path}: {error.strerror if isinstance(error, OSError) else error}") from None


class Watched(Generic[Made]):
    """What is made of some files, made again when they have been replaced.

    `make` raises CertificateError where they are not whole. `made` is what was last made of them.
    """

    def __init__(self, paths: Sequence[str], make: Callable[[], Made]) -> None:
        self._paths = [path for path in paths if path]
        self._make = make
        self._seen = self._stamps()
        self._refused: list[Stamp] | None = None
        self.made = make()

    def refresh(self) -> bool:
        """Look at the files. Returns whether they hold something new, which is in `made` from now on.

        Raises CertificateError, once for each state of the files, when they do and it is not whole. What was made
        before stays, and the next call tries again.
        """
        stamps = self._stamps()
        if stamps == self._seen:
            return False
        try:
            made = self._make()
        except CertificateError:
            if stamps == self._refused:
                return False
            self._refused = stamps
            raise
        self.made = made
        # Of before they were read: what has been written since is found by the next look.
        self._seen, self._refused = stamps, None
        return True

    def _stamps(self) -> list[Stamp]:
        return [stamp(path) for path in self._paths]
