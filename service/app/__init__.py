"""The use cases, in domain types: what every face calls.

Knows neither gRPC nor HTTP nor protobuf, and causes no effect on a host: it stores intents and shows what is stored.
"""
