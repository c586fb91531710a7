"""Independent packing: kinds onto classes of hosts, with bounds. No rules, no names."""
