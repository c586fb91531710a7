"""What went wrong with a BMC, in the words of drivers."""

from __future__ import annotations

import requests
from sushy import exceptions

from service.drivers.base import DriverError, HostRejected, HostUnreachable, OutcomeUnknown
from service.drivers.redfish.connecting import BUSY


def told_of(error: Exception, *, acts: bool) -> DriverError:
    """What went wrong, as drivers tell it. Details quote the BMC, and no password: sushy keeps none in its errors."""
    detail = f"{type(error).__name__}: {error}"[:500]
    if isinstance(error, exceptions.AccessError):
        return HostRejected("denied", "the BMC refuses its account", detail)
    if isinstance(error, exceptions.HTTPError):
        if error.status_code in BUSY:
            return HostUnreachable("the BMC is busy", detail)
        if error.status_code >= 500:
            lost = OutcomeUnknown if acts else HostUnreachable
            return lost("the BMC has an error of its own", detail)
        return HostRejected("bad_request", f"the BMC refuses ({error.status_code})", detail)
    cause = error.__context__ or error
    if isinstance(cause, requests.exceptions.SSLError):
        return HostRejected("denied", "the BMC's certificate is not the one that it must be", detail)
    if isinstance(cause, requests.ConnectTimeout) or "NewConnectionError" in repr(cause):
        return HostUnreachable("the BMC does not answer", detail)
    if isinstance(error, exceptions.ConnectionError) or isinstance(cause, requests.RequestException):
        lost = OutcomeUnknown if acts else HostUnreachable
        return lost("the BMC gave no answer", detail)
    return HostRejected("unsupported", "the BMC lacks what is needed", detail)
