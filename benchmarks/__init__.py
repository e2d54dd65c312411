"""Benchmarks: run by hand or by `make bench`. Tests never assert a time."""
