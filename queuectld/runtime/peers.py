"""
Who is on the other end of a connection: the kernel's word, and nothing else.

SO_PEERCRED holds the ids that the peer had when it connected. identify() returns them or refuses;
no request, variable or name stands for them. In user mode the only peers are the account itself and
root. In system mode every account that may open the socket is one; root, the daemon's own account
and the members of ADMIN_GROUP are admins.
"""

import grp
import os
import pwd
import socket
import stat
import struct

from queuectld.core.peer import EVERYBODY, Peer

ADMIN_GROUP = "queuectl-admin"
_CREDENTIALS = struct.Struct("=iII")  # struct ucred: pid, uid, gid
_OVERFLOW_UID = 65534  # what an id looks like that has no name in our user namespace


class PeerRefused(Exception):
    """
    Nobody is served over this connection; the message says why.
    """


def identify(connected: socket.socket, *, system: bool) -> Peer:
    """
    Return who connected. Raises PeerRefused, also for whatever goes wrong while finding out.
    """
    uid = peer_uid(connected)
    if not system:
        if uid not in (os.geteuid(), 0):
            raise PeerRefused("this daemon serves the account that it runs under, and root")
        return EVERYBODY
    if uid == _OVERFLOW_UID:
        raise PeerRefused("the account of this connection has no id here")
    return _account(uid)[0]


def identify_account(uid: int, user: str | None, socket_path: str) -> Peer:
    """
    Return the account with this id as if it had connected, if it is still called *user* and may
    open the socket. Raises PeerRefused.
    """
    peer, groups = _account(uid)
    if peer.user != user:
        raise PeerRefused(f"the account {user} has another name now, or its id is another's")
    if not _may_open(socket_path, uid, groups):
        raise PeerRefused(f"the account {user} is not in the group that may use this queue")
    return peer


def _may_open(path: str, uid: int, groups: list[int]) -> bool:
    """
    Whether the mode of the socket lets an account connect.
    """
    try:
        found = os.stat(path)
    except OSError:
        return False
    if uid in (0, found.st_uid):
        return True
    needed = stat.S_IWGRP if found.st_gid in groups else stat.S_IWOTH
    return bool(found.st_mode & needed)


def _account(uid: int) -> tuple[Peer, list[int]]:
    """
    Return an account with its groups. Raises PeerRefused.
    """
    try:
        account = pwd.getpwuid(uid)
        groups = os.getgrouplist(account.pw_name, account.pw_gid)
        account.pw_name.encode()
    except (KeyError, OSError) as error:
        raise PeerRefused(f"there is no account with the id {uid}") from error
    except UnicodeEncodeError as error:
        raise PeerRefused(f"the account with the id {uid} has a name that is no UTF-8") from error
    admin = uid in (0, os.geteuid()) or _admin_gid() in groups
    return Peer(uid, account.pw_name, admin), groups


def peer_uid(connected: socket.socket) -> int:
    """
    Return the uid that connected. Raises PeerRefused.
    """
    try:
        data = connected.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        _pid, uid, _gid = _CREDENTIALS.unpack(data)
    except (OSError, struct.error) as error:
        raise PeerRefused("the kernel does not say who connected") from error
    return int(uid)


def _admin_gid() -> int | None:
    try:
        return grp.getgrnam(ADMIN_GROUP).gr_gid
    except KeyError:
        return None
