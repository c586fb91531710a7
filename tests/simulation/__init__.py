"""Deterministic simulation: the real use cases, reconciliation, lifecycle and store, under a virtual clock and faults.

Everything that happens in a run follows from its seed. May not sleep, start threads, or ask the real clock. `observer`
and `custodian` judge the run from outside and may not import anything of the service.
"""
