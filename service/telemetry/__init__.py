"""Metric names, logs and traces: a leaf, which every part of the service may import and which imports none of them."""
