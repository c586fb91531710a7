"""Structured logs: one JSON object a line, or coloured text on a terminal. Secrets never leave the process.

Every part logs with `get_logger(name)`; the event's first argument is a fixed sentence, what it is about are keyword
arguments.
Records of the standard library's logging (libraries) go the same way.
"""

from __future__ import annotations

import logging
import re
import sys
from collections.abc import Mapping
from contextlib import AbstractContextManager
from functools import lru_cache
from typing import Any, TextIO, cast

import structlog

# Values under keys that contain one of these words are never written.
SECRET_WORDS = (
    "password",
    "passwd",
    "secret",
    "token",
    "authorization",
    "credential",
    "cookie",
    "private_key",
    "session_id",
)
HIDDEN = "[hidden]"
_URL_PASSWORD = re.compile(r"(?P<scheme>[a-z][a-z0-9+.-]*://[^\s/:@]*):[^\s/@]+@", re.IGNORECASE)
_HEADER = re.compile(r"\b(?P<kind>bearer|oauth|basic)\s+[A-Za-z0-9._~+/=-]{8,}", re.IGNORECASE)
# A caller may name things at length; a log line must stay readable and bounded.
_LONGEST_VALUE = 2000
_FIRST = ("timestamp", "level", "logger", "event")


def get_logger(name: str) -> structlog.stdlib.BoundLogger:
    """The logger of one part, named by its module."""
    return cast(structlog.stdlib.BoundLogger, structlog.get_logger(name))


def about(**facts: str) -> AbstractContextManager[None]:
    """In every line that is written inside, and by tasks that are begun inside, stand these facts."""
    return structlog.contextvars.bound_contextvars(**facts)


def set_level(level: str) -> None:
    """Log this and what is worse from now on: debug | info | warning | error."""
    logging.getLogger().setLevel(level.upper())


def configure(format: str = "auto", level: str = "info", stream: TextIO | None = None) -> None:
    """Set up logging for the process. `format`: auto | json | console; `level`: debug | info | warning | error."""
    target = sys.stderr if stream is None else stream
    as_json = format == "json" or (format == "auto" and not target.isatty())
    shared: list[structlog.typing.Processor] = [
        structlog.contextvars.merge_contextvars,
        structlog.stdlib.add_log_level,
        structlog.stdlib.add_logger_name,
        structlog.processors.TimeStamper(fmt="iso", utc=True),
        structlog.processors.StackInfoRenderer(),
    ]
    structlog.configure(
        processors=[
            structlog.stdlib.filter_by_level,
            *shared,
            structlog.stdlib.ProcessorFormatter.wrap_for_formatter,
        ],
        logger_factory=structlog.stdlib.LoggerFactory(),
        wrapper_class=structlog.stdlib.BoundLogger,
        cache_logger_on_first_use=False,
    )
    renderer: list[structlog.typing.Processor]
    if as_json:
        renderer = [structlog.processors.format_exc_info, hide_secrets, structlog.processors.JSONRenderer(default=str)]
    else:
        renderer = [
            structlog.processors.format_exc_info,
            hide_secrets,
            structlog.dev.ConsoleRenderer(colors=target.isatty()),
        ]
    handler = logging.StreamHandler(target)
    handler.setFormatter(
        structlog.stdlib.ProcessorFormatter(
            foreign_pre_chain=shared,
            processors=[structlog.stdlib.ProcessorFormatter.remove_processors_meta, *renderer],
        )
    )
    root = logging.getLogger()
    root.handlers[:] = [handler]
    root.setLevel(level.upper())
    # Our own lines tell of its start and stop, and its access log would repeat our line of each request.
    logging.getLogger("uvicorn").setLevel(logging.WARNING)
    # It would log each plugin that it loads.
    logging.getLogger("alembic").setLevel(logging.WARNING)
    # They would log URLs and headers, in which secrets may stand.
    for name in ("httpx", "httpcore"):
        logging.getLogger(name).setLevel(logging.WARNING)


def hide_secrets(logger: Any, method: str, event: structlog.typing.EventDict) -> structlog.typing.EventDict:
    """Processor: values under secret keys, passwords in URLs and credentials in headers are replaced.

    What every line has comes first, in a fixed order.
    """
    first = {key: event[key] for key in _FIRST if key in event}
    return {key: _clean(str(key), value) for key, value in {**first, **event}.items()}


@lru_cache(maxsize=1024)
def _is_secret(key: str) -> bool:
    lowered = key.lower().replace("-", "_")
    return key != "page_token" and any(word in lowered for word in SECRET_WORDS)


def _clean(key: str, value: Any) -> Any:
    if _is_secret(key):
        return HIDDEN
    if not isinstance(value, str):
        if isinstance(value, bool | int | float) or value is None:
            return value
        if isinstance(value, Mapping):
            return {str(name): _clean(str(name), part) for name, part in value.items()}
        if isinstance(value, list | tuple | set | frozenset):
            return [_clean("", part) for part in value]
    text = _without_secrets(str(value))
    # Tracebacks are our own text and stay whole; everything else may come from a caller.
    return (
        text
        if key == "exception" or len(text) <= _LONGEST_VALUE
        else f"{text[:_LONGEST_VALUE]}… ({len(text)} characters)"
    )


def _without_secrets(text: str) -> str:
    # Each line has a dozen values, and every call a line: what cannot fit an expression is not searched by it.
    if "@" in text:
        text = _URL_PASSWORD.sub(rf"\g<scheme>:{HIDDEN}@", text)
    if len(text.split(None, 1)) > 1:
        text = _HEADER.sub(lambda found: f"{found['kind']} {HIDDEN}", text)
    return text
