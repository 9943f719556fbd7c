"""The asyncio shell: stacks on an event loop, channels, transports."""
