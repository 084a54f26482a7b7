from __future__ import annotations

from annals_cli.commands.basics import _unnamed


def test_of_a_stream_its_events_are_shown_and_not_what_is_said_of_itself() -> None:
    stream = (
        "retry: 1000\nevent: alive\nid: 0-4\ndata: {}\n\n"
        'data: {"a": 1}\n\n'
        'id: 0-6\ndata: {"b": 2}\n\n'
        "id: 0-7\n\n"
        "event: cut\ndata: too much waited\n\n"
    )
    assert [one.strip() for one in _unnamed(stream.splitlines())] == ['{"a": 1}', '{"b": 2}']
