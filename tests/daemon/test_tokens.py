"""
Tokens of a real daemon: what they allow, whose jobs they show, and that they last as they should.
"""

import os
import pwd
import re

import pytest
from daemon_process import DaemonProcess, wait_until
from raw_connection import Raw

from queuectl.client import Client
from queuectl.errors import ConnectionLost, RequestRefused
from queuectl.framing import pack_frame
from queuectl.protocol import (
    PROTOCOL_VERSION,
    Done,
    Enqueue,
    Enqueued,
    GetConfig,
    Hello,
    Jobs,
    JobSpec,
    List,
    LogEnd,
    Logs,
    Message,
    Output,
    Refused,
    SetConfig,
    Status,
    StatusReport,
    Wait,
    Waited,
    Welcome,
    encode,
)
from queuectl.tokens import CreateToken, ListTokens, RevokeToken, Scope, TokenCreated, Tokens
from queuectl.watching import Changed, Watch

as_root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: connects as other accounts")


def make(client: Client, *scopes: Scope, lifetime_ms: int | None = None) -> TokenCreated:
    request = CreateToken(scopes=list(scopes), lifetime_ms=lifetime_ms)
    return client.call(request, TokenCreated)


def code_of(client: Client, request: Message) -> str:
    """
    Return why a request is refused: `denied` for want of a scope.
    """
    with pytest.raises(RequestRefused) as refused:
        client.call(request, Done)
    return refused.value.code


def test_a_token_allows_its_scopes(daemon: DaemonProcess) -> None:
    """
    What the daemon answers itself and what the queue answers, refused or done; the connection
    goes on after a refusal.
    """
    with daemon.client() as own:
        tokens = {scope: make(own, scope).text for scope in ("read", "submit", "manage")}
    with Client(daemon.socket, token=tokens["read"]) as reader:
        assert reader.call(Status(), StatusReport).daemon.pid == daemon.pid
        assert [] == reader.call(List(), Jobs).jobs
        for request in (Enqueue(jobs=[JobSpec(command="true")]), SetConfig(key="workers", value=1)):
            assert code_of(reader, request) == "denied"
        assert code_of(reader, CreateToken(scopes=["read"])) == "denied"
    with Client(daemon.socket, token=tokens["submit"]) as submitter:
        assert ["1"] == submitter.enqueue([JobSpec(command="true", hold=True)]).ids
        for request in (Status(), List(), Watch(), RevokeToken(id="x")):
            assert code_of(submitter, request) == "denied"
    with Client(daemon.socket, token=tokens["manage"]) as manager:
        assert code_of(manager, Logs(id="1")) == "denied"
        assert code_of(manager, GetConfig()) == "denied"
        token_id = tokens["read"].split("_")[1]
        assert manager.call(RevokeToken(id=token_id), Done) == Done(call=3)
    assert daemon.state("1") == "held"


def test_a_token_ends_what_is_under_way(daemon: DaemonProcess) -> None:
    """
    Followed output, a wait and a watch end when the token is revoked; nobody else's do.
    """
    (job_id,) = daemon.enqueue("echo begin; exec sleep 600", max_retries=0)
    daemon.wait_for(job_id, "processing")
    with daemon.client() as own:
        token, other = make(own, "read"), make(own, "read")
        clients = [Client(daemon.socket, token=token.text) for _ in range(3)]
        kept = Client(daemon.socket, token=other.text)
        following, waiting, watching = clients
        for each in (following, kept):
            each.send(Logs(id=job_id, follow=True))
            assert each.receive(Output).data == b"begin\n"
        waiting.send(Wait(ids=[job_id]))
        watching.send(Watch())
        watching.receive(Changed)
        own.call(RevokeToken(id=token.token.id), Done)
        for each, answer in ((following, LogEnd), (waiting, Waited), (watching, Changed)):
            with pytest.raises(RequestRefused, match="the token was revoked") as refused:
                each.receive(answer, timeout_ms=20_000)
            assert (refused.value.code, refused.value.call) == ("denied", 0)
            with pytest.raises(ConnectionLost):
                each.receive(answer)
        daemon.enqueue("true", hold=True)
        os.kill(daemon.pid_of(job_id), 9)
        assert isinstance(kept.receive(LogEnd, timeout_ms=20_000), LogEnd)
    for each in (*clients, kept):
        each.close()


def test_a_token_ends_by_itself(daemon: DaemonProcess) -> None:
    """
    At its time a connection that waits is ended, and the token is forgotten for good.
    """
    with daemon.client() as own:
        token = make(own, "read", lifetime_ms=300)
        (job_id,) = daemon.enqueue("true", hold=True)
        with (
            Client(daemon.socket, token=token.text) as client,
            pytest.raises(RequestRefused, match="the token has expired"),
        ):
            client.call(Wait(ids=[job_id]), Waited, timeout_ms=20_000)
        assert [] == own.call(ListTokens(), Tokens).tokens
    wait_until(lambda: '"why":"expired"' in daemon.log)
    daemon.restart()
    with pytest.raises(RequestRefused, match="unknown, revoked or expired"):
        Client(daemon.socket, token=token.text)


def test_tokens_outlive_the_daemon(daemon: DaemonProcess) -> None:
    """
    Killed or stopped: what was answered holds, be it a new token or that one was revoked. The text
    is in no file and no log.
    """
    with daemon.client() as own:
        kept, revoked = make(own, "read"), make(own, "read")
        own.call(RevokeToken(id=revoked.token.id), Done)
    for end in (daemon.kill, daemon.stop):
        end()
        daemon.start()
        with Client(daemon.socket, token=kept.text) as client:
            (listed,) = client.call(ListTokens(), Tokens).tokens
            assert (kept.token.id, True) == (listed.id, listed.last_used_at is not None)
        with pytest.raises(RequestRefused):
            Client(daemon.socket, token=revoked.text)
    secret = kept.text.split("_", 2)[2].encode()
    for folder, _, names in os.walk(daemon.directory):
        for name in names:
            path = f"{folder}/{name}"
            if os.path.isfile(path):
                with open(path, "rb") as file:
                    assert secret not in file.read(), path


def test_the_log_says_who_made_and_revoked(daemon: DaemonProcess) -> None:
    """
    Making, revoking and refusing leave a line with the token's id; never its text.
    """
    with daemon.client() as own:
        token = make(own, "read", "submit")
        own.call(RevokeToken(id=token.token.id), Done)
    with pytest.raises(RequestRefused):
        Client(daemon.socket, token=token.text)
    wait_until(lambda: "token_refused" in daemon.log)
    lines = re.findall(r'{.*"token":"(\w+)".*"event":"(\w+)"', daemon.log)
    assert [(token.token.id, "token_made"), (token.token.id, "token_forgotten")] == lines


# --- the machine's queue -----------------------------------------------------------------------


def token_of(user: str, path: str, *scopes: Scope) -> str:
    """
    Have an account make a token for itself.
    """
    os.seteuid(pwd.getpwnam(user).pw_uid)
    try:
        client = Client(path)
    finally:
        os.seteuid(0)
    with client:
        return make(client, *(scopes or ("read", "submit", "manage"))).text


@as_root
def test_two_users_tokens_never_see_each_others_jobs(machine: DaemonProcess) -> None:
    """
    Over connections that root opens for both, as a gateway would: each has its own jobs, under the
    same id, and by no request, selection or watch one of the other's.
    """
    users = ("daemon", "bin")
    clients = {user: Client(machine.socket, token=token_of(user, machine.socket)) for user in users}
    for user, client in clients.items():
        assert client.welcome is not None
        assert (user, False) == (client.welcome.user, client.welcome.admin)
        client.enqueue([JobSpec(command=f"echo {user}", id="mine", hold=True)], env={}, cwd="/")
    for number, (user, client) in enumerate(clients.items(), 1):
        assert [(number, user)] == [
            (job.number, job.user) for job in client.call(List(), Jobs).jobs
        ]
        other = str(3 - number)
        for request in (List(ids=[other]), Logs(id=other), Wait(ids=[other]), Watch(ids=[other])):
            assert code_of(client, request) == "not_found", request
        tokens = client.call(ListTokens(), Tokens).tokens
        assert [user] == [token.user for token in tokens]
        assert code_of(client, SetConfig(key="workers", value=1)) == "denied"
    watching, acting = clients.values()
    watching.send(Watch())
    watching.receive(Changed)
    acting.enqueue([JobSpec(command="true", hold=True)], env={}, cwd="/")
    # What the other did came first; what is heard of is one's own.
    with Client(machine.socket, token=token_of("daemon", machine.socket)) as own:
        own.enqueue([JobSpec(command="true", id="heard", hold=True)], env={}, cwd="/")
    assert ["heard"] == [each.id for each in watching.receive(Changed).changes]
    for client in clients.values():
        client.close()


@as_root
def test_admins_and_others(machine: DaemonProcess) -> None:
    """
    An admin makes a token for another account, which is that account's and in its list; a member
    cannot. An admin's own token is an admin's, within its scopes.
    """
    with Client(machine.socket) as root:
        made = root.call(CreateToken(scopes=["submit"], user="daemon"), TokenCreated)
        own = make(root, "read")
    assert ("daemon", "root") == (made.token.user, made.token.created_by)
    with Client(machine.socket, token=made.text) as client:
        client.enqueue([JobSpec(command="true", hold=True)], env={}, cwd="/")
    with Client(machine.socket, token=own.text) as client:
        (job,) = client.call(List(), Jobs).jobs
        assert job.user == "daemon"
        assert code_of(client, RevokeToken(id=made.token.id)) == "denied"
    manager = token_of("daemon", machine.socket, "read", "manage")
    with Client(machine.socket, token=manager) as client:
        listed = client.call(ListTokens(), Tokens).tokens
        assert [made.token.id, manager.split("_")[1]] == [each.id for each in listed][::-1]
        assert code_of(client, RevokeToken(id=own.token.id)) == "not_found"
        assert client.call(RevokeToken(id=made.token.id), Done).durable


# --- any order ---------------------------------------------------------------------------------


def test_a_request_sent_with_the_token_is_its_accounts(daemon: DaemonProcess) -> None:
    """
    A client that does not wait for the welcome is answered all the same; a bad token ends the
    connection before anything that follows it is done.
    """
    with daemon.client() as own:
        text = make(own, "submit").text
    enqueue = pack_frame(encode(Enqueue(call=1, jobs=[JobSpec(command="true", hold=True)])))
    for token, expected in ((text, [Welcome, Enqueued]), (f"{text[:-4]}xxxx", [Refused])):
        raw = Raw(daemon.socket)
        raw.send(pack_frame(encode(Hello(protocol=PROTOCOL_VERSION, token=token))) + enqueue)
        assert expected == [type(raw.receive()) for _ in expected]
        if expected == [Refused]:
            assert raw.receive() is None
        raw.close()
    assert daemon.status().jobs["held"] == 1
