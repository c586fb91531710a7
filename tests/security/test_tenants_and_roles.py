"""Every method under every role, and with another tenant's ids: refused, and never data. By construction from the
contract's descriptors, so that a new method or a new id is tested from its first day."""

from __future__ import annotations

import itertools
from dataclasses import dataclass
from typing import Any

import grpc
import httpx
import pytest
from corral.v1 import limits_pb2
from google.protobuf.message import Message

from service.app.identity import RANK
from service.contract.roles import ROLES
from service.http.zstack.apis import APIS
from tests.security.service import (
    METHODS,
    Client,
    bearer,
    deploy_request,
    deployed,
    json_client,
    log_in,
    node,
    request_of,
)
from tests.support.process import CorralProcess

DENIED, MISSING = grpc.StatusCode.PERMISSION_DENIED, grpc.StatusCode.NOT_FOUND
CALLERS = {"viewer": "vic", "operator": "bob", "admin": "root"}
NAME = "what only red may know"
FULL_CASES = [(path, role) for path in METHODS for role in CALLERS]


@dataclass(frozen=True)
class Owned:
    """What the tenant red has."""

    group: str
    instance: str
    revision: int


@pytest.fixture(scope="module")
def reds(corral: CorralProcess) -> Owned:
    group = deployed(corral, "ann", name=NAME, description=NAME, user_tags=[NAME])
    return Owned(group.uuid, group.instances[0].uuid, group.revision)


def ids_of(message: Any) -> list[Any]:
    """The fields of a message, at its first level, that hold a uuid."""
    return [
        field
        for field in message.DESCRIPTOR.fields
        if field.GetOptions().Extensions[limits_pb2.limits].format == limits_pb2.STRING_FORMAT_UUID
    ]


def reasonable(path: str) -> Message:
    """A request of the method that passes validation, as far as one can be without knowing any id."""
    request: Message = request_of(METHODS[path])()
    for field in request.DESCRIPTOR.fields:
        if field.name in ("uuid", "zone_uuid", "image_uuid") and not field.is_repeated:
            setattr(request, field.name, "0" * 32)
    name = METHODS[path].name
    if name in ("DeployDistributedModelService", "PlanDistributedModelService"):
        request.MergeFromString(deploy_request(model_services=[node(uuid="0" * 32)]).SerializeToString())
    if name == "ScaleInstanceGroup":
        request.MergeFromString(request_of(METHODS[path])(remove_instance_uuids=["0" * 32]).SerializeToString())
    if name == "RotateSecret":
        request.MergeFromString(request_of(METHODS[path])(value="another").SerializeToString())
    return request


@pytest.mark.parametrize(("path", "role"), FULL_CASES)
def test_a_method_answers_exactly_the_roles_of_the_table(client: Client, path: str, role: str) -> None:
    allowed = RANK[role] >= RANK[ROLES[path]]
    code, text, answers = client.call(path, reasonable(path), CALLERS[role], most=1)
    assert (code is DENIED) is not allowed, (code, text)
    assert allowed or not answers
    assert code not in (grpc.StatusCode.UNAUTHENTICATED, grpc.StatusCode.INTERNAL, grpc.StatusCode.UNKNOWN), text


@pytest.mark.parametrize("path", METHODS)
def test_no_method_answers_nobody(client: Client, path: str) -> None:
    code, _, answers = client.call(path, reasonable(path), "")
    assert code is grpc.StatusCode.UNAUTHENTICATED
    assert not answers


@pytest.mark.parametrize("who", ["bob", "vic"])
@pytest.mark.parametrize("path", METHODS)
def test_another_tenants_id_in_any_field_of_any_method_is_as_good_as_none(
    client: Client, reds: Owned, path: str, who: str
) -> None:
    """Group and instance ids, in each id field in turn: the answer is the one that an id nobody has gets."""
    for field in ids_of(reasonable(path)):
        if field.name in ("resource_uuid", "tag_uuids"):
            continue  # names for what is to be made; the test of a taken name is below
        for theirs in (reds.group, reds.instance):
            answers = []
            for value in (theirs, "d" * 32):
                request: Any = reasonable(path)
                if METHODS[path].name == "ScaleInstanceGroup" and field.name == "uuid":
                    request.remove_instance_uuids[:] = [reds.instance]
                request.ClearField(field.name)
                if field.is_repeated:
                    getattr(request, field.name).append(value)
                else:
                    setattr(request, field.name, value)
                code, text, found = client.call(path, request, who, most=1)
                assert NAME not in text
                assert NAME not in str(found)
                answers.append(code)
            assert answers[0] is answers[1], f"{field.name}: {answers} tells that the id exists"
            assert field.name != "uuid" or answers[0] in (DENIED, MISSING), field.name


@pytest.mark.parametrize("method", ["DeployDistributedModelService", "PlanDistributedModelService"])
def test_near_to_or_apart_from_another_tenants_group_is_refused_as_of_none(
    client: Client, reds: Owned, method: str
) -> None:
    """It would tell on which host the group runs; to be apart from it would keep it off hosts."""
    path = f"corral.v1.DistributedModelService/{method}"
    rules = ("affinity_group_uuids", "anti_affinity_group_uuids")
    for rule, uuid in itertools.product(rules, (reds.group, "d" * 32)):
        request = deploy_request(placement_policy={rule: [uuid]})
        if method.startswith("Plan"):
            plan = request_of(METHODS[path])()
            plan.MergeFromString(request.SerializeToString())
            request = plan
        code, text, answers = client.call(path, request, "bob")
        assert code is MISSING, text
        assert not answers
        assert NAME not in text


def test_groups_of_one_tenant_are_kept_apart(client: Client, reds: Owned) -> None:
    """There is one host, so that the second group finds no room."""
    code, text, _ = client.call(
        "corral.v1.DistributedModelService/DeployDistributedModelService",
        deploy_request(placement_policy={"anti_affinity_group_uuids": [reds.group]}),
        "ann",
        most=1000,
    )
    assert code is grpc.StatusCode.RESOURCE_EXHAUSTED or code is grpc.StatusCode.FAILED_PRECONDITION, text


def test_a_member_of_another_tenants_group_can_not_be_taken_out_through_ones_own(
    corral: CorralProcess, client: Client, reds: Owned
) -> None:
    own = deployed(corral, "bob", name="of bob")
    path = "corral.v1.DistributedModelService/ScaleInstanceGroup"
    for instance in (reds.instance, "d" * 32):
        code, _, _ = client.call(path, {"uuid": own.uuid, "remove_instance_uuids": [instance]}, "bob")
        assert code in (MISSING, grpc.StatusCode.INVALID_ARGUMENT), code
    still = client.call("corral.v1.DistributedModelService/GetInstanceGroup", {"uuid": reds.group}, "ann")
    assert still[0] is grpc.StatusCode.OK
    client.call("corral.v1.DistributedModelService/DeleteInstanceGroup", {"uuid": own.uuid}, "bob", most=100)


def test_a_uuid_that_another_tenant_has_taken_is_refused_and_tells_nothing_of_whose_it_is(
    client: Client, reds: Owned
) -> None:
    path = "corral.v1.DistributedModelService/DeployDistributedModelService"
    code, text, answers = client.call(path, deploy_request(resource_uuid=reds.group), "bob")
    assert code is grpc.StatusCode.ALREADY_EXISTS
    assert not answers
    for word in (NAME, "red", "ann"):
        assert word not in text.replace("required", "")


def test_lists_watches_and_page_tokens_hold_nothing_of_another_tenant(
    corral: CorralProcess, client: Client, reds: Owned
) -> None:
    model = "corral.v1.DistributedModelService/"
    deployed_two = deployed(corral, "ann", name="second of red")
    for request in ({}, {"name": NAME}, {"tag": NAME}, {"page_size": 1}):
        _, _, (page,) = client.call(f"{model}ListInstanceGroups", request, "vic")
        assert reds.group not in str(page)
    _, _, (first,) = client.call(f"{model}ListInstanceGroups", {"page_size": 1}, "eve")
    token = first.next_page_token  # type: ignore[attr-defined]
    assert token, "red has two groups and saw one"
    code, text, pages = client.call(f"{model}ListInstanceGroups", {"page_size": 1, "page_token": token}, "vic")
    assert code in (grpc.StatusCode.OK, grpc.StatusCode.INVALID_ARGUMENT)
    for secret in (NAME, reds.group, deployed_two.uuid):
        assert secret not in text + str(pages)
    for start in (0, 1):
        _, _, events = client.call(f"{model}WatchInstanceGroups", {"start_revision": start}, "vic", most=5, timeout=1)
        assert reds.group not in str(events)
        assert deployed_two.uuid not in str(events)
    client.call(f"{model}DeleteInstanceGroup", {"uuid": deployed_two.uuid}, "ann", most=100)


def test_a_request_id_of_another_tenant_answers_nothing_of_its_group(corral: CorralProcess, client: Client) -> None:
    path = "corral.v1.DistributedModelService/DeployDistributedModelService"
    request = deploy_request(name="same words", request_id="the-same-id")
    theirs = corral.follow(corral.groups.DeployDistributedModelService(request, metadata=bearer("ann"), timeout=60))
    code, _, answers = client.call(path, request, "bob", most=1000)
    assert code is grpc.StatusCode.OK
    uuids = {answer.event.group_uuid for answer in answers}  # type: ignore[attr-defined]
    assert theirs.uuid not in uuids
    for uuid, who in ((theirs.uuid, "ann"), (uuids.pop(), "bob")):
        client.call("corral.v1.DistributedModelService/DeleteInstanceGroup", {"uuid": uuid}, who, most=100)


def test_one_name_in_two_projects_does_not_share_request_ids(corral: CorralProcess, client: Client) -> None:
    """A token and an account may bear the same name; the request id is remembered by name."""
    request = deploy_request(name="of the token", request_id="an-id-of-twin")
    theirs = corral.follow(corral.groups.DeployDistributedModelService(request, metadata=bearer("twin"), timeout=60))
    session = (("authorization", f"Bearer {log_in(corral, 'twin')}"),)
    with pytest.raises(grpc.RpcError) as refused:
        list(corral.groups.DeployDistributedModelService(request, metadata=session, timeout=60))
    assert refused.value.code() is grpc.StatusCode.INVALID_ARGUMENT
    assert theirs.uuid not in str(refused.value)
    client.call("corral.v1.DistributedModelService/DeleteInstanceGroup", {"uuid": theirs.uuid}, "twin", most=100)


def test_the_json_face_refuses_the_same(corral: CorralProcess, reds: Owned) -> None:
    path = f"/corral/v1/instance-groups/{reds.group}"
    with json_client(corral, "bob") as bob, json_client(corral, "vic") as vic:
        answers = [
            bob.get(path),
            bob.delete(path),
            bob.patch(path, json={"name": "mine"}),
            *(bob.post(f"{path}:{verb}", json={}) for verb in ("start", "stop", "restart")),
            bob.post(f"{path}:scale", json={"removeInstanceUuids": [reds.instance]}),
            bob.get("/corral/v1/instance-groups:watch", params={"uuid": reds.group}),
        ]
        assert [answer.status_code for answer in answers] == [404] * len(answers)
        assert all(NAME not in answer.text for answer in answers)
        assert bob.get("/corral/v1/instance-groups").json().get("inventories", []) == []
        assert vic.delete(path).status_code == 403
        assert bob.get("/corral/v1/hosts").status_code == 403
    nobody = httpx.get(f"{corral.http}{path}", timeout=60)
    assert nobody.status_code == 401


def test_the_zstack_face_refuses_the_same(corral: CorralProcess, reds: Owned) -> None:
    session = log_in(corral, "bob-z")
    headers = {"Authorization": f"OAuth {session}"}
    groups = "/zstack/v1/ai/model-services/instances/groups"
    with httpx.Client(base_url=corral.http, headers=headers, timeout=60) as bob:
        found = bob.get(f"{groups}/{reds.group}").json()
        assert found["inventories"] == []
        for query in (f"uuid={reds.group}", f"name={NAME}", "name~=%", "uuid not null", f"uuid?={reds.group}"):
            assert bob.get(groups, params={"q": query}).json()["inventories"] == [], query
        assert bob.get(groups, params={"count": "true"}).json()["total"] == 0
        update = {"updateModelServiceInstanceGroup": {"name": "mine"}}
        restart = {"restartModelServiceGroups": {"uuids": [reds.group]}}
        for accepted in (
            bob.put(f"/zstack/v1/model-service-instance-groups/{reds.group}", json=update),
            bob.put("/zstack/v1/model-service-instance-groups", json=restart),
            # ZStack answers a deletion of what is not there with success; what matters is that nothing is deleted.
            bob.delete(f"{groups}/{reds.group}"),
        ):
            ended = _ended(bob, accepted)
            assert NAME not in ended.text
            # A restart tells of each group by itself; the others have one answer.
            told = ended.json()
            assert ended.status_code == 503 or told == {} or all("error" in each for each in told["results"])
    with json_client(corral, "eve") as eve:
        assert eve.get(f"/corral/v1/instance-groups/{reds.group}").json()["inventory"]["status"] == "Running"


def test_every_zstack_api_needs_its_role_or_a_session(corral: CorralProcess) -> None:
    """An operator's session on the administrators' APIs, and no session on all: told by the answer or by the job."""
    session = log_in(corral, "bob-z")
    with httpx.Client(base_url=corral.http, timeout=60) as anybody:
        for api in APIS.values():
            if not api.role:
                continue
            cases = [("0" * 32, "ID.1001")] + ([(session, "ID.1002")] if api.role == "admin" else [])
            for shown, expected in cases:
                path = "/zstack/v1" + api.paths[0].replace("{uuid}", "0" * 32)
                body: dict[str, Any] = {"json": {api.key: {}}} if api.verb in ("PUT", "POST") else {}
                answer = anybody.request(api.verb, path, headers={"Authorization": f"OAuth {shown}"}, **body)
                if answer.status_code == 202:
                    answer = _ended(anybody, answer)
                assert answer.status_code == 503, (api.name, answer.text)
                assert answer.json()["error"]["code"] == expected, api.name


def _ended(http: httpx.Client, accepted: httpx.Response) -> httpx.Response:
    assert accepted.status_code == 202, accepted.text
    while True:
        answer = http.get(accepted.json()["location"])
        if answer.status_code != 202:
            return answer
