"""Benchmarks: each measures Corral and something to compare it with in one run. No test, no assertion about time."""
