"""The `corral` command: a gRPC client for people. It talks to a running service and imports nothing else of it."""
