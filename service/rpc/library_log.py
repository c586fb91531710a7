"""gRPC's own log about clients that left before their answer was sent: a line for debugging, not a failure."""

from __future__ import annotations

import logging

import grpc

_LIBRARY = "grpc._cython.cygrpc"


def _told_quietly(record: logging.LogRecord) -> bool:
    """Takes level and traceback from a record of an answer that found its connection gone.

    A client can cause that as often as it likes, and nothing of ours has failed.
    """
    problem = record.exc_info[1] if record.exc_info else None
    if not isinstance(problem, grpc.aio.InternalError):
        return True
    record.msg, record.args = "the connection went away under an answer", ()
    record.exc_info = record.exc_text = None
    record.levelno, record.levelname = logging.DEBUG, "DEBUG"
    return logging.getLogger().isEnabledFor(logging.DEBUG)


def quieten() -> None:
    """Make the library's log follow that rule; calling it again changes nothing.

    The library's own debug lines are left out: one for each call and one more for each that is cancelled. They tell
    less than our line of the call, and a thousand cancelled calls would hold up the event loop.
    """
    logging.getLogger(_LIBRARY).setLevel(logging.INFO)
    # The function itself is the filter, so that adding it again changes nothing.
    logging.getLogger(_LIBRARY).addFilter(_told_quietly)
