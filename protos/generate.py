"""Generates the modules beside the .proto files: `python -m protos.generate`, or `make proto`. Needs grpcio-tools."""

import sys
from collections.abc import Iterator
from pathlib import Path

from grpc_tools import protoc

ROOT = Path(__file__).parent.parent
_SHARED_POOL = "from google.protobuf import descriptor_pool as _descriptor_pool\n"
_OWN_POOL = "from protos import pool as _descriptor_pool\n"


def generate(into: Path) -> Iterator[Path]:
    """Write `into`/protos/*_pb2.py, *_pb2.pyi and *_pb2_grpc.py; yields their paths.

    Raises RuntimeError when the compiler refuses a file, or no longer writes the line that names the pool.
    """
    for source in sorted((ROOT / "protos").glob("*.proto")):
        outputs = [f"--{kind}_out={into}" for kind in ("python", "pyi", "grpc_python")]
        if protoc.main(["protoc", f"-I{ROOT}", *outputs, str(source)]):
            raise RuntimeError(f"{source} does not compile")
        messages, *others = (into / "protos" / f"{source.stem}{end}" for end in ("_pb2.py", "_pb2.pyi", "_pb2_grpc.py"))
        text = messages.read_text()
        if text.count(_SHARED_POOL) != 1:
            raise RuntimeError(f"{messages} names its pool in another way: see protos/pool.py")
        messages.write_text(text.replace(_SHARED_POOL, _OWN_POOL))
        yield from (messages, *others)


def main() -> int:
    """Generate in place."""
    for path in generate(ROOT):
        print(path.relative_to(ROOT))
    return 0


if __name__ == "__main__":
    sys.exit(main())
