"""A body that waits: what is held, and what is passed on."""

import random

import pytest

from agent.net.upload import Upload
from agent.wire.fields import Trailers


class Predictor:
    """An upstream as far as a body is concerned."""

    def __init__(self) -> None:
        self.pieces: list[tuple[bytes, bool]] = []
        self.trailers: list[Trailers] = []

    def send_data(self, data: bytes, end: bool) -> None:
        self.pieces.append((data, end))

    def finish(self, trailers: Trailers) -> None:
        self.trailers.append(trailers)

    @property
    def body(self) -> bytes:
        return b"".join(data for data, _ in self.pieces)


def test_a_body_that_comes_byte_by_byte_is_not_held_byte_by_byte() -> None:
    upload, body = Upload(complete=False, keep=0), random.Random(1).randbytes(20_000)
    for at in range(len(body)):
        upload.size += 1
        upload.hold(body[at : at + 1])
    assert len(upload._held) <= len(body) // 512 + 1
    assert upload.first_bytes() == body
    upload.complete = True
    up = Predictor()
    upload.send_held(up)  # type: ignore[arg-type]
    assert up.body == body
    assert [end for _, end in up.pieces] == [False] * (len(up.pieces) - 1) + [True]
    assert not upload._held


@pytest.mark.parametrize("sizes", [[1], [1] * 700, [600, 1, 511, 512, 513, 5], [300, 300, 300], [70_000]])
@pytest.mark.parametrize("split", [0, 1, 3])
def test_what_is_kept_for_a_second_sending_is_what_was_sent(sizes: list[int], split: int) -> None:
    """`split` pieces wait, the rest comes after the request was sent; then it is sent once more."""
    generator = random.Random(2)
    pieces = [generator.randbytes(size) for size in sizes]
    upload, first, second = Upload(complete=False, keep=64 * 1024), Predictor(), Predictor()
    for piece in pieces[:split]:
        upload.size += len(piece)
        upload.hold(piece)
    upload.complete = split >= len(pieces)
    upload.send_held(first)  # type: ignore[arg-type]
    for index, piece in enumerate(pieces[split:], start=split + 1):
        upload.size += len(piece)
        upload.complete = index == len(pieces)
        upload.send(first, piece, upload.complete)  # type: ignore[arg-type]
    body = b"".join(pieces)
    assert first.body == body
    assert upload.at_hand == (len(body) <= 64 * 1024)
    if upload.at_hand:
        upload.send_held(second)  # type: ignore[arg-type]
        assert second.body == body
        assert [end for _, end in second.pieces][-1]
