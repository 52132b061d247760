"""Benchmarks, run with `make bench`. Tests never assert speed."""
