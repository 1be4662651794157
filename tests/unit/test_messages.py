"""The texts of messages are those of tests/golden/messages.txt; tests elsewhere look at kinds and places of errors."""

from __future__ import annotations

import pytest

from messages import provoke

provoke.load()


@pytest.mark.parametrize("name", sorted(provoke.CASES))
def test_a_message_is_the_kept_one(name: str) -> None:
    assert provoke.message_of(name) == provoke.kept()[name], "reworded on purpose? `make messages` writes the file anew"


def test_every_kept_message_is_provoked() -> None:
    assert list(provoke.kept()) == sorted(provoke.CASES)
    assert not any(place in provoke.FILE.read_text() for place in ("/tmp", "/home", "/work", str(provoke.ROOT)))  # noqa: S108
