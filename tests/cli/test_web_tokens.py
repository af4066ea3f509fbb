"""
`queuectl web token`: made, listed and revoked on the command line.
"""

import re

import pytest
from conftest import Shell

from queuectl.cli import find_command
from queuectl.client import Client
from queuectl.errors import RequestRefused, UsageError
from queuectl.protocol import Status, StatusReport

TOKEN = re.compile(r"qctl_([0-9a-f]{10})_[A-Za-z0-9_-]{43}")


def test_a_token_is_made_listed_and_revoked(shared: Shell) -> None:
    """
    It is printed once, with a word about that; the list has everything else; what was revoked is
    gone.
    """
    made = shared("web", "token", "create", "laptop", "--scope", "read,submit", "--expires", "30d")
    assert (0, "queuectl: keep the token: it is told only now\n") == (made.code, made.err)
    found = TOKEN.search(made.out)
    assert found is not None, made.out
    token, token_id = found[0], found[1]
    assert f"id       {token_id}\nscopes   read, submit\nexpires  " in made.out
    with Client(shared.daemon.socket, token=token) as client:
        assert client.call(Status(), StatusReport).daemon.pid == shared.daemon.pid
    listed = shared.ok("web", "token", "list")
    assert token_id in listed
    assert "laptop" in listed
    assert token.split("_", 2)[2] not in listed
    assert shared.ok("web", "token", "revoke", token_id) == f"revoked {token_id}"
    assert token_id not in shared.ok("web", "token", "list")
    with pytest.raises(RequestRefused, match="revoked or expired"):
        Client(shared.daemon.socket, token=token)


def test_tokens_for_programs(shared: Shell) -> None:
    """
    --quiet prints the token, or ids, and nothing else; --json documents.
    """
    token = shared.ok("web", "token", "create", "-q")
    found = TOKEN.fullmatch(token)
    assert found is not None
    assert found[1] in shared.ok("web", "token", "list", "-q").split()
    made = shared("web", "token", "create", "ci", "--scope", "submit", "--json")
    assert (0, "") == (made.code, made.err)
    document = made.json
    text = document.pop("token")
    assert text.startswith(f"qctl_{document['id']}_")
    assert ("ci", ["submit"], None) == (
        document["name"],
        document["scopes"],
        document["expires_at"],
    )
    (listed,) = [
        each
        for each in shared("web", "token", "list", "--json").json
        if each["id"] == document["id"]
    ]
    assert document == listed
    both = shared("web", "token", "revoke", found[1], document["id"], "--json")
    assert {"revoked": [found[1], document["id"]]} == both.json


def test_revoking_what_is_not_there(shared: Shell) -> None:
    """
    It is named, and the others are revoked all the same.
    """
    token_id = shared.ok("web", "token", "create", "-q").split("_")[1]
    outcome = shared("web", "token", "revoke", "0000000000", token_id)
    assert (3, f"revoked {token_id}\n") == (outcome.code, outcome.out)
    assert outcome.err.startswith("queuectl: no token '0000000000'; see queuectl web token list")


@pytest.mark.parametrize(
    ("options", "rule"),
    [
        (["--scope", "read,everything"], "--scope: must be some of read,submit,manage"),
        (["--scope", ""], "--scope: must be some of"),
        (["--expires", "soon"], "--expires: must be a duration such as"),
        (["--expires", "0s"], "lifetime_ms must be between 1"),
        (["--user", "no-such-account"], "user must be an account of this host"),
        (["one", "two"], "web token create: does not take 'two'"),
        (["x" * 129], "name must be at most 128 characters"),
    ],
)
def test_a_token_that_breaks_a_rule(shared: Shell, options: list[str], rule: str) -> None:
    """
    Exit code 2, one line that says the rule.
    """
    outcome = shared("web", "token", "create", *options)
    assert (2, "") == (outcome.code, outcome.out)
    assert outcome.err.startswith(f"queuectl: {rule}"), outcome.err
    assert outcome.err.count("\n") == 1


@pytest.mark.parametrize("words", ["web token create x", "web token list", "web --port 1", "web"])
def test_commands_of_one_two_and_three_words(words: str) -> None:
    """
    The longest name is meant; what comes after it is not part of it.
    """
    command, rest = find_command(words.split())
    assert [*command.words, *rest] == words.split()
    assert all(word in ("x", "--port", "1") for word in rest)


@pytest.mark.parametrize(
    ("words", "wrong"),
    [
        ("web token", "web token what: one of create, list, revoke; see `queuectl help web token`"),
        ("web token mint", "unknown command web token 'mint': one of create, list, revoke;"),
        ("worker", "worker what: one of start, stop, list; see `queuectl help worker`"),
        ("workers token", "unknown command worker 'token': one of start, stop, list;"),
    ],
)
def test_a_group_of_commands_is_no_command(words: str, wrong: str) -> None:
    """
    What may follow is said.
    """
    with pytest.raises(UsageError) as raised:
        find_command(words.split())
    assert str(raised.value).startswith(wrong)


def test_help_of_a_group(shared: Shell) -> None:
    """
    By `help`, and by --help behind the group's words.
    """
    shown = shared.ok("help", "web", "token")
    for word in ("create [OPTIONS] [NAME]", "list [OPTIONS]", "revoke ID..."):
        assert f"queuectl web token {word}\n" in shown
    assert shown == shared.ok("web", "token", "--help")
    assert "--expires DURATION" in shared.ok("help", "web", "token", "create")
