"""Benchmarks of the whole, on real packets; see README.md."""
