"""An effect within the trace of the call that changed its group last, and with that call's ids in the log."""

from __future__ import annotations

from collections.abc import Awaitable, Callable

from service.errors import Unavailable
from service.lifecycle.effects import AwaitRoom, Effect, Observe
from service.reconcile.outcomes import EffectResult
from service.store import audit
from service.store.engine import Store
from service.telemetry import logs, traces


async def traced(
    store: Store, group_uuid: str, epoch: int, effect: Effect, perform: Callable[[], Awaitable[EffectResult]]
) -> EffectResult:
    """What `perform` answers. Looks, of which there are many and for ever, are in no trace."""
    if not traces.on() or isinstance(effect, Observe | AwaitRoom):
        return await perform()
    request_id = await _cause(store, group_uuid)
    values: traces.Values = {"corral.group": group_uuid, "corral.epoch": epoch}
    with (
        logs.about(request_id=request_id, trace_id=traces.trace_id(request_id)),
        traces.continued(request_id),
        traces.span(f"reconcile {type(effect).__name__.lower()}", values),
    ):
        return await perform()


async def _cause(store: Store, group_uuid: str) -> str:
    try:
        return await store.read(lambda c: audit.newest_request(c, group_uuid))
    except Unavailable:
        return ""  # a trace is less than the work
