"""Values of the configuration file: addresses, sizes, ratios, names; how each is written, and what is refused."""

from __future__ import annotations

import re
import resource
from fractions import Fraction
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, Field, PlainValidator

from service.listening import ListenAddress

_UNITS = {"": 1, "B": 1, "KiB": 1 << 10, "MiB": 1 << 20, "GiB": 1 << 30, "TiB": 1 << 40, "PiB": 1 << 50}
_SIZE = re.compile(r"(\d+(?:\.\d+)?)\s*([A-Za-z]*)")
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,62}")

FileOfCredential = Annotated[str, Field(pattern=r"^(/[A-Za-z0-9._/+@:-]{1,200})?$")]


def affordable(wanted: int) -> int:
    """`wanted` connections of one listener, or a third of the files that this process may open where that is less:
    there are two such listeners, and everything else needs the rest."""
    soft, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
    return wanted if soft == resource.RLIM_INFINITY else max(1, min(wanted, soft // 3))


def parse_size(value: Any) -> Any:
    """Bytes from an integer or from text such as `16GiB` or `512 MiB`. Raises ValueError."""
    if isinstance(value, bool) or not isinstance(value, int | str):
        raise ValueError('a size is an integer of bytes or text such as "16GiB"')
    if isinstance(value, int):
        return value
    match = _SIZE.fullmatch(value.strip())
    if match is None or match[2] not in _UNITS:
        raise ValueError('a size is an integer of bytes or text such as "16GiB" (B, KiB, MiB, GiB, TiB, PiB)')
    amount = Fraction(match[1]) * _UNITS[match[2]]
    if amount.denominator != 1:
        raise ValueError("a size is a whole number of bytes")
    return amount.numerator


def parse_listen_address(value: Any) -> ListenAddress:
    """`host:port`, `[v6]:port` or `unix:/path`. Raises ValueError."""
    allowed = 'an address is "host:port", "[ipv6]:port" or "unix:/absolute/path"'
    if not isinstance(value, str):
        raise ValueError(allowed)
    if value.startswith("unix:"):
        path = value.removeprefix("unix:").removeprefix("//")
        if not path.startswith("/") or len(path.encode()) > 107:
            raise ValueError(f"{allowed}; a socket's path has at most 107 bytes")
        return ListenAddress(path=path)
    host, separator, port = value.rpartition(":")
    bracketed = host.startswith("[") and host.endswith("]")
    if not separator or not host or (":" in host and not bracketed) or not re.fullmatch(r"[0-9]{1,5}", port):
        raise ValueError(allowed)
    if int(port) > 65535:
        raise ValueError("a port is 0 to 65535")
    return ListenAddress(host=host[1:-1] if bracketed else host, port=int(port))


def parse_optional_listen_address(value: Any) -> ListenAddress | None:
    """As `parse_listen_address`; empty text means no listener."""
    return None if value == "" else parse_listen_address(value)


def parse_ratio(value: Any) -> Fraction:
    """An exact ratio from an integer, a float as it is written, or text such as `3/2`. Raises ValueError."""
    allowed = "an overcommit ratio is a number above 0 and at most 1000"
    if isinstance(value, bool) or not isinstance(value, int | float | str):
        raise ValueError(allowed)
    try:
        ratio = Fraction(str(value))
    except (ValueError, ZeroDivisionError) as problem:
        raise ValueError(allowed) from problem
    if not 0 < ratio <= 1000:
        raise ValueError(allowed)
    return ratio


def plain_uuid(text: str) -> str | None:
    """The uuid as 32 lower-case hex digits without dashes, or None where it is none."""
    plain = text.replace("-", "").lower()
    return plain if re.fullmatch(r"[0-9a-f]{32}", plain) else None


def _uuid(text: str) -> str:
    plain = plain_uuid(text)
    if plain is None:
        raise ValueError("a uuid is 32 hex digits, dashes are accepted")
    return plain


def _name(text: str) -> str:
    if not _NAME.fullmatch(text):
        raise ValueError("a name is 1 to 63 letters, digits, '.', '_' and '-', a letter or digit first")
    return text


def _line(text: str) -> str:
    if len(text) > 4096 or any(ord(character) < 32 or ord(character) in (127, 0xFFFE, 0xFFFF) for character in text):
        raise ValueError("one line of text without control characters")
    return text


def host_text(text: str) -> str:
    """A host name or an IP address, or empty text. Raises ValueError."""
    # The characters of DNS names, IPv4 and IPv6 addresses: nothing that could become part of a connection URI.
    if not re.fullmatch(r"[A-Za-z0-9.:_-]{0,253}", text) or text.startswith("-"):
        raise ValueError("a host name or IP address, no URI")
    return text


def _option_text(value: Any) -> str:
    if isinstance(value, bool):
        return "true" if value else "false"
    if isinstance(value, int | str):
        return _line(str(value))
    raise ValueError("text, an integer, true or false")


def _amount(value: Any) -> int:
    size = parse_size(value)
    assert isinstance(size, int)
    if not 0 <= size < 1 << 62:
        raise ValueError("an amount is 0 or more")
    return size


Size = Annotated[int, BeforeValidator(parse_size), Field(ge=0, lt=1 << 62)]
Uuid = Annotated[str, AfterValidator(_uuid)]
OptionalUuid = Annotated[str, AfterValidator(lambda text: _uuid(text) if text else "")]
Name = Annotated[str, AfterValidator(_name)]
OptionalName = Annotated[str, AfterValidator(lambda text: _name(text) if text else "")]
Line = Annotated[str, AfterValidator(_line)]
Address = Annotated[ListenAddress, PlainValidator(parse_listen_address)]
OptionalAddress = Annotated[ListenAddress | None, PlainValidator(parse_optional_listen_address)]
Ratio = Annotated[Fraction, PlainValidator(parse_ratio)]
Options = Annotated[dict[str, Annotated[str, PlainValidator(_option_text)]], Field(default_factory=dict)]
Amounts = Annotated[dict[Line, Annotated[int, PlainValidator(_amount)]], Field(default_factory=dict)]
Texts = Annotated[dict[Line, Line], Field(default_factory=dict)]
Port = Annotated[int, Field(ge=1, le=65535)]
Milliseconds = Annotated[int, Field(ge=0, le=604_800_000)]
