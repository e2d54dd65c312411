"""Benchmarks, run by hand or with `make bench`. Tests never assert a time."""
