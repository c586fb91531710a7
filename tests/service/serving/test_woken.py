"""Whoever has something new for the supervisor does not wait for its next look."""

from __future__ import annotations

import contextlib
import os
import sys

from tests.service.serving.guest import Guest, engine, free_port, guest, order, port, until

__all__ = ["guest"]


def test_an_answer_and_a_new_start_are_taken_and_told_without_waiting_for_the_next_look(guest: Guest) -> None:
    guest.environment["CORRAL_LOOK_EVERY"] = "1000"
    host, channel = port()
    os.set_blocking(host, False)
    served, told = free_port(), b""

    def ready(epoch: int) -> bool:
        nonlocal told
        with contextlib.suppress(OSError):
            told += os.read(host, 65536)
        return any(b'"stage":"ready"' in line and b'"epoch":%d,' % epoch in line for line in told.splitlines())

    try:
        connect = f"import socket; socket.create_connection(('127.0.0.1', {served}))"
        guest.start(
            engine(guest.directory, served, '{"content":"defghi"}'),
            channel,
            CORRAL_READINESS="command",
            CORRAL_READINESS_COMMAND=f'until {sys.executable} -c "{connect}"; do sleep 0.1; done',
            CORRAL_READINESS_TIMEOUT_SECONDS="60",
            CORRAL_READINESS_PORT=str(served),
            CORRAL_CANARY_PATH="/completion",
            CORRAL_CANARY_EXPECT='"content":"defg',
        )
        until(lambda: ready(4), "the first answer is told")
        os.write(host, order(guest, 5))
        until(lambda: ready(5), "the new start is taken, and its first answer is told")
    finally:
        os.close(host)
