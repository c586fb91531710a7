"""The ZStack face: HTTP as ZStack's own clients speak it, so that they work unmodified.

Translates to the use cases of `service.app` and back, and holds no rule of its own: what a field may hold stands in the
protos and is checked by `service.contract.validation`.
"""
