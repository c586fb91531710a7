"""Text of logs that may be shown: laws, then what each rule is there for."""

from __future__ import annotations

import unicodedata

from hypothesis import given
from hypothesis import strategies as st

from service.domain import log_text


@given(st.binary(max_size=400))
def test_no_bytes_become_a_command_to_a_terminal(data: bytes) -> None:
    text = log_text.plain(data)
    assert all(c in "\n\t" or unicodedata.category(c) != "Cc" for c in text)


@given(st.binary(max_size=400))
def test_what_is_plain_stays(data: bytes) -> None:
    text = log_text.plain(data)
    assert log_text.plain(text.encode()) == text


@given(st.lists(st.binary(max_size=60), max_size=20))
def test_pieces_give_the_lines_of_the_whole(pieces: list[bytes]) -> None:
    whole = b"".join(pieces)
    lines = log_text.Lines()
    assert b"".join(lines.feed(piece) for piece in pieces) == whole[: whole.rfind(b"\n") + 1]


def test_a_line_that_never_ends_is_given_out_and_held_by_nobody() -> None:
    lines = log_text.Lines()
    given_out = b"".join(lines.feed(b"x" * 1000) for _ in range(40))
    assert len(given_out.replace(b"\n", b"")) > 40_000 - log_text.LINE_LIMIT - 1001


def test_colours_titles_and_returns_go_and_words_stay() -> None:
    said = b"\x1b[1;31mred\x1b[0m\r\n\x1b]0;title\x07two\x00 \xe2\x82\xac\r10 %\r20 %\n\xff"
    assert log_text.plain(said) == "red\ntwo €\n10 %\n20 %\n�"


@given(st.text("abc{}$", min_size=4, max_size=12), st.text("xyz \n", max_size=20), st.text("xyz \n", max_size=20))
def test_no_value_of_a_secret_is_shown(value: str, before: str, after: str) -> None:
    shown = log_text.without_secrets(f"{before}{value}{after}", {"TOKEN": value})
    assert value not in shown
    assert "[secret TOKEN]" in shown


def test_each_line_of_a_key_and_the_longest_value_first() -> None:
    secrets = {"KEY": "-----BEGIN-----\nMIIBcafe\n", "LONG": "hunter2hunter2", "SHORT": "hunter2", "PIN": "12"}
    shown = log_text.without_secrets("MIIBcafe hunter2hunter2 hunter2 12", secrets)
    assert shown == "[secret KEY] [secret LONG] [secret SHORT] 12"


@given(st.text("ab\n ", max_size=9000), st.text("cd\n ", max_size=9000))
def test_what_is_kept_is_bounded_and_each_log_is_found_again(console: str, engine: str) -> None:
    stored = log_text.kept([("console", console), ("engine", engine)])
    assert len(stored) <= log_text.KEPT_LIMIT
    for name, text in (("console", console), ("engine", engine)):
        found = log_text.section(stored, name)
        assert len(found.splitlines()) <= log_text.KEPT_LINES
        if text.strip():
            last = [line.rstrip() for line in text.split("\n") if line.strip()][-1]
            assert last.endswith(found.split("\n")[-1])


def test_the_reason_has_the_last_lines_once_and_in_one_line() -> None:
    stored = log_text.kept([("console", "booting\n"), ("engine", "loading\n\nno such model: /m\n")])
    reason = log_text.told("its machine stopped by itself", stored)
    assert reason == "its machine stopped by itself; its last lines: booting | loading | no such model: /m"
    assert log_text.told(reason, stored) == reason
    assert log_text.told("why", "") == "why"
    assert len(log_text.told("", "[engine]\n" + "x" * 5000)) < log_text.TOLD_LIMIT + 30
