"""
Whose a new job is, and which of the submitter's variables go with it.

A job is its submitter's unless it names another account, which is for admins. Such a job belongs to
that account in everything: it runs as it, the account sees and manages it, its id is one of the
account's. To the admin it is another's job from then on, known by number. What describes the
admin's own session stays behind: the runner knows the account's HOME, SHELL and a PATH, and the
directory is the account's home unless the request names one.
"""

from msgspec import MsgspecError, Raw, Struct
from msgspec.msgpack import Decoder

from queuectld.core.admission import check_env, malformed, shorten
from queuectld.core.host import Account, Host
from queuectld.core.peer import Owner, Peer
from queuectld.core.records import EnvironmentStored
from queuectld.core.refusal import Refusal
from queuectld.core.state import State

#: Variables that say who and where the submitter is.
PERSONAL = frozenset({"PATH", "HOME", "USER", "LOGNAME", "SHELL", "XDG_RUNTIME_DIR"})


class _Request(Struct):
    """
    The one field of a request that is unpacked here, so that an error names it as it names others.
    """

    env: dict[str, str]


_ENV_FOLLOWS = b"\x81\xa3env"  # a map of one field, named env
_decode_request = Decoder(_Request).decode


def owner_of(peer: Peer, host: Host, name: str) -> Owner:
    """
    Return whose a job is that *peer* enqueues for the account *name*. Raises Refusal.
    """
    if peer.user and name == peer.user:
        return Owner(peer)
    if not peer.admin:
        raise Refusal(
            "denied",
            "user is for root and members of the group queuectl-admin; "
            "leave it out: the job is your own",
            "user",
        )
    account = host.accounts.get(name)
    if account is None:
        raise Refusal("usage", f"user must be an account of this host, not {shorten(name)}", "user")
    if account.uid == peer.uid:
        return Owner(peer)
    if peer.uid is None:
        raise Refusal(
            "denied",
            "this queue is one account's and runs its jobs alone; "
            "for others enqueue in the machine's queue (--socket /run/queuectl/queuectl.sock)",
            "user",
        )
    return Owner(Peer(account.uid, account.user), _directory(account))


def _directory(account: Account) -> str:
    return account.home if account.home.startswith("/") else "/"


class Environments(Struct, gc=False):
    """
    The variables that the jobs of one request share: the submitter's, and what is left of them for
    other accounts, each of which has its own.
    """

    state: State
    packed: Raw
    #: The id of the submitter's.
    own_id: int
    #: Those that are not stored yet.
    new: list[EnvironmentStored] = []
    #: The ids of what is left for others, by the uid of whose they are.
    left_ids: dict[int | None, int] = {}

    @property
    def env(self) -> dict[str, str]:
        """
        The submitter's variables, unpacked when they are asked for.
        """
        return _unpack(self.packed)

    def id_for(self, owner: Owner) -> int:
        """
        Return the id of what the jobs of *owner* get, who is not the submitter. Raises Refusal.
        """
        uid = owner.peer.uid
        if uid not in self.left_ids:
            left = {name: value for name, value in self.env.items() if name not in PERSONAL}
            known = self.state.env_id(left, uid)
            self.left_ids[uid] = self._store(left, uid) if known is None else known
        return self.left_ids[uid]

    def _store(self, env: dict[str, str], uid: int | None) -> int:
        check_env(env)
        env_id = self.state.next_env_id + len(self.new)
        self.new.append(EnvironmentStored(env_id, env, uid))
        return env_id


def environments_of(state: State, peer: Peer, packed: Raw) -> Environments:
    """
    Return the variables that the jobs of one request of *peer* share. Raises Refusal.
    """
    # Most requests bring the variables of the one before: these bytes were unpacked and checked.
    seen = state.env_seen
    if seen is not None and seen[0] == packed and seen[1] == peer.uid:
        return Environments(state, packed, seen[2])
    env = _unpack(packed)
    own_id = state.env_id(env, peer.uid)
    if own_id is not None:
        # A copy: what was received is one piece of memory, jobs and all.
        state.env_seen = (packed.copy(), peer.uid, own_id)
        return Environments(state, packed, own_id)
    check_env(env)
    env_id = state.next_env_id
    return Environments(state, packed, env_id, [EnvironmentStored(env_id, env, peer.uid)])


def _unpack(packed: Raw) -> dict[str, str]:
    try:
        return _decode_request(_ENV_FOLLOWS + bytes(packed)).env
    except (MsgspecError, UnicodeDecodeError) as error:
        raise Refusal("usage", malformed(error), "env") from None
