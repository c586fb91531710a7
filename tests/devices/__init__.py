"""Devices that real guests are given by real VFIO: a machine in software with an IOMMU, two NUMA nodes and PCI devices,
and in it the host of the service. Needs no hardware, and 3.2 GB of memory.

`make devices` runs `checks.py`, `races.py`, `kills.py` and `reboots.py`, which take too long to be tests that are found
by themselves.
"""
