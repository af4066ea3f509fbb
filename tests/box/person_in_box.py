"""
Runs inside a box, as somebody: what this account gets to see of the machine's queue, by the
installed program and by requests made by hand.

stdin is JSON: `commands`, a list of words each; `requests`, a list of maps for the protocol, all
sent over one connection, with the `token` if there is one. stdout is JSON: for each command
[exit code, stdout, stderr], for each request its answers, or what the client says when it cannot
connect.
"""

import json
import os
import sys
import tempfile
from typing import Any

sys.path.append("/usr/lib/queuectl")

SOCKET = "/run/queuectl/queuectl.sock"
#: What more answers follow.
GOES_ON = "output"


def run(words: list[str]) -> tuple[int, str, str]:
    """
    Run the program as it is installed, but for the start of its interpreter.
    """
    from queuectl.cli import main

    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        pid = os.fork()
        if pid == 0:
            os.dup2(out.fileno(), 1)
            os.dup2(err.fileno(), 2)
            sys.argv = ["queuectl", *words]
            main()  # Ends the process.
        _, status = os.waitpid(pid, 0)
        out.seek(0)
        err.seek(0)
        said = out.read().decode(errors="replace"), err.read().decode(errors="replace")
        return os.waitstatus_to_exitcode(status), *said


def ask(requests: list[dict[str, Any]], token: str | None) -> list[Any]:
    """
    Send each request and return its answers; where the token is refused, that refusal alone.
    """
    import socket

    from msgspec import msgpack

    from queuectl.framing import FrameReader, pack_frame

    answers = []
    with socket.socket(socket.AF_UNIX) as connection:
        connection.settimeout(20)
        connection.connect(SOCKET)
        reader = FrameReader()

        def receive() -> dict[str, Any]:
            while (frame := reader.next_frame()) is None:
                reader.feed(connection.recv(1 << 16) or sys.exit("the daemon hung up"))
            answer: dict[str, Any] = msgpack.decode(frame)
            if "data" in answer:
                answer["data"] = answer["data"].decode(errors="replace")
            return answer

        hello = {"op": "hello", "protocol": 1, "token": token}
        connection.sendall(pack_frame(msgpack.encode(hello)))
        greeting = receive()
        if token is not None and greeting["op"] == "refused":
            return [[greeting]]
        assert greeting["op"] == "welcome"
        for call, request in enumerate(requests, 1):
            connection.sendall(pack_frame(msgpack.encode({**request, "call": call})))
            found = [receive()]
            while found[-1]["op"] == GOES_ON:
                found.append(receive())
            answers.append(found)
    return answers


def main() -> None:
    asked = json.load(sys.stdin)
    import launch

    launch.prepare()
    os.chdir("/")
    answers = [list(run(words)) for words in asked.get("commands", [])]
    requests = asked.get("requests", [])
    answered = ask(requests, asked.get("token")) if requests else []
    json.dump({"commands": answers, "requests": answered}, sys.stdout)


main()
