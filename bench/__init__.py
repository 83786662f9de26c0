"""Benchmarks: us and the best peer in one process, interleaved, warm, one thread, outputs compared."""
