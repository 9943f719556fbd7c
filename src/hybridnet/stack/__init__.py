"""The protocol stack: sans-IO, in C, with a typed Python face in :mod:`hybridnet.stack.core`."""
