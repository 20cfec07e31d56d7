"""HPACK (RFC 7541): a decoder that tells whether a block may be remembered, and an encoder without a table.

Decoding is the hpack library's. A block that is decoded with the same dynamic table means the same fields, so the
owner may keep what it made of a block until `BlockDecoder.epoch` changes. The encoder refers to the static table alone:
what it makes of a field is the same on every connection and for ever.
"""

from collections.abc import Iterable

from hpack import Decoder, HPACKError, NeverIndexedHeaderTuple
from hpack.hpack import encode_integer
from hpack.table import HeaderTable

Field = tuple[bytes, bytes]

_NEVER_INDEXED = 0x10
_SIZE_UPDATE, _SIZE_UPDATE_MASK = 0x20, 0xE0


class BlockError(Exception):
    """The block cannot be decoded, or is too large; the decoder's table is lost with it."""


class BlockDecoder:
    """Decodes the blocks of one direction of a connection, in the order in which they came.

    `limit` bounds a decoded list in bytes, with 32 more for each field (RFC 9113 section 6.5.2). `epoch` grows whenever
    blocks that came before may mean something else from now on.
    """

    __slots__ = ("_decoder", "epoch")

    def __init__(self, limit: int) -> None:
        self._decoder = Decoder(limit)
        self.epoch = 0

    def decode(self, block: bytes) -> list[Field]:
        """The fields of a complete block. Raises BlockError."""
        entries = self._decoder.header_table.dynamic_entries
        size, newest = len(entries), entries[0] if entries else None
        try:
            fields: list[Field] = list(self._decoder.decode(block, raw=True))
        except HPACKError as error:
            # The library's words quote the block, which belongs in no log.
            raise BlockError(type(error).__name__) from None
        # Every insertion puts a new object first, or empties the table; a size update only matters where it evicts, but
        # a block that holds one must be decoded whenever it comes.
        unchanged = len(entries) == size and (entries[0] if entries else None) is newest
        if not unchanged or (block and block[0] & _SIZE_UPDATE_MASK == _SIZE_UPDATE):
            self.epoch += 1
        return fields


def _static() -> tuple[dict[Field, bytes], dict[bytes, int]]:
    whole: dict[Field, bytes] = {}
    names: dict[bytes, int] = {}
    for index, (name, value) in enumerate(HeaderTable.STATIC_TABLE, start=1):
        names.setdefault(name, index)
        if value:
            whole[name, value] = bytes([0x80 | index])
    return whole, names


_WHOLE, _NAMES = _static()


def is_sensitive(field: Field) -> bool:
    """Whether its sender wants the field in no table, here or further on (RFC 7541 section 7.1.3)."""
    return isinstance(field, NeverIndexedHeaderTuple)


def literal(field: Field) -> bytes:
    """A field as the encoder writes it: a static reference, or a literal that no table keeps."""
    # A sensitive field equals one that is not, and must stay a literal (RFC 7541 section 6.2.3).
    sensitive = is_sensitive(field)
    known = None if sensitive else _WHOLE.get(field)
    if known is not None:
        return known
    name, value = field
    first = _NEVER_INDEXED if sensitive else 0
    index = _NAMES.get(name)
    if index is None:
        head = bytes([first]) + bytes(encode_integer(len(name), 7)) + name
    else:
        prefix = encode_integer(index, 4)
        prefix[0] |= first
        head = bytes(prefix)
    return b"".join((head, encode_integer(len(value), 7), value))


# What a block starts with once the peer allows less than the default table (RFC 7541 section 4.2).
EMPTY_TABLE = bytes([_SIZE_UPDATE])
DEFAULT_TABLE_SIZE = 4096


def encode(fields: Iterable[Field]) -> bytes:
    """A header block."""
    return b"".join(map(literal, fields))
