"""The only asyncio of the data plane: it moves bytes and does what `policy` decides."""
