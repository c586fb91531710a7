"""One trace from the RPC over the reconciler and the planner to the hosts, named by the call's request id."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import structlog
from corral.v1 import deploy_pb2
from opentelemetry.sdk.trace.export import SimpleSpanProcessor
from opentelemetry.sdk.trace.export.in_memory_span_exporter import InMemorySpanExporter

from service.telemetry import logs, traces
from tests.support.whole import ENTRY, GIB, ZONE, Whole, config_text, whole

TRACE = "0af7651916cd43dd8448eb211c80319c"
DEPLOY = "corral.v1.DistributedModelService/DeployDistributedModelService"


@pytest.fixture
def heard() -> Iterator[InMemorySpanExporter]:
    """Every span that ended."""
    exporter = InMemorySpanExporter()
    traces.provide(SimpleSpanProcessor(exporter))
    yield exporter
    traces.close()


@pytest.fixture
def lines() -> Iterator[io.StringIO]:
    """The log, as JSON."""
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    yield stream
    root.handlers[:] = handlers
    root.setLevel(level)
    structlog.reset_defaults()


async def _deploy(lab: Whole, metadata: tuple[tuple[str, str], ...], size: int = 2) -> Any:
    nodes: Any = [
        {"uuid": ENTRY, "zone_uuid": ZONE, "cpu_num": 1, "memory_size": GIB, "name": f"node-{rank}"}
        for rank in range(size)
    ]
    request = deploy_pb2.DeployDistributedModelServiceRequest(
        model_services=nodes, service_creation_strategy="parallel", name="traced"
    )
    stream = lab.deploy.DeployDistributedModelService(request, metadata=metadata)
    return [answer.event async for answer in stream][-1].final


@pytest.mark.asyncio
async def test_a_deploy_is_one_trace_from_the_rpc_to_the_hosts(
    tmp_path: Path, heard: InMemorySpanExporter, lines: io.StringIO
) -> None:
    async with whole(tmp_path, config_text(2)) as lab:
        group = await _deploy(lab, (("traceparent", f"00-{TRACE}-b7ad6b7169203331-01"),))
        assert group.status == "Running"
    spans = [
        span for span in heard.get_finished_spans() if span.context and format(span.context.trace_id, "032x") == TRACE
    ]
    by_name: dict[str, list[Any]] = {}
    for span in spans:
        by_name.setdefault(span.name, []).append(span)
    (call,) = by_name[DEPLOY]
    assert call.parent is None
    # More than one where a claim was lost or a host had not answered yet.
    plans = {plan.context.span_id: plan for plan in by_name["reconcile plan"]}
    assert {plan.parent.span_id for plan in plans.values()} == {call.context.span_id}
    assert {plan.attributes["corral.group"] for plan in plans.values()} == {group.uuid}
    assert {planner.parent.span_id for planner in by_name["planner place"]} <= set(plans)
    assert {planner.attributes["corral.nodes"] for planner in by_name["planner place"]} == {2}
    creates = {span.context.span_id for span in by_name["reconcile create"]}
    assert {span.parent.span_id for span in by_name["simulated create"]} <= creates
    assert len(by_name["simulated create"]) == 2
    assert {span.attributes["corral.host"] for span in by_name["simulated create"]} <= {"host-1", "host-2"}
    assert not [name for name in by_name if "observe" in name]
    calls = [json.loads(line) for line in lines.getvalue().splitlines()]
    (told,) = [line for line in calls if line["event"] == "call" and line["method"] == DEPLOY]
    assert (told["request_id"], told["trace_id"]) == (TRACE, TRACE)


@pytest.mark.asyncio
async def test_nobody_pays_for_spans_that_nobody_hears(tmp_path: Path) -> None:
    assert not traces.on()
    with traces.span("anything") as span:
        assert span is None
    async with whole(tmp_path, config_text(1)) as lab:
        assert (await _deploy(lab, (("x-request-id", "mine"),), 1)).status == "Running"


def test_a_request_id_names_its_trace() -> None:
    assert traces.trace_id(TRACE) == TRACE
    assert traces.trace_id("0af76519-16cd-43dd-8448-eb211c80319c") == TRACE
    assert len(traces.trace_id("mine")) == 32
    assert traces.trace_id("0" * 32) != "0" * 32
    assert traces.trace_of(f"00-{TRACE}-b7ad6b7169203331-01") == TRACE
    for wrong in (None, "", f"01-{TRACE}-b7ad6b7169203331-01", f"00-{'0' * 32}-b7ad6b7169203331-01", b"00"):
        assert traces.trace_of(wrong) == ""


@pytest.mark.asyncio
async def test_lines_of_a_groups_work_name_it(lines: io.StringIO) -> None:
    with logs.about(group="g-1"):
        logging.getLogger("service.reconcile.worker").warning("waiting")
    assert json.loads(lines.getvalue())["group"] == "g-1"
