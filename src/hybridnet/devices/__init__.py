"""Devices other than AF_XDP."""
