"""One package for each kind of host, all with the interface of `base`; none imports the store, use cases or another."""
