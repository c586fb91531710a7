"""libvirt's event loop, one a process: keepalive, lifecycle events and channels all need it, before the first open."""

from __future__ import annotations

import logging
import threading
import time

import libvirt

_log = logging.getLogger(__name__)
_lock = threading.Lock()
_thread: threading.Thread | None = None


def ensure_event_loop() -> None:
    """Registers the default implementation and runs it in a thread of its own. Further calls do nothing.

    A thread of its own, so that the pings that keep connections alive do not wait for whatever else the process does.
    """
    global _thread
    with _lock:
        if _thread is not None:
            return
        # libvirt prints every error to stderr otherwise; all of them reach us as exceptions.
        libvirt.registerErrorHandler(lambda _context, _error: None, None)
        libvirt.virEventRegisterDefaultImpl()
        _thread = threading.Thread(target=_run, name="libvirt-events", daemon=True)
        _thread.start()


def _run() -> None:
    while True:
        try:
            libvirt.virEventRunDefaultImpl()
        except libvirt.libvirtError as error:
            _log.error("libvirt event loop: %s", error)
            time.sleep(0.1)  # an error that repeats must not take the processor
