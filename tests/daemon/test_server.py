"""
The server: what it takes, what it answers, and in which order.
"""

import os

from stepped_server import HELLO, Stepped, received, statuses

from queuectl.protocol import Done, Enqueued, Jobs, Output, Refused, Welcome
from queuectl.views import JobView
from queuectld.runtime.connection import UNANSWERED_MAX, WRITE_BYTES_MAX
from queuectld.runtime.listening import listen
from queuectld.runtime.server import REQUESTS_PER_TURN_MAX


def test_a_turn_takes_a_few_requests_of_each(stepped: Stepped) -> None:
    """
    One that sent hundreds does not keep the one that sent a single one waiting.
    """
    with stepped.connect() as greedy, stepped.connect() as modest:
        greedy.sendall(HELLO + statuses(1, 4 * REQUESTS_PER_TURN_MAX))
        modest.sendall(HELLO + statuses(1, 1))
        stepped.turn()
        clients = [client for client, _ in stepped.asked]
        assert clients.count(2) == 1
        assert clients.count(1) <= 2 * REQUESTS_PER_TURN_MAX
        assert stepped.server.next_deadline() == 0
        for _ in range(20):
            stepped.turn()
        assert [each.call for client, each in stepped.asked if client == 1] == [
            *range(1, 4 * REQUESTS_PER_TURN_MAX + 1)
        ]
        assert stepped.server.next_deadline() is None


def test_requests_without_an_answer_are_limited(stepped: Stepped) -> None:
    """
    Beyond the limit nothing is taken until something is answered; then as much as that makes room
    for, and nothing is skipped.
    """
    with stepped.connect() as client:
        client.sendall(HELLO + statuses(1, UNANSWERED_MAX + 10))
        for _ in range(40):
            stepped.turn()
        assert len(stepped.asked) == UNANSWERED_MAX
        assert stepped.server.next_deadline() is None
        for call in (1, 2, 3):
            stepped.server.reply(1, Done(call=call))
        stepped.turn()
        stepped.turn()
        assert [each.call for _, each in stepped.asked] == [*range(1, UNANSWERED_MAX + 4)]


def test_output_is_no_answer_yet(stepped: Stepped) -> None:
    """
    A stream is one request until its end.
    """
    with stepped.connect() as client:
        client.sendall(HELLO + statuses(1, 1))
        stepped.turn()
        for n in range(5):
            stepped.server.reply(1, Output(call=1, attempt=1, offset=n, data=b"x"))
        stepped.server.reply(1, Done(call=1))
        stepped.turn()
        assert [type(each) for each in received(client)] == [Welcome, *[Output] * 5, Done]


def test_one_that_does_not_read_is_not_read(stepped: Stepped) -> None:
    """
    Once much waits for it, its streams pause and its requests stay where they are.
    """
    with stepped.connect() as client:
        client.sendall(HELLO + statuses(1, 1))
        stepped.turn()
        sent = 0
        while stepped.server.may_stream(1):
            stepped.server.reply(1, Output(call=1, attempt=1, offset=0, data=b"x" * 65536))
            stepped.server.flush(stepped.now)
            sent += 1
            assert sent * 65536 < 4 * WRITE_BYTES_MAX
        client.sendall(statuses(2, 2))
        stepped.turn()
        assert [each.call for _, each in stepped.asked] == [1]
        got = 0
        while len(stepped.asked) < 2:
            got += len(client.recv(1 << 20))
            stepped.turn()
        assert [each.call for _, each in stepped.asked] == [1, 2]
        assert got > 0


def test_a_request_cut_anywhere_is_one_request(stepped: Stepped) -> None:
    """
    However the kernel cuts the bytes, byte by byte too.
    """
    data = HELLO + statuses(1, 3)
    for cut in range(1, len(data)):
        with stepped.connect() as client:
            stepped.asked.clear()
            client.sendall(data[:cut])
            stepped.turn()
            client.sendall(data[cut:])
            stepped.turn()
            assert [each.call for _, each in stepped.asked] == [1, 2, 3], cut


def test_whoever_hangs_up_is_forgotten(stepped: Stepped) -> None:
    """
    Its answers go nowhere, and the others are told once that it is gone.
    """
    with stepped.connect() as client:
        client.sendall(HELLO + statuses(1, 1))
        stepped.turn()
    stepped.turn()
    assert stepped.gone == [1]
    assert stepped.server.may_stream(1) is None
    stepped.server.reply(1, Done(call=1))
    stepped.turn()
    assert stepped.server.connection_count == 0


def job_view(command: str) -> JobView:
    return JobView(
        id="1",
        number=1,
        command=command,
        state="held",
        attempts=0,
        max_retries=3,
        priority=0,
        queue="default",
        created_at=1,
        updated_at=1,
    )


def test_an_answer_that_is_too_long_is_not_taken_for_a_refusal(stepped: Stepped) -> None:
    """
    Jobs that were made are told without their pictures; what only shows is refused.
    """
    views = [job_view("x" * (1 << 20))] * 5
    with stepped.connect() as client:
        client.sendall(HELLO + statuses(1, 2))
        stepped.turn()
        stepped.server.reply(1, Enqueued(call=1, ids=["1"], jobs=views))
        stepped.server.reply(1, Jobs(call=2, jobs=views))
        stepped.turn()
        _, enqueued, refused = received(client)
    assert (enqueued.call, enqueued.ids, enqueued.jobs) == (1, ["1"], [])
    assert isinstance(refused, Refused)
    assert (refused.call, refused.code) == (2, "try_later")


def test_a_socket_is_its_owners_alone(tmp_path: os.PathLike[str]) -> None:
    """
    Whatever the umask is, and it is as before afterwards.
    """
    umask = os.umask(0o027)
    try:
        listen(f"{tmp_path}/s").close()
        assert os.umask(0o027) == 0o027
    finally:
        os.umask(umask)
    assert os.stat(f"{tmp_path}/s").st_mode & 0o777 == 0o600
