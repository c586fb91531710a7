"""What the service speaks of: groups, fleet, catalogue, networks, tenants, whose machines are whose.

Frozen data and the rules that it has to keep. No I/O but to read a file that is handed over, no clock, no random.
"""
