"""Whether a host's kernel lives, by its network alone: a port that is taken or refused was answered by somebody.

It is asked of hosts whose hypervisor says nothing, before their power is cut. A refusal may come of something between
here and the host; then a host that is dead counts as one that is not, which costs time and ends no machine.
"""

from __future__ import annotations

import asyncio
import errno
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from enum import StrEnum

from service.domain.fleet import HostAddress

SECONDS = 3.0
"""So long an answer is waited for: the first packet is sent once more within it."""
PORTS = {"tls": 16514, "tcp": 16509, "ssh": 22}
"""Where libvirt is reached by a transport, unless a host says otherwise (https://libvirt.org/uri.html)."""
_NOBODY = frozenset({errno.EHOSTUNREACH, errno.ETIMEDOUT, errno.EHOSTDOWN})


class Heard(StrEnum):
    """What came back."""

    ALIVE = "alive"
    NOTHING = "nothing"
    UNSURE = "unsure"  # it could not be asked: that says nothing of it
    NO_WAY = "no way"  # there is no network between, by which it could be told


@dataclass(frozen=True, slots=True)
class Answer:
    """`why`: of one that lives or could not be asked, for operators."""

    heard: Heard
    why: str = ""


Knock = Callable[[HostAddress], Awaitable[Answer]]


async def knock(address: HostAddress, *, seconds: float = SECONDS) -> Answer:
    """Ask the host's kernel, once, within `seconds`. Raises nothing."""
    if address.driver != "libvirt" or address.transport == "test":
        return Answer(Heard.NO_WAY)
    if address.transport == "unix":
        return Answer(Heard.ALIVE, "it is the machine on which the service itself runs")
    port = address.port or PORTS[address.transport]
    try:
        async with asyncio.timeout(seconds):
            _, writer = await asyncio.open_connection(address.address.strip("[]"), port)
    except TimeoutError:
        return Answer(Heard.NOTHING)
    except (ConnectionRefusedError, ConnectionResetError):
        return Answer(Heard.ALIVE, f"it refuses connections to its port {port}, as only a kernel that runs does")
    except OSError as error:
        if error.errno in _NOBODY:
            return Answer(Heard.NOTHING)
        return Answer(Heard.UNSURE, f"its network cannot be asked from here: {error.strerror or type(error).__name__}")
    writer.transport.abort()  # nothing was sent, and nothing is waited for
    return Answer(Heard.ALIVE, f"it takes connections to its port {port}, as only a kernel that runs does")
