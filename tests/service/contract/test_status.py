"""Laws of the table of errors: complete, small enough for headers, and silent about what is unexpected."""

from __future__ import annotations

import contextvars
import inspect
import re

import pytest
from corral.v1 import placement_pb2
from google.protobuf.message import Message
from google.rpc import code_pb2, error_details_pb2, status_pb2
from hypothesis import given, settings
from hypothesis import strategies as st

from placement.model import Cure, CureKind, Explanation, Funnel, NearestMiss, Shortage
from placement.reasons import Family, Reason
from service import errors
from service.contract import status as table
from service.contract.call import set_caller
from service.contract.status import MAX_STATUS_BYTES, is_expected, status_of
from service.domain.tenants import Caller
from service.errors import FieldViolation
from tests.service.rpc.lab import detail
from tests.support import ROOT

UUID = "a" * 32
EXPLANATION = Explanation(
    "too little memory",
    funnels=(
        Funnel(
            node="model_services[1]",
            alike=2,
            hosts=10,
            ruled_out=((Reason.ZONE, 3), (Reason.RESOURCE_FREE, 5)),
            resources=((Reason.RESOURCE_FREE, "vcpu", 1), (Reason.RESOURCE_FREE, "memory", 4)),
            candidates=2,
        ),
    ),
    nearest=NearestMiss("model_services[1]", UUID, (Shortage("memory", 1 << 30),)),
    shortages=(Shortage("memory", 1 << 31),),
    placeable=1,
    placeable_bound=2,
    total=3,
    conflict=(Family.ZONE, Family.CAPACITY),
    cures=(Cure(CureKind.RELAX, family=Family.ZONE), Cure(CureKind.ADD_HOSTS, host=UUID, count=1)),
    permanent=False,
)

# One of each error, with its code and what it must carry beside ErrorInfo, as the API promises.
CASES: list[tuple[errors.CorralError, code_pb2.Code, str, list[type[Message]]]] = [
    (
        errors.InvalidArgument.of("name", "is required"),
        code_pb2.INVALID_ARGUMENT,
        "INVALID_ARGUMENT",
        [error_details_pb2.BadRequest],
    ),
    (errors.RequestIdReused("r"), code_pb2.INVALID_ARGUMENT, "REQUEST_ID_REUSED", [error_details_pb2.BadRequest]),
    (errors.NotFound("zone", UUID, "x"), code_pb2.NOT_FOUND, "NOT_FOUND", [error_details_pb2.ResourceInfo]),
    (errors.AlreadyExists("group", UUID), code_pb2.ALREADY_EXISTS, "ALREADY_EXISTS", [error_details_pb2.ResourceInfo]),
    (
        errors.NoCapacity("full", EXPLANATION),
        code_pb2.RESOURCE_EXHAUSTED,
        "NO_CAPACITY",
        [placement_pb2.PlacementFailure],
    ),
    (
        errors.NoAddresses("zone-1", "10.0.0.1-10.0.0.9", 4, 2),
        code_pb2.RESOURCE_EXHAUSTED,
        "NO_ADDRESSES",
        [error_details_pb2.QuotaFailure],
    ),
    (errors.NoCapacity("no time", None), code_pb2.RESOURCE_EXHAUSTED, "NO_CAPACITY", []),
    (
        errors.Unsatisfiable("never", EXPLANATION),
        code_pb2.FAILED_PRECONDITION,
        "UNSATISFIABLE",
        [error_details_pb2.PreconditionFailure, placement_pb2.PlacementFailure],
    ),
    (
        errors.QuotaExceeded("tenant", "vcpu", 8, 16, 1),
        code_pb2.RESOURCE_EXHAUSTED,
        "QUOTA_EXCEEDED",
        [error_details_pb2.QuotaFailure],
    ),
    (
        errors.WrongState("group", "Stopped", "Running"),
        code_pb2.FAILED_PRECONDITION,
        "WRONG_STATE",
        [error_details_pb2.PreconditionFailure],
    ),
    (errors.Conflict("changed", 250), code_pb2.ABORTED, "CONFLICT", [error_details_pb2.RetryInfo]),
    (errors.Undecided("no answer in time"), code_pb2.ABORTED, "UNDECIDED", [error_details_pb2.RetryInfo]),
    (errors.Unavailable("down"), code_pb2.UNAVAILABLE, "UNAVAILABLE", [error_details_pb2.RetryInfo]),
    (errors.Overloaded("busy"), code_pb2.RESOURCE_EXHAUSTED, "OVERLOADED", [error_details_pb2.RetryInfo]),
    (
        errors.RateLimited("red", 2.5, 10, 400),
        code_pb2.RESOURCE_EXHAUSTED,
        "RATE_LIMITED",
        [error_details_pb2.RetryInfo],
    ),
    (
        errors.RevisionUnavailable(3, 5, 9),
        code_pb2.OUT_OF_RANGE,
        "REVISION_UNAVAILABLE",
        [placement_pb2.RevisionRange],
    ),
    (errors.Unauthenticated("who"), code_pb2.UNAUTHENTICATED, "UNAUTHENTICATED", []),
    (errors.LoginFailed("wrong"), code_pb2.UNAUTHENTICATED, "LOGIN_FAILED", []),
    (errors.PermissionDenied("no"), code_pb2.PERMISSION_DENIED, "PERMISSION_DENIED", []),
    (errors.DeployFailed(UUID, "no answer"), code_pb2.ABORTED, "DEPLOY_FAILED", [error_details_pb2.ResourceInfo]),
    (table.MethodUnimplemented("/a/b"), code_pb2.UNIMPLEMENTED, "METHOD_UNIMPLEMENTED", []),
    (
        table.MessageTooLarge("yaml", 9, 8),
        code_pb2.RESOURCE_EXHAUSTED,
        "MESSAGE_TOO_LARGE",
        [error_details_pb2.BadRequest],
    ),
]


# Rows of the table of errors in the contract's description: reason, code, details, metadata, when.
README = ROOT / "protos/README.md"
ROW = re.compile(r"^\| `([A-Z_]+)` \| `([A-Z_]+)` \|([^|]*)\|([^|]*)\| ([^|]+) \|$", re.MULTILINE)


def test_the_description_of_the_contract_lists_every_error_as_it_is_sent() -> None:
    described = {
        reason: (code, set(re.findall(r"`(\w+)`", details)), set(re.findall(r"`(\w+)`", metadata)))
        for reason, code, details, metadata, _ in ROW.findall(README.read_text())
    }
    sent: dict[str, tuple[str, set[str], set[str]]] = {"INTERNAL": ("INTERNAL", set(), set())}
    for error, code, reason, kinds in CASES:
        _, details, metadata = sent.setdefault(reason, (code_pb2.Code.Name(code), set(), set()))
        details.update(kind.DESCRIPTOR.name for kind in kinds)
        metadata.update(set(info_of(status_of(error, "r")).metadata) - {"request_id"})
    assert described == sent


def info_of(status: status_pb2.Status) -> error_details_pb2.ErrorInfo:
    return detail(status, error_details_pb2.ErrorInfo)


@pytest.mark.parametrize(("error", "code", "reason", "kinds"), CASES, ids=lambda v: type(v).__name__)
def test_every_error_has_its_code_its_reason_and_its_details(
    error: errors.CorralError, code: code_pb2.Code, reason: str, kinds: list[type[Message]]
) -> None:
    assert is_expected(error)
    status = status_of(error, "request-1")
    assert status.code == code
    assert status.message.startswith(error.message)
    info = info_of(status)
    assert (info.reason, info.domain, info.metadata["request_id"]) == (reason, "corral", "request-1")
    names = [packed.TypeName() for packed in status.details]
    assert names == ["google.rpc.ErrorInfo", *(kind.DESCRIPTOR.full_name for kind in kinds)]


def test_no_error_that_a_use_case_promises_is_missing_from_the_table() -> None:
    promised = {
        kind
        for _, kind in inspect.getmembers(errors, inspect.isclass)
        if issubclass(kind, errors.CorralError) and kind.__module__ == errors.__name__
    }
    abstract = {errors.CorralError, errors.PlacementError}
    bugs = {errors.InvariantViolation}
    rows = set(table._TABLE)
    assert [kind for kind in promised - abstract - bugs if not rows & set(kind.__mro__)] == []
    assert rows <= {type(case[0]) for case in CASES}


@pytest.mark.parametrize(
    "error",
    [RuntimeError("secret"), errors.InvariantViolation("secret"), KeyError("secret"), errors.CorralError("secret")],
)
def test_an_unexpected_error_tells_only_the_request_id(error: Exception) -> None:
    assert not is_expected(error)
    status = status_of(error, "request-1")
    assert (status.code, status.message) == (code_pb2.INTERNAL, "internal error")
    assert b"secret" not in status.SerializeToString()
    assert dict(info_of(status).metadata) == {"request_id": "request-1"}
    assert len(status.details) == 1


def test_an_explanation_is_told_in_full() -> None:
    told = detail(status_of(errors.NoCapacity("full", EXPLANATION), "r"), placement_pb2.PlacementFailure)
    (funnel,) = told.funnels
    assert (funnel.field, funnel.members, funnel.hosts, funnel.candidates) == ("model_services[1]", 2, 10, 2)
    assert [(r.reason, r.resource, r.hosts) for r in funnel.ruled_out] == [
        ("zone", "", 3),
        ("resource_free", "vcpu", 1),
        ("resource_free", "memory", 4),
    ]
    assert sum(r.hosts for r in funnel.ruled_out) + funnel.candidates == funnel.hosts
    assert (told.nearest_miss.host_uuid, dict(told.nearest_miss.missing)) == (UUID, {"memory": 1 << 30})
    assert (told.requested, told.placeable, told.placeable_bound, told.permanent) == (3, 1, 2, False)
    assert (list(told.conflicts), dict(told.missing)) == (["zone", "capacity"], {"memory": 1 << 31})
    assert [(c.kind, c.family, c.host_uuid, c.count) for c in told.cures] == [
        ("relax", "zone", "", 0),
        ("add_hosts", "", UUID, 1),
    ]


def test_what_the_planner_did_not_settle_is_absent() -> None:
    told = detail(
        status_of(errors.NoCapacity("full", Explanation("full", total=3)), "r"), placement_pb2.PlacementFailure
    )
    assert not any(told.HasField(name) for name in ("placeable", "placeable_bound", "permanent", "nearest_miss"))


texts = st.text(max_size=3000)
explanations = st.builds(
    Explanation,
    texts,
    funnels=st.lists(
        st.builds(
            Funnel,
            node=texts,
            alike=st.integers(0, 1024),
            hosts=st.integers(0, 10**6),
            ruled_out=st.just(((Reason.ZONE, 1),)),
            resources=st.lists(st.tuples(st.just(Reason.RESOURCE_FREE), texts, st.integers(0, 10**6)), max_size=30).map(
                tuple
            ),
            candidates=st.integers(0, 10**6),
        ),
        max_size=12,
    ).map(tuple),
    nearest=st.none() | st.builds(NearestMiss, node=texts, host=texts, shortages=st.just(())),
)
anything = st.one_of(
    st.lists(st.builds(FieldViolation, texts, texts), min_size=1, max_size=40).map(errors.InvalidArgument),
    st.builds(errors.NotFound, texts, texts, texts),
    st.builds(errors.DeployFailed, texts, texts),
    st.builds(errors.NoCapacity, texts, explanations),
    st.builds(errors.Unsatisfiable, texts, explanations),
    st.builds(errors.WrongState, texts, texts, texts),
    st.builds(errors.QuotaExceeded, texts, texts, st.integers(), st.integers()),
)


@settings(max_examples=150, deadline=None)
@given(anything)
def test_a_status_always_fits_into_headers_and_keeps_its_reason(error: errors.CorralError) -> None:
    status = status_of(error, "r" * 128)
    assert status.ByteSize() <= MAX_STATUS_BYTES
    assert info_of(status).reason == error.reason


def test_what_a_host_said_is_told_to_administrators_alone() -> None:
    error = errors.Unavailable("the host does not answer")
    error.cause = "code 38: no socket"

    def told(caller: Caller) -> str:
        set_caller(caller)
        message: str = status_of(error, "r").message
        return message

    assert status_of(error, "r").message == "the host does not answer", "outside of a call nobody is told"
    context = contextvars.copy_context()
    assert context.run(told, Caller(role="admin")) == "the host does not answer; the host says: code 38: no socket"
    assert context.run(told, Caller(role="operator")) == "the host does not answer"
