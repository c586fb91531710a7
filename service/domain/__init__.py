"""What the service speaks of: groups, fleet, catalogue, networks, tenants. Frozen data: no I/O, no behaviour."""
