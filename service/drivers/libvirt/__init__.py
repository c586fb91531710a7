"""Hypervisors reached through libvirt: connections, domain XML, volumes, progress channels.

Never passes on a caller's URI or libvirt's texts.
"""
