"""Corral's public contract: protobuf definitions and the Python code generated from them. Holds no logic."""
