"""
What a connection that brought a token may do: one table, asked for every request in one place.

A scope takes away; it gives nothing. Within it the token's account is what it is: a member sees its
own jobs, and what is for admins stays for admins.
"""

from queuectl.editing import Edit
from queuectl.measures import GetHistory, GetMetrics
from queuectl.protocol import (
    Act,
    DeleteQueue,
    Enqueue,
    GetConfig,
    List,
    ListQueues,
    ListWorkers,
    Logs,
    Message,
    SetConfig,
    SetQueue,
    Show,
    Shutdown,
    StartWorkers,
    Status,
    StopWorkers,
    Wait,
)
from queuectl.tokens import CreateToken, ListTokens, RevokeToken, Scope
from queuectl.watching import Watch
from queuectld.core.peer import Peer
from queuectld.core.refusal import Refusal
from queuectld.core.state import State

#: The scope that each request needs; None: no token is enough.
SCOPE_OF: dict[type[Message], Scope | None] = {
    List: "read",
    Show: "read",
    Logs: "read",
    Wait: "read",
    Status: "read",
    ListWorkers: "read",
    GetConfig: "read",
    ListQueues: "read",
    ListTokens: "read",
    Watch: "read",
    GetMetrics: "read",
    GetHistory: "read",
    Enqueue: "submit",
    Act: "manage",
    Edit: "manage",
    StartWorkers: "manage",
    StopWorkers: "manage",
    SetConfig: "manage",
    SetQueue: "manage",
    DeleteQueue: "manage",
    RevokeToken: "manage",
    Shutdown: "manage",
    CreateToken: None,
}


def permit(state: State, peer: Peer, request_type: type[Message], now: int) -> None:
    """
    Refuse a request that the connection's token does not allow, or not any more. Raises Refusal.
    """
    if peer.token is None:
        return
    if not state.tokens.is_live(peer.token, now):
        raise Refusal("denied", "the token was revoked or has expired")
    scope = SCOPE_OF[request_type]
    if scope is None:
        raise Refusal(
            "denied", "a token makes no tokens; on the host itself: queuectl web token create"
        )
    if scope not in peer.scopes:
        raise Refusal("denied", f"this needs the scope {scope}, which the token does not have")
    state.tokens.used(peer.token, now)
