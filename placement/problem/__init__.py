"""The problem as arrays: the fleet, the gang collapsed to kinds, its rules counted, what room is worth."""
