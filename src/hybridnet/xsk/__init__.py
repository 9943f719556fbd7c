"""AF_XDP: rings, sockets, the steering program, and what a machine can do."""
