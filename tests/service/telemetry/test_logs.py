"""Logs: a JSON object a line, and never a secret, whichever way it came in."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Iterator

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from service.telemetry import logs


@pytest.fixture(autouse=True)
def logging_as_it_was() -> Iterator[None]:
    root = logging.getLogger()
    handlers, level = list(root.handlers), root.level
    quiet = {name: logging.getLogger(name).level for name in ("uvicorn", "alembic")}
    yield
    root.handlers[:] = handlers
    root.setLevel(level)
    for name, was in quiet.items():
        logging.getLogger(name).setLevel(was)
    structlog.reset_defaults()


def written(stream: io.StringIO) -> list[dict[str, object]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def test_a_line_is_one_json_object_with_time_level_logger_and_facts() -> None:
    stream = io.StringIO()
    logs.configure("auto", "info", stream)
    logs.get_logger("corral.test").info("group placed", group="abc", hosts=["a", "b"], seconds=0.5)
    (line,) = written(stream)
    assert line["event"] == "group placed"
    assert line["level"] == "info"
    assert line["logger"] == "corral.test"
    assert line["hosts"] == ["a", "b"]
    assert line["seconds"] == 0.5
    assert str(line["timestamp"]).endswith("Z")
    assert list(line)[:4] == ["timestamp", "level", "logger", "event"]


def test_the_standard_librarys_records_go_the_same_way() -> None:
    stream = io.StringIO()
    logs.configure("json", "warning", stream)
    logging.getLogger("library").info("not told")
    logging.getLogger("library").warning("trouble with %s", "a thing")
    (line,) = written(stream)
    assert line["event"] == "trouble with a thing"
    assert line["logger"] == "library"


def test_context_is_in_every_line_of_a_call() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    with structlog.contextvars.bound_contextvars(request_id="r-1"):
        logs.get_logger("corral.test").info("accepted")
    assert written(stream)[0]["request_id"] == "r-1"


def test_the_console_form_is_text() -> None:
    stream = io.StringIO()
    logs.configure("console", "info", stream)
    logs.get_logger("corral.test").info("ready", port=50051)
    assert "ready" in stream.getvalue()
    assert "port=50051" in stream.getvalue()


@pytest.mark.parametrize(
    "facts",
    [
        {"password": "hunter22"},
        {"api_token": "hunter22"},
        {"headers": {"Authorization": "hunter22"}},
        {"request": [{"nested": {"client_secret": "hunter22"}}]},
        {"url": "postgresql+psycopg://corral:hunter22@db/corral"},
        {"error": "refused: Authorization was Bearer hunter22hunter22"},
        {"error": ValueError("OAuth hunter22hunter22 has expired")},
    ],
)
def test_a_secret_never_reaches_the_log(facts: dict[str, object]) -> None:
    for form in ("json", "console"):
        stream = io.StringIO()
        logs.configure(form, "info", stream)
        logs.get_logger("corral.test").info("something", **facts)
        assert "hunter22" not in stream.getvalue()
        assert stream.getvalue().count("\n") >= 1


def test_a_secret_in_an_exception_is_hidden_and_the_traceback_kept() -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    try:
        raise RuntimeError("cannot open postgresql://me:hunter22@db/x")
    except RuntimeError:
        logs.get_logger("corral.test").exception("failed")
    (line,) = written(stream)
    assert "hunter22" not in json.dumps(line)
    assert "RuntimeError" in str(line["exception"])


def test_a_page_token_is_no_secret() -> None:
    assert logs.hide_secrets(None, "info", {"page_token": "abc"}) == {"page_token": "abc"}


@given(st.text(max_size=5000))
def test_any_text_becomes_one_bounded_line(text: str) -> None:
    stream = io.StringIO()
    logs.configure("json", "info", stream)
    logs.get_logger("corral.test").info("something", name=text)
    assert stream.getvalue().count("\n") == 1
    assert len(str(written(stream)[0]["name"])) < 2100


_PIECES = st.sampled_from(
    [
        "bearer",
        "Basic",
        "oauth",
        "abcdefgh",
        "secret-value",
        "://",
        "postgresql",
        "corral:",
        "@db",
        " ",
        "\t",
        "\n",
        "\u2003",
        "x",
    ]
)


@given(st.lists(_PIECES, max_size=8).map("".join))
def test_what_is_not_searched_holds_no_secret(text: str) -> None:
    searched = logs._URL_PASSWORD.sub(rf"\g<scheme>:{logs.HIDDEN}@", text)
    searched = logs._HEADER.sub(lambda found: f"{found['kind']} {logs.HIDDEN}", searched)
    assert logs._without_secrets(text) == searched
