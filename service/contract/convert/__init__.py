"""Translates between `corral.v1` messages and domain types, and does nothing else: no checks, no defaults of policy."""
