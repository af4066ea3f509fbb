"""
The web gateway as the package brings it: off until somebody starts it, and nobody by itself. What
it shows, to whom, is the daemon's decision, by the token that each request brings.
"""

import json
from collections.abc import Iterator
from typing import Any

import pytest
from debian_box import Box, wait_until
from queue_in_box import DAEMON, WAIT_S, QueueInBox

WEB = "queuectl-web.service"
URL = "http://127.0.0.1:8642"
NOT_FOUND, DENIED = 404, 403
#: Asks the gateway from inside: method, path, token and body in, status and body out.
ASK = """
import json, sys, urllib.error, urllib.request
asked = json.load(sys.stdin)
request = urllib.request.Request(asked["url"], method=asked["method"])
if asked["token"]:
    request.add_header("Authorization", "Bearer " + asked["token"])
if asked["body"] is not None:
    request.data = json.dumps(asked["body"]).encode()
    request.add_header("Content-Type", "application/json")
try:
    answer = urllib.request.urlopen(request, timeout=20)
except urllib.error.HTTPError as error:
    answer = error
json.dump({"status": answer.status, "body": answer.read().decode()}, sys.stdout)
"""


@pytest.fixture(scope="module", autouse=True)
def web(box: Box) -> Iterator[None]:
    """
    The gateway, which nothing enabled or started so far.
    """
    assert "disabled" == box.shell(f"systemctl is-enabled {WEB}", check=False)
    assert "inactive" == box.shell(f"systemctl is-active {WEB}", check=False)
    box.run("systemctl", "start", WEB)
    yield
    box.run("systemctl", "stop", WEB)
    assert "inactive" == box.shell(f"systemctl is-active {WEB}", check=False)


def token(box: Box, user: str, scopes: str = "read,submit,manage") -> str:
    """
    Have somebody make a token, and return its text.
    """
    words = ("web", "token", "create", "box", "--scope", scopes, "--expires", "1h", "--quiet")
    return box.run("queuectl", *words, user=user).stdout.strip()


def ask(box: Box, method: str, path: str, bearer: str, body: object = None) -> tuple[int, Any]:
    """
    Make a request; return its status and what its JSON says.
    """
    asked = {"method": method, "url": URL + path, "token": bearer, "body": body}
    done = box.run("python3", "-IS", "-c", ASK, stdin=json.dumps(asked))
    answer = json.loads(done.stdout)
    try:
        return answer["status"], json.loads(answer["body"])
    except json.JSONDecodeError:
        return answer["status"], answer["body"]


def test_a_job_over_the_web_is_its_tokens_account(box: Box) -> None:
    """
    It runs as alice, at her home, with her variables; bob's token does not even find it; an admin's
    does.
    """
    bearer = token(box, "alice")
    spec = {"id": "over-the-web", "command": "id -un; pwd; echo $HOME $USER $SHELL"}
    status, job = ask(box, "POST", "/api/v1/jobs", bearer, spec)
    assert (201, "alice") == (status, job["user"])
    alice = QueueInBox(box, user="alice")
    alice.wait_for_state("over-the-web", "completed")
    told = alice.queuectl("logs", "over-the-web").splitlines()
    assert ["alice", "/home/alice", "/home/alice alice /bin/sh"] == told
    assert NOT_FOUND == ask(box, "GET", "/api/v1/jobs/over-the-web", token(box, "bob"))[0]
    number = job["number"]
    assert NOT_FOUND == ask(box, "GET", f"/api/v1/jobs/{number}", token(box, "bob"))[0]
    assert 200 == ask(box, "GET", f"/api/v1/jobs/{number}", token(box, "dave"))[0]
    assert 401 == ask(box, "GET", "/api/v1/jobs/over-the-web", "")[0]
    secret = bearer.split("_", 2)[2]
    wait_until(lambda: box.shell(f"journalctl -u {WEB} -o cat"), WAIT_S, "the gateway logs")
    assert secret not in box.shell("journalctl -o export")


def test_a_scope_is_held_by_the_daemon(box: Box) -> None:
    """
    A token that may only read makes no job, over HTTP or with --host.
    """
    bearer = token(box, "alice", "read")
    assert DENIED == ask(box, "POST", "/api/v1/jobs", bearer, {"command": "true"})[0]
    environment = ("env", f"QUEUECTL_TOKEN={bearer}", f"QUEUECTL_HOST={URL}")
    assert 0 == box.run(*environment, "queuectl", "list", user="bob").returncode
    refused = box.run(*environment, "queuectl", "enqueue", "true", user="bob", check=False)
    assert 77 == refused.returncode, refused.stderr


def test_the_command_line_over_the_web(box: Box) -> None:
    """
    Whoever has a token may be anybody on this machine, one who may not use its socket too.
    """
    bearer = token(box, "alice")
    environment = ("env", f"QUEUECTL_TOKEN={bearer}", f"QUEUECTL_HOST={URL}")
    done = box.run(*environment, "queuectl", "run", "--", "id", "-un", user="carol")
    assert "alice\n" == done.stdout


def test_the_gateway_waits_for_the_daemon(box: Box) -> None:
    """
    A restart of the daemon is a pause, and a stop of it an answer that says so.
    """
    bearer = token(box, "alice")
    box.run("systemctl", "restart", DAEMON)
    assert 200 == ask(box, "GET", "/api/v1/status", bearer)[0]
    assert "active" == box.shell(f"systemctl is-active {WEB}")


def test_its_account_runs_nothing(box: Box) -> None:
    """
    Without a token the gateway's account may connect, but the runner starts no job for it.
    """
    queue = QueueInBox(box, user="queuectl-web")
    queue.enqueue("own", "true")
    queue.wait_for_state("own", "dead")
    assert "system account" in queue.show("own")["last_error"]
