"""
The API's output: whole, from an offset, the last lines, a range, as a file.
"""

import httpx
import pytest
from daemon_process import DaemonProcess, wait_until
from gateway_process import GatewayProcess

from queuectl.web.api_output import RANGE_BYTES_MAX

JOBS = "/api/v1/jobs"
#: Bytes that are no UTF-8, colors, and no newline at the end.
WRITTEN = b"".join(b"line %d \x1b[31mred\x1b[0m \xff\n" % n for n in range(1, 2001)) + b"end"
SCRIPT = (
    "i=1; while [ $i -le 2000 ]; do printf 'line %d \\033[31mred\\033[0m \\377\\n' $i; "
    "i=$((i+1)); done; printf end"
)


@pytest.fixture(scope="module")
def job(client: httpx.Client, web_daemon: DaemonProcess) -> str:
    """
    A job that wrote WRITTEN, in its first attempt; in its second, nothing.
    """
    body = {"command": f'[ "$QUEUECTL_ATTEMPT" = 2 ] || {{ {SCRIPT}; exit 1; }}', "max_retries": 0}
    answer = client.post(JOBS, json=body)
    assert answer.status_code == 201, answer.text
    job_id: str = answer.json()["id"]
    web_daemon.wait_for(job_id, "dead")
    return job_id


def test_output_is_what_was_written(client: httpx.Client, job: str) -> None:
    """
    Byte for byte, as text that no browser takes for anything else.
    """
    answer = client.get(f"{JOBS}/{job}/output")
    assert WRITTEN == answer.content
    assert "text/plain; charset=utf-8" == answer.headers["content-type"]
    assert "nosniff" == answer.headers["x-content-type-options"]
    assert ("1", "0") == (answer.headers["queuectl-attempt"], answer.headers["queuectl-offset"])
    head = client.head(f"{JOBS}/{job}/output")
    assert (200, b"", "1") == (head.status_code, head.content, head.headers["queuectl-attempt"])


def test_a_part_of_it(client: httpx.Client, job: str) -> None:
    """
    From a byte on, or the last lines, with the offset that they begin at.
    """
    answer = client.get(f"{JOBS}/{job}/output", params={"offset": 1000, "attempt": 1})
    assert WRITTEN[1000:] == answer.content
    assert "1000" == answer.headers["queuectl-offset"]
    answer = client.get(f"{JOBS}/{job}/output", params={"tail": 3})
    last = b"\n".join(WRITTEN.split(b"\n")[-3:])
    assert last == answer.content
    assert str(len(WRITTEN) - len(last)) == answer.headers["queuectl-offset"]
    answer = client.get(f"{JOBS}/{job}/output", params={"offset": len(WRITTEN)})
    assert (200, b"") == (answer.status_code, answer.content)
    for query in ({"attempt": 7}, {"attempt": 2}):
        answer = client.get(f"{JOBS}/{job}/output", params=query)
        assert (404, "attempt") == (answer.status_code, answer.json()["field"])


@pytest.mark.parametrize(
    ("asked", "first", "last"),
    [
        ("bytes=0-0", 0, 0),
        ("bytes=10-99", 10, 99),
        ("bytes=1990-", 1990, len(WRITTEN) - 1),
        (f"bytes=5-{10 * len(WRITTEN)}", 5, len(WRITTEN) - 1),
    ],
)
def test_a_range(client: httpx.Client, job: str, asked: str, first: int, last: int) -> None:
    """
    As far as there is output, with the range that it is.
    """
    answer = client.get(f"{JOBS}/{job}/output", headers={"Range": asked})
    assert 206 == answer.status_code
    assert f"bytes {first}-{last}/*" == answer.headers["content-range"]
    assert WRITTEN[first : last + 1] == answer.content


def test_a_range_that_is_none(client: httpx.Client, job: str) -> None:
    """
    Behind the end there is nothing; what is no range of one piece is not looked at.
    """
    beyond = {"Range": f"bytes={len(WRITTEN)}-"}
    answer = client.get(f"{JOBS}/{job}/output", headers=beyond)
    assert (416, "Range") == (answer.status_code, answer.json()["field"])
    assert f"bytes */{len(WRITTEN)}" == answer.headers["content-range"]
    beyond = {"Range": f"bytes={len(WRITTEN) + 1000}-"}
    answer = client.get(f"{JOBS}/{job}/output", headers=beyond)
    assert f"bytes */{len(WRITTEN)}" == answer.headers["content-range"]
    for other in ("bytes=5-4", "bytes=-5", "bytes=0-1,3-4", "lines=1-2"):
        answer = client.get(f"{JOBS}/{job}/output", headers={"Range": other})
        assert (200, WRITTEN) == (answer.status_code, answer.content)


def test_a_range_has_a_limit(client: httpx.Client, web_daemon: DaemonProcess) -> None:
    """
    Who asks for more gets the first part of it, with what it is.
    """
    command = f"head -c {RANGE_BYTES_MAX + 4096} /dev/zero"
    job_id = client.post(JOBS, json={"command": command}).json()["id"]
    web_daemon.wait_for(job_id, "completed")
    answer = client.get(f"{JOBS}/{job_id}/output", headers={"Range": "bytes=0-99999999"})
    assert f"bytes 0-{RANGE_BYTES_MAX - 1}/*" == answer.headers["content-range"]
    assert RANGE_BYTES_MAX == len(answer.content)


def test_output_as_a_file(client: httpx.Client, job: str) -> None:
    """
    Bytes, with a name that holds nothing a header could break on.
    """
    answer = client.get(f"{JOBS}/{job}/output", params={"download": "true"})
    assert "application/octet-stream" == answer.headers["content-type"]
    name = f"job-{job}-attempt-1.log"
    assert f"attachment; filename*=UTF-8''{name}" == answer.headers["content-disposition"]
    body = {"command": "true", "hold": True, "id": "naïve:ü;x"}
    named = client.post(JOBS, json=body)
    assert 201 == named.status_code, named.text
    answer = client.get(f"{JOBS}/naïve:ü;x/output", params={"download": "true"})
    assert (200, b"") == (answer.status_code, answer.content)
    assert "job-na%C3%AFve%3A%C3%BC%3Bx-attempt-0.log" in answer.headers["content-disposition"]
    assert "queuectl-attempt" not in answer.headers


def test_a_reader_that_leaves_takes_its_stream_along(
    client: httpx.Client, web_daemon: DaemonProcess, gateway: GatewayProcess
) -> None:
    """
    The connection over which the gateway read ends with the client's.
    """
    command = "head -c 20000000 /dev/zero"
    job_id = client.post(JOBS, json={"command": command}).json()["id"]
    web_daemon.wait_for(job_id, "completed")
    before = gateway.socket_count()
    for _ in range(5):
        with client.stream("GET", f"{JOBS}/{job_id}/output") as answer:
            assert 200 == answer.status_code
            next(answer.iter_raw())
    wait_until(lambda: gateway.socket_count() <= before)
