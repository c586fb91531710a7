"""Pure placement: ``(Snapshot, Request, Policy) -> Decision``.

Touches no network, file, clock, log or unseeded randomness; what each room may import is a contract in pyproject.toml.
A deadline comes in as a callable that says stop.
"""
