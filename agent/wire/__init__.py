"""Bytes to meaning and back.

Pure: no event loop, socket, clock or logging; a peer's mistake is a `Fault`, never raised.
"""
