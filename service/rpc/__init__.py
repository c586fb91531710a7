"""The gRPC face: authenticate, validate, translate, call `service.app`, translate back. Holds no logic of its own.

`validation`, `convert` and `errors` know protobuf and the domain but no gRPC server, so that another face can use them.
May not import the store, a driver, reconcile or placement's algorithms.
"""
