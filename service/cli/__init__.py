"""The `corral` command: a gRPC client for people. It stands on the public contract and on `service.client`."""
