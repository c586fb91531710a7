"""Takes due groups under a lease, runs the effects of their stored state through drivers, and stores what was observed.

Decides nothing that the lifecycle or the planner should, and trusts no memory: whatever is lost with this process is
derived again from the store and the hosts.
"""
