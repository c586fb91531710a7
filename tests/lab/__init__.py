"""Several independent libvirt hypervisors on one machine, for tests and for people. Knows nothing of the service.

Each hypervisor is a real system-mode libvirtd in its own mount, network, pid, uts and ipc namespaces; their bridges
meet on one switch in a network namespace of the lab's own. Nothing is visible outside but one temporary directory.
"""
