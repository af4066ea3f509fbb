"""
Messages with broken bytes, sent to a real runner by whom it takes for its daemon.
"""

import os
import random

from runner_client import Client, Output, RunnerProcess

from queuectld.runner import messages
from queuectld.runner.messages import MessageError

MESSAGES = 10_000
# After so many the runner is looked at.
ROUND = 1_000
NOWHERE = "/nowhere/at/all"


def whole_messages() -> list[bytes]:
    """
    Return requests of each kind. What they would start is nowhere, also with a byte changed.
    """
    env = {"PATH": NOWHERE, "A": ""}
    bodies = [
        messages.pack_body("/", [NOWHERE, "x"], env),
        messages.pack_body(NOWHERE, [NOWHERE], {}),
        messages.pack_body("/", [NOWHERE], env, user="nobody"),
    ]
    return [
        *(messages.pack_start(job, 1, 0o022, body) for job in (1, 2) for body in bodies),
        messages.pack_start(3, 1, 0o022, bodies[0], 1000),
        messages.pack_signal(1, 1, 15),
        messages.pack_ack(1, 1),
        messages.pack_hello(1),
        messages.pack_stop(0),
    ]


def mutated(rng: random.Random, data: bytes) -> bytes:
    broken = bytearray(data)
    for _ in range(rng.randrange(1, 4)):
        at = rng.randrange(len(broken)) if broken else 0
        action = rng.randrange(5)
        if action == 0 and broken:
            broken[at] = rng.randrange(256)
        elif action == 1 and broken:
            broken[at] ^= 1 << rng.randrange(8)
        elif action == 2:
            broken[at:at] = rng.randbytes(rng.randrange(1, 8))
        elif action == 3:
            del broken[at : at + rng.randrange(1, 8)]
    return bytes(broken)


def hangs_up(client: Client) -> bool:
    """
    Whether the runner hangs up, after what it had to say before. Waits for it.
    """
    try:
        while client.socket.recv(messages.MESSAGE_BYTES_MAX):
            pass
    except ConnectionResetError:
        pass
    except TimeoutError:
        return False
    return True


def goes_on(client: Client) -> bool:
    """
    Whether the runner has not hung up, as far as can be told now. Takes what it said.
    """
    try:
        while not client.is_quiet():
            if not client.socket.recv(messages.MESSAGE_BYTES_MAX):
                return False
    except ConnectionResetError:
        return False
    return True


def fd_count(runner: RunnerProcess) -> int:
    return len(os.listdir(f"/proc/{runner.process.pid}/fd"))


def check(runner: RunnerProcess, output: Output, job: int) -> None:
    """
    The runner serves an honest daemon, and holds no descriptor of the one before.
    """
    client = runner.greeted()
    assert client.run(["/bin/true"], output.fd, job).status == 0
    client.close()


def test_broken_messages_do_no_harm(
    runner: RunnerProcess, output: Output, rng: random.Random
) -> None:
    """
    What is no message ends its connection; what is one is obeyed or refused. An honest daemon is
    served all the time, and neither descriptors nor memory are lost.
    """
    whole = whole_messages()
    check(runner, output, 10**6)
    client, sent, refused_count = runner.greeted(), 0, 0
    fds, looked_at = fd_count(runner), 0
    while sent < MESSAGES:
        data = mutated(rng, rng.choice(whole))
        try:
            request = messages.unpack_request(data)
        except MessageError:
            request = None
        if isinstance(request, messages.Stop | messages.Hello):
            continue  # Obeyed, these would end the runner or the fence of epochs.
        attached = [output.fd] * rng.choice([0, 1, 1, 1, 2])
        sent += 1
        try:
            client.send(data, attached)
        except (BrokenPipeError, ConnectionResetError):
            sent -= 1  # It hung up on the one before, a START without its descriptor.
            request = None
        if request is None or not goes_on(client):
            refused_count += 1
            assert hangs_up(client)
            client.close()
            runner.clients.clear()
            client = runner.greeted()
        if sent >= looked_at + ROUND:
            looked_at = sent
            client.close()
            check(runner, output, 10**6 + sent)
            client = runner.greeted()
            assert fd_count(runner) == fds
    client.close()
    assert refused_count > MESSAGES // 10
    assert "Traceback" not in runner.stderr
