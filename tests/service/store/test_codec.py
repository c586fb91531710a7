"""Texts of stored things: what requests are compared by outlives the version that wrote it."""

from __future__ import annotations

from dataclasses import dataclass, field

from service.domain.specs import DeployRequest, GroupSpec, NodeSpec, PlacementPolicy
from service.store.codec import canonical, decode, encode


@dataclass(frozen=True)
class Part:
    size: int


@dataclass(frozen=True)
class Before:
    name: str
    parts: tuple[Part, ...] = ()


@dataclass(frozen=True)
class GrownPart:
    size: int
    colour: str = ""


@dataclass(frozen=True)
class Grown:
    name: str
    kind: str = "plain"
    parts: tuple[GrownPart, ...] = ()
    labels: dict[str, str] = field(default_factory=dict)


class Strange(dict[str, str]):
    """Equal to no other map, as those of protobuf are."""

    def __eq__(self, other: object) -> bool:
        return self is other

    __hash__ = None


def test_a_field_that_came_since_does_not_make_another_request_of_it() -> None:
    before, after = Before("a", (Part(1), Part(2))), Grown("a", parts=(GrownPart(1), GrownPart(2)))
    assert canonical(before) == canonical(after)


def test_what_is_said_tells_requests_apart() -> None:
    said = (
        Grown("a"),
        Grown("b"),
        Grown("a", "other"),
        Grown("a", parts=(GrownPart(1),)),
        Grown("a", labels={"k": ""}),
    )
    assert len({canonical(one) for one in said}) == len(said)


def test_what_was_stored_and_read_again_is_the_same_request() -> None:
    first = Grown("a", labels=Strange())
    assert canonical(first) == canonical(decode(Grown, encode(first))) == canonical(Grown("a"))


def test_a_deploys_text_is_what_it_was() -> None:
    node = NodeSpec(name="n", model_service_uuid="a" * 32, zone_uuid="", cpu_num=1, memory_size=2, is_initial_node=True)
    spec = GroupSpec(name="g", nodes=(node,), placement=PlacementPolicy(max_per_host=1))
    assert canonical(DeployRequest(spec, request_id="r")) == (
        '{"spec":{"name":"g","nodes":[{"name":"n","model_service_uuid":"' + "a" * 32 + '","zone_uuid":"","cpu_num":1,'
        '"memory_size":2,"is_initial_node":true}],"placement":{"max_per_host":1}},"request_id":"r"}'
    )
