"""What a caller's string may consist of, by format. Pure functions; each returns what is wrong, or None."""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Callable, Mapping

from corral.v1 import limits_pb2

from service.domain.environment import is_line

# Everything that XML 1.0 forbids (production Char), and the non-characters that writers let through and parsers refuse.
_FORBIDDEN_IN_XML = re.compile("[^\t\n\r\x20-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")
# C1 controls, and the separators that some programs take for a line break.
_FORBIDDEN_IN_TEXT = re.compile("[\x7f-\x84\x86-\x9f]")
_LINE_BREAKS = re.compile("[\t\n\r\x0b\x0c\x85\u2028\u2029]")
_TOKEN = re.compile(r"[\x21-\x7e]*")
_ENVIRONMENT_NAME = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")
_UUID = re.compile(r"[0-9a-f]{32}")
_DASHED_UUID = re.compile(r"([0-9a-f]{8})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{4})-([0-9a-f]{12})")
_SHA256 = re.compile(r"[0-9a-f]{64}")
_DNS_LABEL = re.compile(r"(?!-)[A-Za-z0-9-]{1,63}(?<!-)")


def canonical_uuid(value: str) -> str:
    """The uuid as 32 lower-case hex digits; what is not a uuid stays as it is, for the check to refuse."""
    lowered = value.lower()
    dashed = _DASHED_UUID.fullmatch(lowered)
    if dashed:
        return "".join(dashed.groups())
    return lowered if _UUID.fullmatch(lowered) else value


def is_uuid(value: str) -> bool:
    """Whether it is 32 lower-case hex digits."""
    return _UUID.fullmatch(value) is not None


def _text(value: str) -> str | None:
    found = _FORBIDDEN_IN_XML.search(value) or _FORBIDDEN_IN_TEXT.search(value)
    return f"may not contain the character U+{ord(found[0]):04X}" if found else None


def _line(value: str) -> str | None:
    found = _LINE_BREAKS.search(value)
    if found:
        return f"must be one line; it contains the character U+{ord(found[0]):04X}"
    return _text(value)


def _secret(value: str) -> str | None:
    return None if is_line(value) and _text(value) is None else "must be one line without control characters"


def _uuid(value: str) -> str | None:
    return None if is_uuid(value) else "must be a uuid of 32 hexadecimal digits, with or without dashes"


def _token(value: str) -> str | None:
    return None if _TOKEN.fullmatch(value) else "may only contain printable ASCII characters without spaces"


def _environment_name(value: str) -> str | None:
    if _ENVIRONMENT_NAME.fullmatch(value):
        return None
    return "must be an environment variable's name: letters, digits and underscores, not a digit first"


def _host_address(value: str) -> str | None:
    try:
        ipaddress.ip_address(value)
    except ValueError:
        if all(_DNS_LABEL.fullmatch(label) for label in value.removesuffix(".").split(".")):
            return None
        return "must be a DNS name or an IP address"
    return None


def _sha256(value: str) -> str | None:
    return None if _SHA256.fullmatch(value.lower()) else "must be a SHA-256 digest of 64 hexadecimal digits"


_CHECKS: Mapping[int, Callable[[str], str | None]] = {
    limits_pb2.STRING_FORMAT_UNSPECIFIED: _text,
    limits_pb2.STRING_FORMAT_TEXT: _text,
    limits_pb2.STRING_FORMAT_LINE: _line,
    limits_pb2.STRING_FORMAT_UUID: _uuid,
    limits_pb2.STRING_FORMAT_TOKEN: _token,
    limits_pb2.STRING_FORMAT_ENVIRONMENT_NAME: _environment_name,
    limits_pb2.STRING_FORMAT_HOST_ADDRESS: _host_address,
    limits_pb2.STRING_FORMAT_SHA256: _sha256,
    limits_pb2.STRING_FORMAT_SECRET: _secret,
}


def problem(value: str, limits: limits_pb2.FieldLimits) -> str | None:
    """What is wrong with a trimmed, non-empty string under its limits; None where nothing is."""
    if limits.max_length and len(value) > limits.max_length:
        return f"must have at most {limits.max_length} characters, not {len(value)}"
    if limits.allowed and value not in limits.allowed:
        names = ", ".join(limits.allowed)
        shown = value if len(value) <= 64 and value.isprintable() else f"{len(value)} characters"
        return f"must be one of {names}; {shown!r} is not"
    return _CHECKS[limits.format](value)
