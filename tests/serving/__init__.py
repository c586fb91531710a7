"""A real model over real hypervisors: llama.cpp with its RPC servers in guests, asked from outside."""
