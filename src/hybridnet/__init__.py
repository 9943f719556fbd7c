"""A hybrid networking stack for asyncio: AF_XDP fast path, kernel path for the rest."""
