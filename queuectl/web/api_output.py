"""
The API's view of what jobs wrote: bytes, as they are in the file of an attempt.

Whole, from an offset on, the last lines, or a range. Output is text as far as anybody knows, but it
is never decoded here, and never a type that a browser would run: text/plain, or to be kept as a
file, bytes. What the output limit dropped is left out; a range ends before it.

Without `follow` the daemon tells only what is there, so nothing here waits for a job. Output as it
is written is in live.py.
"""

import re
from collections.abc import AsyncIterator
from contextlib import aclosing
from typing import Any, cast
from urllib.parse import quote

from starlette.responses import Response, StreamingResponse
from starlette.types import Receive, Scope, Send

from queuectl.protocol import LogEnd, Logs, Output
from queuectl.web.operations import Answer, Call, Operation, Parameter
from queuectl.web.problems import problem

TEXT = "text/plain; charset=utf-8"
BYTES = "application/octet-stream"
#: Bytes of one range: it is held until its end is known. Who asks for more gets this much of it.
RANGE_BYTES_MAX = 1 << 20

_RANGE = re.compile("bytes=([0-9]{1,18})-([0-9]{0,18})")


async def show(call: Call) -> Response:
    """
    Answer with what an attempt wrote.
    """
    query = call.query
    asked = _RANGE.fullmatch((call.header("range") or "").replace(" ", ""))
    if asked is not None and not {"offset", "tail"} & query.keys():
        last = int(asked[2]) if asked[2] else None
        if last is None or int(asked[1]) <= last:  # Else it is no range, and to be ignored.
            return await _range(call, int(asked[1]), last)
    stream = _ask(call, query.get("offset", 0))
    first = await anext(stream)
    headers = _headers(call, first)
    if isinstance(first, LogEnd) or call.request.method == "HEAD":
        await stream.aclose()
        return Response(b"", 200, headers)
    return _OutputResponse(_data(first, stream), headers=headers)


def _ask(call: Call, offset: int) -> Any:
    request = Logs(
        id=call.place("id"),
        attempt=call.query.get("attempt"),
        tail_lines=call.query.get("tail"),
        offset=offset,
    )
    return call.link.stream(request, Output, LogEnd)


def _headers(call: Call, first: Output | LogEnd) -> dict[str, str]:
    """
    Return the headers of an answer that begins with *first*.
    """
    headers = {"Content-Type": TEXT, "Accept-Ranges": "bytes"}
    attempt = first.attempt
    if attempt is not None:
        headers["Queuectl-Attempt"] = str(attempt)
    if isinstance(first, Output):
        headers["Queuectl-Offset"] = str(first.offset)
    if call.query.get("download"):
        name = quote(f"job-{call.place('id')}-attempt-{attempt or 0}.log", safe="")
        headers["Content-Type"] = BYTES
        headers["Content-Disposition"] = f"attachment; filename*=UTF-8''{name}"
    return headers


async def _data(first: Output, rest: Any) -> AsyncIterator[bytes]:
    async with aclosing(rest) as answers:
        yield first.data
        async for answer in answers:
            if isinstance(answer, Output):
                yield answer.data


class _OutputResponse(StreamingResponse):
    """
    A stream whose connection to the daemon ends with it, also when nobody reads to its end.
    """

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async with aclosing(cast(Any, self.body_iterator)):
            await super().__call__(scope, receive, send)


async def _range(call: Call, first: int, last: int | None) -> Response:
    """
    Answer with the bytes from *first* to *last*, or as many of them as there are without a gap.
    """
    end = first + RANGE_BYTES_MAX if last is None else min(last + 1, first + RANGE_BYTES_MAX)
    data = bytearray()
    begin = first
    headers: dict[str, str] = {}
    async with aclosing(_ask(call, first)) as answers:
        async for answer in answers:
            headers = headers or _headers(call, answer)
            if isinstance(answer, LogEnd) or (data and answer.dropped_bytes):
                break
            begin = begin if data else answer.offset
            data += answer.data
            if begin + len(data) >= end:
                break
    part = bytes(data[: max(end - begin, 0)])
    if not part:
        detail = f"there is no output from byte {first} on"
        whole = {"Content-Range": f"bytes */{await _length(call, answer.attempt)}"}
        return problem("usage", detail, status=416, field="Range", headers=whole)
    headers["Content-Range"] = f"bytes {begin}-{begin + len(part) - 1}/*"
    return Response(part, 206, headers)


async def _length(call: Call, attempt: int | None) -> int:
    """
    Return how many bytes an attempt has written so far.
    """
    length = 0
    request = Logs(id=call.place("id"), attempt=attempt, tail_bytes=1)
    async with aclosing(call.link.stream(request, Output, LogEnd)) as answers:
        async for answer in answers:
            if isinstance(answer, Output):
                length = answer.offset + len(answer.data)
    return length


OPERATIONS = (
    Operation(
        method="GET",
        path="/jobs/{id}/output",
        name="get_output",
        summary="What a job wrote, byte for byte.",
        run=show,
        query=(
            Parameter(
                name="attempt",
                help="Of this attempt; the last one if it is left out.",
                kind="count",
                least=1,
                most=60_000,
                example=1,
            ),
            Parameter(
                name="offset",
                help="From this byte on.",
                kind="count",
                most=(1 << 53) - 1,
                example=0,
            ),
            Parameter(
                name="tail",
                help="Only the last so many lines.",
                kind="count",
                most=1_000_000,
                example=100,
            ),
            Parameter(name="download", help="As a file to be kept.", kind="flag", example=False),
        ),
        headers=(
            Parameter(
                name="Range",
                help=f"One range of bytes, of which the first {RANGE_BYTES_MAX:,} are sent.",
                example="bytes=0-1023",
            ),
        ),
        answers=(
            Answer(
                help="The output.",
                media_type="text/plain",
                headers={
                    "Queuectl-Attempt": "The attempt that wrote it; missing if there was none yet.",
                    "Queuectl-Offset": "Of the first byte, in the attempt's output.",
                },
            ),
            Answer(status=206, help="The range.", media_type="text/plain"),
        ),
        refusals=(404, 416),
    ),
)
