"""Files as the kubelet mounts those of a Secret: links through `..data`, which points elsewhere when they change."""

from collections.abc import Iterable
from pathlib import Path


class Mounted:
    """The files of `names` in a directory; `write` exchanges all of them at once."""

    def __init__(self, directory: Path, names: Iterable[str]) -> None:
        directory.mkdir(exist_ok=True, parents=True)
        self.directory = directory
        self._made = 0
        for name in names:
            (directory / name).symlink_to(Path("..data") / name)

    def write(self, files: dict[str, bytes]) -> None:
        """Exchange the files."""
        self._made += 1
        folder = self.directory / f"..{self._made}"
        folder.mkdir()
        for name, data in files.items():
            (folder / name).write_bytes(data)
        link = self.directory / "..new"
        link.symlink_to(folder.name)
        link.replace(self.directory / "..data")
