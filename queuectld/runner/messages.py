"""
What queuectld and the runner say to each other: one message per SOCK_SEQPACKET packet, fixed
layouts, little-endian. Every message opens with the same 16 bytes; padding is sent as zero and
is not looked at; a message of a wrong length is refused, never guessed at.

    head      type u8, 3 padding, attempt u32, job u64     (0 and 0 where no run is meant)

    type      after the head                               meaning
    daemon to runner
    1 HELLO   version u32, epoch u64                       First on every connection. A lower epoch
                                                           than any seen is refused by closing; any
                                                           other closes the older connection.
    2 START   uid u32, umask u32, body_len u32, body       Start this attempt as uid, or, with
                                                           UID_OWN, as the runner itself.
                                                           Descriptors, by SCM_RIGHTS: the output
                                                           file, and, when body_len >
                                                           BODY_INLINE_BYTES_MAX, a memfd that
                                                           holds the body instead.
    3 SIGNAL  signo u32                                    To every process of the run's session.
    4 ACK                                                  The exit is on disk: forget it.
    5 STOP    grace_ms u32                                 End every run, then exit.
    runner to daemon
    16 WELCOME version u32, pid u32, started_at u64,       Answers HELLO. Every START since
               ledger_epoch u64, length u16, version text  ledger_epoch, in this boot, is known.
    17 RUNNING pid u32, started_at u64                     A run lives some time after its START;
                                                           after WELCOME, one for each live run.
                                                           (For one that has a pid but is not
                                                           executed yet, a REFUSED follows, an
                                                           EXITED, or a second RUNNING.)
    18 EXITED  status i32, flags u8, 3 padding,            A run ended, with or without a RUNNING
               started_at, ended_at, utime_us, stime_us,   before it; after WELCOME, one for each
               maxrss_kib u64 each                         exit without ACK. Flag 1: the status is
                                                           known. Flag 2: the usage is known.
    19 REFUSED errno u32, stage u8, reason u8, 2 padding   A START that did not become a process.
                                                           The reason is 0 but for ACCOUNT and
                                                           POLICY, where errno is.
    20 READY                                               End of the list after WELCOME.

    body      argv count u32, env count u32, length u32 of the texts; the texts, each ended by a
              zero byte: cwd, each of argv, each "NAME=VALUE", user; the script, to the end. An
              empty script means none: then argv[0] is the program, searched in the job's own PATH.
              With a script, argv holds only its parameters. user is the name that uid had when
              the job was submitted, and empty with UID_OWN.

status is as wait(2) gives it. Times are ms since the epoch.
"""

import os
from collections.abc import Mapping, Sequence
from errno import EINVAL
from struct import Struct
from typing import NamedTuple

VERSION = 2

#: In the place of a uid: the account that the runner itself runs under.
UID_OWN = 0xFFFFFFFF

#: Larger bodies travel in a memfd: a packet must fit the socket's default buffer of 208 KiB.
BODY_INLINE_BYTES_MAX = 64 * 1024
#: The kernel takes 2 MiB of arguments and environment by default; the rest is room for a script.
BODY_BYTES_MAX = 8 * 1024 * 1024
MESSAGE_BYTES_MAX = BODY_INLINE_BYTES_MAX + 28
SIGNAL_MAX = 64
#: The kernel's largest error number, and more than a process can use of anything: what is beyond
#: them was not said by a runner, and would not fit where the daemon writes it down.
ERRNO_MAX = 4095
USAGE_MAX = 2**53

HELLO, START, SIGNAL, ACK, STOP = range(1, 6)
WELCOME, RUNNING, EXITED, REFUSED, READY = range(16, 21)

#: Where a START ended. SPAWN: the host had no room for a process or its record. SWITCH: the
#: process could not be given the ids of the account. ACCOUNT, POLICY: see the reason.
CWD, EXEC, SCRIPT, SPAWN, DUPLICATE, STOPPING, BODY, SWITCH, ACCOUNT, POLICY = range(1, 11)
STAGES = {
    CWD: "cwd",
    EXEC: "exec",
    SCRIPT: "script",
    SPAWN: "spawn",
    DUPLICATE: "duplicate",
    STOPPING: "stopping",
    BODY: "body",
    SWITCH: "switch",
    ACCOUNT: "account",
    POLICY: "policy",
}

#: Why an account cannot have jobs, at the stage ACCOUNT.
GONE, RECYCLED, LOCKED, EXPIRED, SHELL = range(1, 6)
#: Why an account may not have jobs, at the stage POLICY.
BELOW_UID_MIN, ROOT, DENIED_USER, DENIED_GROUP, NOT_ALLOWED, NO_SWITCH = range(16, 22)

#: What people are told of a reason; `user` is the account's name as in START.
REASONS = {
    GONE: "account {user} was deleted",
    RECYCLED: "account {user} was renamed, or its uid was given to another",
    LOCKED: "account {user} is locked",
    EXPIRED: "account {user} has expired",
    SHELL: "account {user} has no login shell, and the policy does not name it in allow_users",
    BELOW_UID_MIN: "account {user} is a system account (uid_min), and the policy does not name it"
    " in allow_users",
    ROOT: "the policy allows no jobs of root (allow_root)",
    DENIED_USER: "the policy denies jobs of account {user} (deny_users)",
    DENIED_GROUP: "the policy denies jobs of a group that account {user} is in (deny_groups)",
    NOT_ALLOWED: "account {user} is not among those the policy allows (allow_users, allow_groups)",
    NO_SWITCH: "the runner starts jobs of its own account only, and account {user} is another",
}
_REASONS_OF = {
    ACCOUNT: range(GONE, SHELL + 1),
    POLICY: range(BELOW_UID_MIN, NO_SWITCH + 1),
}
_NO_REASON = range(1)

_STATUS_KNOWN = 1
_USAGE_KNOWN = 2

_HEAD = Struct("<B3xIQ")
_HELLO = Struct("<B3xIQIQ")
_START = Struct("<B3xIQIII")
_U32 = Struct("<B3xIQI")  # SIGNAL and STOP
_WELCOME = Struct("<B3xIQIIQQH")
_RUNNING = Struct("<B3xIQIQ")
_EXITED = Struct("<B3xIQiB3xQQQQQ")
_REFUSED = Struct("<B3xIQIBB2x")
_BODY = Struct("<III")
_UTF8 = ("utf-8", "surrogateescape")


class MessageError(Exception):
    """
    The bytes are not a message of this table: the peer speaks something else.
    """


class BodyError(Exception):
    """
    The body of a START is malformed, too large, or says what no process can be given.
    """


class Hello(NamedTuple):
    version: int
    epoch: int


class Start(NamedTuple):
    job: int
    attempt: int
    uid: int
    umask: int
    body_bytes: int
    body: bytes | None  # None: in the memfd


class Signal(NamedTuple):
    job: int
    attempt: int
    signo: int


class Ack(NamedTuple):
    job: int
    attempt: int


class Stop(NamedTuple):
    grace_ms: int


class Welcome(NamedTuple):
    version: int
    pid: int
    started_at: int
    ledger_epoch: int
    program_version: str


class Running(NamedTuple):
    job: int
    attempt: int
    pid: int
    started_at: int


class Exited(NamedTuple):
    """
    The end of a run. `status` is as wait(2) gives it, and means nothing unless `known`; the
    usage is that of the leader and the children it waited for, and all 0 unless `usage_known`.
    """

    job: int
    attempt: int
    status: int
    known: bool
    started_at: int
    ended_at: int
    usage_known: bool
    utime_us: int
    stime_us: int
    maxrss_kib: int


class Refused(NamedTuple):
    job: int
    attempt: int
    errno: int
    stage: int
    reason: int = 0

    def explain(self, user: str) -> str:
        """
        What to tell people of a refusal at ACCOUNT or POLICY; `user` is the account's name.
        """
        return REASONS[self.reason].format(user=user)


class Ready(NamedTuple):
    pass


class Body(NamedTuple):
    cwd: bytes
    argv: list[bytes]
    env: dict[bytes, bytes]
    script: bytes
    user: bytes


Request = Hello | Start | Signal | Ack | Stop
Event = Welcome | Running | Exited | Refused | Ready


def pack_hello(epoch: int, version: int = VERSION) -> bytes:
    """
    Greet the runner as the daemon of `epoch` (1 or more).
    """
    assert epoch >= 1
    return _HELLO.pack(HELLO, 0, 0, version, epoch)


def pack_start(job: int, attempt: int, umask: int, body: bytes, uid: int = UID_OWN) -> bytes:
    """
    Start an attempt as `uid`; `body` is from `pack_body`. Send the output file's descriptor with
    it, and, when the body is larger than `BODY_INLINE_BYTES_MAX`, that of a `memfd` of it after
    it.
    """
    assert len(body) <= BODY_BYTES_MAX
    head = _START.pack(START, attempt, job, uid, umask, len(body))
    return head + body if len(body) <= BODY_INLINE_BYTES_MAX else head


def pack_signal(job: int, attempt: int, signo: int) -> bytes:
    """
    Signal a run's session. After SIGTERM or SIGKILL the run's EXITED waits for its last process.
    """
    return _U32.pack(SIGNAL, attempt, job, signo)


def pack_ack(job: int, attempt: int) -> bytes:
    """
    Tell the runner that this exit is on disk.
    """
    return _HEAD.pack(ACK, attempt, job)


def pack_stop(grace_ms: int) -> bytes:
    """
    Have every run terminated, killed after `grace_ms`, and the runner exit.
    """
    return _U32.pack(STOP, 0, 0, grace_ms)


def pack_welcome(welcome: Welcome) -> bytes:
    """
    Answer a HELLO.
    """
    version, pid, started_at, ledger_epoch, program_version = welcome
    text = program_version.encode(*_UTF8)
    head = _WELCOME.pack(WELCOME, 0, 0, version, pid, started_at, ledger_epoch, len(text))
    return head + text


def pack_running(job: int, attempt: int, pid: int, started_at: int) -> bytes:
    """
    Report a live run.
    """
    return _RUNNING.pack(RUNNING, attempt, job, pid, started_at)


def pack_exited(exited: Exited) -> bytes:
    """
    Report an end.
    """
    job, attempt, status, known, started_at, ended_at, usage_known, *usage = exited
    flags = _STATUS_KNOWN * known | _USAGE_KNOWN * usage_known
    return _EXITED.pack(EXITED, attempt, job, status, flags, started_at, ended_at, *usage)


def pack_refused(job: int, attempt: int, errno: int, stage: int, reason: int = 0) -> bytes:
    """
    Report a START that did not become a process.
    """
    assert stage in STAGES
    assert reason in _REASONS_OF.get(stage, _NO_REASON)
    return _REFUSED.pack(REFUSED, attempt, job, errno, stage, reason)


def pack_ready() -> bytes:
    """
    End the list that follows WELCOME.
    """
    return _HEAD.pack(READY, 0, 0)


def unpack_request(data: bytes) -> Request:
    """
    Read one message of the daemon. Raises `MessageError`.
    """
    size = len(data)
    kind = data[0] if data else 0
    if kind == START and size >= _START.size:
        _, attempt, job, uid, umask, body_bytes = _START.unpack_from(data)
        inline_bytes = body_bytes if body_bytes <= BODY_INLINE_BYTES_MAX else 0
        if size == _START.size + inline_bytes and body_bytes <= BODY_BYTES_MAX and umask <= 0o777:
            body = data[_START.size :] if body_bytes <= BODY_INLINE_BYTES_MAX else None
            return Start(job, attempt, uid, umask, body_bytes, body)
    elif kind == ACK and size == _HEAD.size:
        _, attempt, job = _HEAD.unpack(data)
        return Ack(job, attempt)
    elif kind == SIGNAL and size == _U32.size:
        _, attempt, job, signo = _U32.unpack(data)
        if 1 <= signo <= SIGNAL_MAX:
            return Signal(job, attempt, signo)
    elif kind == HELLO and size == _HELLO.size:
        _, _, _, version, epoch = _HELLO.unpack(data)
        if epoch >= 1:
            return Hello(version, epoch)
    elif kind == STOP and size == _U32.size:
        return Stop(_U32.unpack(data)[3])
    raise MessageError(f"not a request: type {kind}, {size} bytes")


def unpack_event(data: bytes) -> Event:
    """
    Read one message of the runner. Raises `MessageError`.
    """
    size = len(data)
    kind = data[0] if data else 0
    if kind == EXITED and size == _EXITED.size:
        _, attempt, job, status, flags, started_at, ended_at, *usage = _EXITED.unpack(data)
        known, usage_known = bool(flags & _STATUS_KNOWN), bool(flags & _USAGE_KNOWN)
        if max(usage) <= USAGE_MAX:
            return Exited(job, attempt, status, known, started_at, ended_at, usage_known, *usage)
    if kind == RUNNING and size == _RUNNING.size:
        _, attempt, job, pid, started_at = _RUNNING.unpack(data)
        return Running(job, attempt, pid, started_at)
    if kind == REFUSED and size == _REFUSED.size:
        _, attempt, job, errno, stage, reason = _REFUSED.unpack(data)
        has_reason = stage in STAGES and reason in _REASONS_OF.get(stage, _NO_REASON)
        if has_reason and errno <= ERRNO_MAX:
            return Refused(job, attempt, errno, stage, reason)
    if kind == READY and size == _HEAD.size:
        return Ready()
    if kind == WELCOME and size >= _WELCOME.size:
        _, _, _, version, pid, started_at, ledger_epoch, text_bytes = _WELCOME.unpack_from(data)
        if size == _WELCOME.size + text_bytes:
            text = data[_WELCOME.size :].decode(errors="replace")
            return Welcome(version, pid, started_at, ledger_epoch, text)
    raise MessageError(f"not an event: type {kind}, {size} bytes")


def pack_body(
    cwd: str, argv: Sequence[str], env: Mapping[str, str], script: str = "", user: str = ""
) -> bytes:
    """
    Say what to execute, for `pack_start`, and the name of the account. Bytes that were not text
    when they were read come as surrogate escapes. Raises `BodyError` for everything that
    `unpack_body` would refuse.
    """
    texts = [cwd, *argv, *map("=".join, env.items()), user]
    data = ("\0".join(texts) + "\0").encode(*_UTF8)
    if data.count(b"\0") != len(texts):
        raise BodyError("a text holds a zero byte")
    if not argv and not script:
        raise BodyError("neither a program nor a script")
    if "" in env or "=" in "".join(env):
        raise BodyError("an environment name is empty or holds '='")
    body = _BODY.pack(len(argv), len(env), len(data)) + data + script.encode(*_UTF8)
    if len(body) > BODY_BYTES_MAX:
        raise BodyError(f"{len(body)} bytes, of {BODY_BYTES_MAX} at most")
    return body


def unpack_body(body: bytes) -> Body:
    """
    Read what to execute. Raises `BodyError`; says nothing about whether it can be executed.
    """
    if len(body) > BODY_BYTES_MAX:
        raise BodyError(f"{len(body)} bytes, of {BODY_BYTES_MAX} at most")
    if len(body) < _BODY.size:
        raise BodyError("cut short")
    argv_count, env_count, texts_bytes = _BODY.unpack_from(body)
    script_at = _BODY.size + texts_bytes
    # The last text ends with a zero too, so there is one empty text more.
    cwd, *texts = body[_BODY.size : script_at].split(b"\0")
    if script_at > len(body) or len(texts) != argv_count + env_count + 2 or texts[-1]:
        raise BodyError("the texts are not those that were announced")
    argv = texts[:argv_count]
    script = body[script_at:]
    if not argv and not script:
        raise BodyError("neither a program nor a script")
    try:
        env = dict([setting.split(b"=", 1) for setting in texts[argv_count:-2]])
    except ValueError:
        raise BodyError("an environment setting has no '='") from None
    if b"" in env:
        raise BodyError("an environment setting has no name")
    return Body(cwd, argv, env, script, texts[-2])


def memfd(name: str, data: bytes, flags: int = 0) -> int:
    """
    Put data into a file that is nowhere; its descriptor, which the caller closes. Raises `OSError`.
    """
    try:
        fd = os.memfd_create(name, os.MFD_CLOEXEC | flags)
    except OSError as error:
        if error.errno != EINVAL:
            raise
        # Before Linux 6.3 every memfd may be executed, and the flag for it is unknown.
        fd = os.memfd_create(name, os.MFD_CLOEXEC)
    try:
        written_bytes = 0
        while written_bytes < len(data):
            written_bytes += os.pwrite(fd, data[written_bytes:], written_bytes)
    except OSError:
        os.close(fd)
        raise
    return fd
