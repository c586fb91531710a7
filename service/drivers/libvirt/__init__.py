"""Hypervisors reached through libvirt: connections, domain XML, volumes, progress channels.

The only importer of libvirt. May not import the store, the use cases or another driver, and never passes on a
caller's URI or libvirt's texts.
"""
