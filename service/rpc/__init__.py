"""The gRPC listener and its servicers: check, translate, call the use case, translate back. Holds no logic of its own.

What it has in common with other faces is `service.contract`.
"""
