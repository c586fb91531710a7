"""Pure placement: ``(Snapshot, Request, Policy) -> Decision``.

May import the standard library, numpy and OR-Tools, nothing else of this project; touches no network, file,
clock, log or unseeded randomness. A deadline comes in as a callable that says stop.
"""
