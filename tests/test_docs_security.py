"""
The document of who may do what against the commands that there are and what the daemon refuses.
"""

from typing import get_args

from markdown_reader import Document, code_in, plain

from queuectl.commands.guide import all_commands
from queuectl.commands.web_tokens import token_document
from queuectl.errors import EXIT_CODES
from queuectl.messages import Request
from queuectl.protocol import SCOPES, Hello
from queuectl.tokens import Scope, TokenView
from queuectld.core.scopes import SCOPE_OF
from queuectld.runner.policy import Policy
from queuectld.runtime.peers import ADMIN_GROUP

SECURITY = Document("docs/security.md")
PROTOCOL = Document("docs/protocol.md")
#: The commands that send a request that is for admins only. Each is tried in tests/box.
REFUSED = {
    *("worker start", "worker stop", "worker stop --now", "queue set", "queue pause"),
    *("queue resume", "queue delete", "config set", "config unset", "daemon stop"),
    *("enqueue --priority 1", "enqueue --user NAME", "run --user NAME"),
    "web token create --user NAME",
}


def test_each_command_is_in_the_table() -> None:
    """
    Once each, in the order of the help; behind it what differs with one of its options.
    """
    rows = [code_in(row[0])[0].partition(" --") for row in SECURITY.table("Commands")]
    options = {
        command.name: {option.name for option in command.options} for command in all_commands()
    }
    assert list(options) == [command for command, dashes, _ in rows if not dashes]
    before = ""
    for command, dashes, option in rows:
        assert not dashes or command == before, command
        assert not dashes or option.split()[0] in options[command], option
        before = command


def _refused(row: list[str]) -> bool:
    return row[1].startswith("refused") and not row[1].endswith("file's mode")


def test_what_members_are_refused() -> None:
    """
    The table says it of these commands and of no other.
    """
    found = {code_in(row[0])[0] for row in SECURITY.table("Commands") if _refused(row)}
    assert REFUSED == found


def test_names_and_numbers() -> None:
    """
    Groups, exit codes and the policy's default are those of the code.
    """
    assert ADMIN_GROUP in code_in(SECURITY.table("People")[2][1])
    prose = SECURITY.section("Commands").prose
    assert f"exit code {EXIT_CODES['denied']}" in prose
    assert f"exit code {EXIT_CODES['not_found']}" in prose
    assert f"uid {Policy().uid_min}" in SECURITY.section("What runs").prose


def test_every_request_has_its_scope() -> None:
    """
    What a token allows is decided for each request, and said in the protocol.
    """
    requests = {*get_args(Request)} - {Hello}
    assert requests == set(SCOPE_OF)
    assert SCOPES == get_args(Scope)
    assert (*SCOPES, None) == tuple(dict.fromkeys(SCOPE_OF.values()))
    expected = {scope: [] for scope in SCOPE_OF.values()}
    for request, scope in SCOPE_OF.items():
        expected[scope].append(request.__struct_config__.tag)
    documented = {
        code_in(row[0])[0] if code_in(row[0]) else None: code_in(row[1])
        for row in PROTOCOL.table("Scopes")
    }
    assert {scope: sorted(tags) for scope, tags in expected.items()} == documented


def test_keys_of_a_token() -> None:
    """
    A token's JSON document has exactly the keys that are documented, in that order.
    """
    document = token_document(TokenView(id="0", name="", scopes=[], created_at=0))
    rows = Document("docs/commands.md").table("Token")
    assert list(document) == [plain(row[0]) for row in rows]
