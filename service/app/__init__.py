"""The use cases, in domain types: what gRPC and HTTP both call, and what reconciliation commits through.

Knows neither gRPC nor HTTP nor protobuf, and causes no effect on a host: it stores intents and facts.
"""
