"""ZStack's query language: every operator, order, pages, projection, and what is refused."""

from __future__ import annotations

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from service.errors import InvalidArgument
from service.http.zstack import dates, query
from service.http.zstack.query import Condition, Malformed, Moment, answer, from_message, from_url

NOON = dates.read("2026-11-23 12:00:00")
FIELDS = ("uuid", "name", "size", "ready", "createDate", "instances", "systemTags", "description")
ALL: list[dict[str, Any]] = [
    {"uuid": "a" * 32, "name": "alpha", "size": 2, "ready": True, "createDate": Moment(NOON), "systemTags": ["x"],
     "instances": [{"hostUuid": "1"}, {"hostUuid": "2"}]},
    {"uuid": "b" * 32, "name": "beta", "size": 10, "ready": False, "createDate": Moment(NOON + 1000), "systemTags": [],
     "instances": [], "description": "second"},
    {"uuid": "c" * 32, "name": "Alphabet_100%", "size": 10, "ready": True, "createDate": Moment(NOON + 2000),
     "systemTags": ["x", "y"], "instances": [{"hostUuid": "2"}]},
]  # fmt: skip


def names(*conditions: str, **parameters: str) -> list[str]:
    asked = from_url([*(("q", condition) for condition in conditions), *parameters.items()])
    return [inventory["name"] for inventory in answer(asked, ALL, FIELDS)["inventories"]]


@pytest.mark.parametrize(
    ("condition", "found"),
    [
        ("name=alpha", ["alpha"]),
        ("name!=alpha", ["beta", "Alphabet_100%"]),
        ("size=10", ["beta", "Alphabet_100%"]),
        ("size=10.0", ["beta", "Alphabet_100%"]),
        ("size>2", ["beta", "Alphabet_100%"]),
        ("size>=2", ["alpha", "beta", "Alphabet_100%"]),
        ("size<10", ["alpha"]),
        ("size<=2", ["alpha"]),
        ("ready=true", ["alpha", "Alphabet_100%"]),
        ("name?=alpha,beta", ["alpha", "beta"]),
        ("name!?=alpha,beta", ["Alphabet_100%"]),
        ("name~=alpha%", ["alpha", "Alphabet_100%"]),
        ("name~=%a", ["alpha", "beta"]),
        ("name~=_eta", ["beta"]),
        ("name~=%l%a%", ["alpha", "Alphabet_100%"]),
        ("name~=beta", ["beta"]),
        ("name!~=%a", ["Alphabet_100%"]),
        ("description is null", ["alpha", "Alphabet_100%"]),
        ("description not null", ["beta"]),
        ("description is not null", ["beta"]),
        ("description!=other", ["beta"]),
        ("uuid=AAAAAAAA-aaaa-aaaa-aaaa-aaaaaaaaaaaa", ["alpha"]),
        ("instances.hostUuid=2", ["alpha", "Alphabet_100%"]),
        ("instances.hostUuid?=1", ["alpha"]),
        ("__systemTag__=y", ["Alphabet_100%"]),
        ("createDate>2026-11-23 12:00:00", ["beta", "Alphabet_100%"]),
        ("createDate=Nov 23, 2026 12:00:01 PM", ["beta"]),
        ("name=a=b", []),
        ("size=many", []),
        ("size=nan", []),
        ("size<inf", ["alpha", "beta", "Alphabet_100%"]),
    ],
)
def test_a_condition_finds(condition: str, found: list[str]) -> None:
    assert names(condition) == found


def test_conditions_must_all_hold() -> None:
    assert names("size=10", "ready=true") == ["Alphabet_100%"]


def test_an_operator_that_contains_another_is_read_whole() -> None:
    for operator in query._WRITTEN:
        asked = from_url([("q", f"name{operator}v")])
        assert asked.conditions == (Condition("name", operator, ("v",) if "?" in operator else "v"),)


def test_order_goes_by_value_up_or_down_and_what_is_null_comes_last() -> None:
    assert names(sort="size") == ["alpha", "beta", "Alphabet_100%"]
    assert names(sort="-createDate") == ["Alphabet_100%", "beta", "alpha"]
    # A plus that was not escaped arrives as a space.
    assert names(sort=" createDate") == names(sort="+createDate") == ["alpha", "beta", "Alphabet_100%"]
    assert names(sort="description")[0] == names(sort="-description")[0] == "beta"


def test_pages_are_cut_by_start_and_limit() -> None:
    assert names(sort="createDate", start="1", limit="1") == ["beta"]
    assert names(start="9") == []
    assert names(limit="0") == []


def test_count_answers_with_the_number_alone() -> None:
    assert answer(from_url([("count", "true"), ("limit", "1")]), ALL, FIELDS) == {"total": 3}


def test_reply_with_count_answers_with_both() -> None:
    found = answer(from_url([("replyWithCount", "true"), ("limit", "1")]), ALL, FIELDS)
    assert (found["total"], len(found["inventories"])) == (3, 1)


def test_fields_are_projected_and_dates_shown() -> None:
    found = answer(from_url([("fields", "uuid, createDate,description"), ("q", "name=alpha")]), ALL, FIELDS)
    assert found["inventories"] == [{"uuid": "a" * 32, "createDate": "Nov 23, 2026 12:00:00 PM"}]


def test_group_by_keeps_the_first_of_each_value() -> None:
    assert names(groupBy="size") == ["alpha", "beta"]


def test_the_older_protocol_says_order_page_and_projection_in_its_message() -> None:
    def told(**message: Any) -> Any:
        return answer(from_message(message), ALL, FIELDS)

    def named(**message: Any) -> list[str]:
        return [inventory["name"] for inventory in told(**message)["inventories"]]

    assert named(sortBy="createDate", sortDirection="desc") == ["Alphabet_100%", "beta", "alpha"]
    assert named(sortBy="description")[0] == "beta"
    assert named(sortBy="createDate", sortDirection="desc", start=1, limit=1) == ["beta"]
    assert told(count=True) == {"total": 3}
    assert told(replyWithCount=True, conditions=["name=alpha"])["total"] == 1
    assert named(groupBy="size") == ["alpha", "beta"]
    assert told(fields=["name"], conditions=["name=alpha"])["inventories"] == [{"name": "alpha"}]


@pytest.mark.parametrize("parameters", [{"sort": "no"}, {"fields": "no"}, {"groupBy": "no"}, {"q": "no=1"}])
def test_an_unknown_field_is_an_invalid_argument_that_names_those_that_are(parameters: dict[str, str]) -> None:
    with pytest.raises(InvalidArgument, match="uuid, name, size"):
        answer(from_url(parameters.items()), ALL, FIELDS)


@pytest.mark.parametrize(
    "parameters", [{"q": "name"}, {"q": "=x"}, {"limit": "ten"}, {"start": "-1"}, {"limit": "1_0"}, {"q": ""}]
)
def test_what_is_no_query_is_malformed(parameters: dict[str, str]) -> None:
    with pytest.raises(Malformed, match="Invalid query parameter"):
        from_url(parameters.items())


@pytest.mark.parametrize(
    "message",
    [
        {"conditions": {}},
        {"conditions": [3]},
        {"conditions": [{"name": "n", "op": "??"}]},
        {"limit": True},
        {"fields": 3},
    ],
)
def test_what_is_no_query_of_the_older_protocol_is_malformed(message: dict[str, Any]) -> None:
    with pytest.raises(Malformed):
        from_message(message)


@given(st.text(max_size=30))
def test_any_text_is_a_condition_or_malformed(text: str) -> None:
    try:
        asked = from_url([("q", text)])
        answer(asked, ALL, FIELDS)
    except (Malformed, InvalidArgument):
        return


@given(st.text(alphabet="ab%_", max_size=12), st.text(alphabet="ab", max_size=12))
def test_like_is_sqls(pattern: str, text: str) -> None:
    def matches(p: str, t: str) -> bool:
        if not p:
            return not t
        if p[0] == "%":
            return any(matches(p[1:], t[i:]) for i in range(len(t) + 1))
        return bool(t) and p[0] in ("_", t[0]) and matches(p[1:], t[1:])

    found = answer(query.Query((Condition("name", "~=", pattern),)), [{"name": text}], ("name",))
    assert bool(found["inventories"]) is matches(pattern, text)


@given(st.integers(0, 4_102_444_800_000))
def test_a_date_that_is_shown_is_read_as_the_same_second(milliseconds: int) -> None:
    assert dates.read(dates.show(milliseconds)) == milliseconds // 1000 * 1000


@pytest.mark.parametrize(
    ("text", "hour"),
    [("Nov 14, 2017 10:20:57 PM", 22), ("Nov 14, 2017 12:20:57 AM", 0), ("Nov 14, 2017 12:20:57 PM", 12)],
)
def test_dates_are_zstacks(text: str, hour: int) -> None:
    assert dates.show(dates.read(text)) == text
    assert dates.read(text) == dates.read(f"2017-11-14 {hour:02}:20:57")
