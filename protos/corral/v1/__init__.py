"""Version 1 of the public contract. Everything here is generated from the .proto files beside it by protos/generate.py."""
