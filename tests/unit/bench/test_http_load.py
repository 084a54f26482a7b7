from __future__ import annotations

import asyncio

from http_load import Measured, always, at_rate, median, saturate

STALL = 0.3


async def serve(answers: list[bytes]) -> asyncio.Server:
    """Serve these answers in turn, the last of them over and over; the first comes only after a stall."""

    async def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := await reader.readuntil(b"\r\n\r\n"):
            await reader.readexactly(int(head.lower().split(b"content-length: ")[1].split(b"\r\n")[0]))
            if not served:
                await asyncio.sleep(STALL)
            writer.write(answers[min(len(served), len(answers) - 1)])
            served.append(head)

    served: list[bytes] = []

    async def until_closed(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await connected(reader, writer)
        except asyncio.IncompleteReadError:
            writer.close()

    return await asyncio.start_server(until_closed, "127.0.0.1", 0)


OK = b"HTTP/1.1 200 OK\r\ncontent-length: 2\r\n\r\n{}"


async def test_a_request_that_had_to_wait_for_its_connection_is_charged_for_the_wait() -> None:
    async with await serve([OK]) as server:
        port = server.sockets[0].getsockname()[1]
        measured = await at_rate(port, always("/", b"{}"), rate=100, connections=1, seconds=0.5)
    assert measured.count == 50
    # Thirty of the fifty were due while the first was answered; without their waiting time, p50 is near zero.
    assert measured.p50 > 50


async def test_answers_that_are_not_2xx_are_counted_as_failed() -> None:
    refused = b"HTTP/1.1 503 Service Unavailable\r\nTransfer-Encoding: chunked\r\n\r\n2\r\n{}\r\n0\r\n\r\n"
    async with await serve([OK, refused, OK]) as server:
        port = server.sockets[0].getsockname()[1]
        measured = await at_rate(port, always("/", b"{}"), rate=100, connections=1, seconds=0.1)
        again = await saturate(port, always("/", b"{}"), connections=2, seconds=0.5)
    assert (measured.count, measured.failed) == (10, 1)
    assert again.count > 0
    assert again.failed == 0


def test_the_median_of_runs_is_taken_of_each_figure_and_no_failure_is_left_out() -> None:
    runs = [Measured(rate, 1.0, 5.0 - rate, 9.0, 100, failed) for rate, failed in ((1, 0), (2, 1), (3, 0))]
    assert median(runs) == Measured(2, 1.0, 3.0, 9.0, 100, 1)
