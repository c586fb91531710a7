"""Metric names and logs: a leaf that every part of the service may import and that imports none of them."""
