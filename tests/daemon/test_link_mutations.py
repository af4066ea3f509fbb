"""
Messages with broken bytes from whom the daemon takes for its runner: at the link alone, with the
time in our hands, and at a real daemon, which must go on serving its clients.

They come from a seed, which is printed; QUEUECTL_SEED replays it.
"""

import os
import random
import socket
from collections.abc import Callable

from daemon_process import DEADLINE_S, DaemonProcess
from scripted_runner import WELCOME, Script

from queuectl.protocol import Enqueue, JobSpec, Status, StatusReport
from queuectld.core.events import DaemonBegan, Requested, RunnerGone
from queuectld.core.peer import EVERYBODY
from queuectld.core.queue import Queue
from queuectld.core.records import load, store
from queuectld.runner import messages
from queuectld.runner.endpoint import listen
from queuectld.runner.messages import MessageError
from queuectld.runtime.runner_link import RETRY_MS_MAX

SEED = int(os.environ.get("QUEUECTL_SEED", "0")) or random.SystemRandom().randrange(1, 1 << 32)
LINK_MESSAGES = 9_000
DAEMON_MESSAGES = 1_000
#: Numbers of jobs that the messages are about: of the queue's, and of none.
JOBS = range(1, 12)


def whole_messages(chance: random.Random) -> list[bytes]:
    """
    Return events of each kind, about jobs that may run and others.
    """
    job, attempt = chance.choice(JOBS), chance.choice([1, 1, 1, 2])
    status = chance.choice([0, 256, 15, 9, 0x7F, -1])
    exited = messages.Exited(job, attempt, status, True, 1, 2, True, 5000, 6000, 7)
    return [
        WELCOME,
        messages.pack_running(job, attempt, 55, 1),
        messages.pack_exited(exited),
        messages.pack_exited(exited._replace(known=False, usage_known=False)),
        messages.pack_refused(job, attempt, 2, messages.EXEC),
        messages.pack_refused(job, attempt, 11, messages.SPAWN),
        messages.pack_refused(job, attempt, 0, messages.POLICY, messages.BELOW_UID_MIN),
        messages.pack_refused(job, attempt, 17, messages.DUPLICATE),
        messages.pack_ready(),
    ]


def mutated(chance: random.Random) -> bytes:
    data = bytearray(chance.choice(whole_messages(chance)))
    for _ in range(chance.randrange(0, 4)):
        at = chance.randrange(len(data)) if data else 0
        action = chance.randrange(8)
        if action == 0:
            data[at:at] = chance.randbytes(chance.randrange(1, 8))
        elif action == 1:
            del data[at : at + chance.randrange(1, 8)]
        elif action < 4 and data:
            data[at] = chance.choice([0, 1, 0x7F, 0x80, 0xFF])
        elif data:
            data[at] ^= 1 << chance.randrange(8)
    return bytes(data)


def read(data: bytes) -> messages.Event | None:
    try:
        return messages.unpack_event(data)
    except MessageError:
        return None


def test_broken_messages_end_the_connection_and_nothing_else(tmp_path: os.PathLike[str]) -> None:
    """
    What is no message, or comes before WELCOME, ends the connection; what is one is an event that
    the queue can decide, whatever it says: the state stays sound, and what is recorded can be read.
    """
    print(f"QUEUECTL_SEED={SEED}")
    chance = random.Random(SEED)
    script = Script(os.fspath(tmp_path))
    queue = Queue(random=chance.random)
    job = JobSpec(argv=["no-such"], max_retries=1000)
    queue.handle(DaemonBegan(1, "1.0", 4), script.now)
    queue.handle(Requested(1, Enqueue(jobs=[job] * (len(JOBS) - 2)), EVERYBODY), script.now)
    gone_count = event_count = 0
    for _ in range(LINK_MESSAGES):
        if script.runner is None:
            script.connect()
            if chance.random() < 0.9:
                script.say(WELCOME)
        data = mutated(chance)
        welcomed = script.link.welcome is not None
        event = read(data)
        script.say(data)
        gone = any(isinstance(each, RunnerGone) for each in script.events)
        assert gone == (event is None or not (welcomed or isinstance(event, messages.Welcome)))
        for each in script.events:
            records, _ = queue.handle(each, script.now)
            for record in records:
                stored = store(record)
                assert record == load(stored.kind, stored.body)
            event_count += 1
        queue.validate()
        script.events.clear()
        script.now += RETRY_MS_MAX
        if gone:
            gone_count += 1
            script.hang_up()
    script.close()
    assert gone_count > LINK_MESSAGES // 10
    assert event_count > LINK_MESSAGES // 10


def test_a_daemon_serves_on_whatever_its_runner_says(
    daemons: Callable[..., DaemonProcess], tmp_path: os.PathLike[str]
) -> None:
    """
    A runner that takes every start and tells nonsense of it, and of others: an honest client is
    served throughout, nothing of it is in the log as a fault of the daemon, and it starts again.
    """
    print(f"QUEUECTL_SEED={SEED}")
    chance = random.Random(SEED)
    os.mkdir(f"{tmp_path}/runner", 0o700)
    directory_fd = os.open(f"{tmp_path}/runner", os.O_RDONLY)
    listener = listen(directory_fd)
    os.close(directory_fd)
    listener.setblocking(True)
    listener.settimeout(DEADLINE_S)
    daemon = daemons("--runner-dir", f"{tmp_path}/runner").start()
    honest = daemon.client()
    daemon.enqueue(*["true"] * (len(JOBS) - 2), max_retries=1000)
    runner: socket.socket | None = None
    sent = 0
    while sent < DAEMON_MESSAGES:
        if runner is None:
            runner, _ = listener.accept()
            runner.setblocking(False)
            runner.send(WELCOME)
            runner.send(messages.pack_ready())
        data = mutated(chance)
        # Few that end the connection: the daemon waits before it connects again.
        if read(data) is None and chance.random() < 0.9:
            continue
        sent += 1
        try:
            runner.send(data)
        except (BrokenPipeError, ConnectionResetError):
            runner.close()
            runner = None
        except BlockingIOError:
            sent -= 1
        assert honest.call(Status(), StatusReport, timeout_ms=20_000).daemon.pid == daemon.pid
        if runner is not None:
            drain(runner)
    assert "Traceback" not in daemon.log
    if runner is not None:
        runner.close()
    listener.close()
    daemon.restart()
    assert daemon.status().daemon.pid == daemon.pid


def drain(runner: socket.socket) -> None:
    """
    Take what the daemon asks for, and its descriptors with it.
    """
    try:
        while True:
            data, fds, _, _ = socket.recv_fds(runner, messages.MESSAGE_BYTES_MAX, 4)
            for fd in fds:
                os.close(fd)
            if not data:
                return
    except (BlockingIOError, ConnectionResetError):
        pass
