"""
The runs: what is alive, what ended and is not acknowledged, and the way from one to the other.

    START  ->  INTENT in the ledger -> a process -> STARTED in the ledger -> RUNNING, if it lives on
    end    ->  wait4 -> EXIT in the ledger -> EXITED, again after every HELLO until ACK

Many runs end within ms. To tell of them twice would wake the daemon twice, which costs it as much
as the rest of a short job. So RUNNING is left to the second `look` that meets a run: one that had
ended by the first was seen to end in between. An EXITED alone says that the attempt ran, too.

A process under another account comes from a fork, and is not its program yet: until its report
is read it may still turn out REFUSED, and its leader is reaped without an EXIT.

Invariants
1. An attempt is in `_runs`, or in `_exits`, or unknown; a START of a known one is refused.
2. A run stays in `_runs`, and its leader stays unreaped, until its end is complete. So its pid,
   which also names its process group and session, cannot come to mean another process.
3. The end of a run that was told to stop (SIGTERM, SIGKILL) is complete when no process of its
   session is left. The end of any other is that of its leader; what it left behind is let be.

A run is watched by its pidfd. Where that cannot say it all (a session that outlives its leader,
an adopted leader that init has yet to reap, a run without a pidfd because descriptors ran out),
the run is unsettled. While there is such a run, or one that is untold, `look` has to be called
again and again.
"""

import errno
import os
import resource
import select
import signal
import stat
from collections.abc import Callable

from queuectld.runner import messages, process
from queuectld.runner.accounts import Account, Accounts
from queuectld.runner.adoption import find, resolve, traces
from queuectld.runner.clock import boottime_ns, monotonic_ms, now_ms
from queuectld.runner.connection import close_all
from queuectld.runner.executor import Executor
from queuectld.runner.fd_store import STORE_AFTER_MS, FdStore, name_of
from queuectld.runner.ledger import Key, Ledger, Started
from queuectld.runner.messages import Exited
from queuectld.runner.program import SpawnError
from queuectld.runner.renewal import Inheritance
from queuectld.runner.spawn import Spawner
from queuectld.runner.switch import Switcher, read_report

#: How long an adopted leader may stay a zombie before its status is given up: its parent is not us.
REAPED_MS = 5_000


class Run:
    """
    One live run.
    """

    __slots__ = (
        "gone_at",
        "is_child",
        "is_found",
        "is_killed",
        "is_stopping",
        "key",
        "pid",
        "pidfd",
        "refusal",
        "report_fd",
        "started_at",
    )

    def __init__(self, key: Key, pid: int, started_at: int, is_child: bool) -> None:
        self.key = key
        self.pid = pid
        self.started_at = started_at
        #: False when a runner before this one made the process: then init reaps it.
        self.is_child = is_child
        #: It may be what the run left behind: its end is not the run's.
        self.is_found = False
        self.pidfd = -1
        self.is_stopping = False
        self.is_killed = False
        #: When the leader was seen to be dead, in monotonic ms.
        self.gone_at: int | None = None
        #: Where the report of a forked child comes from; -1 once it was read, or there is none.
        self.report_fd = -1
        #: What it said: the leader is about to end without having become its program.
        self.refusal: SpawnError | None = None

    @property
    def name(self) -> str:
        """
        Its name where there is text only.
        """
        return name_of(*self.key, self.started_at)


class Runs:
    """
    The runs of one ledger. Pidfds and reports are watched in `epoll`; messages for the daemon, if
    there is one, go to `report`. `accounts` are those that may have jobs; without, only our own.
    `executor_fd` is the program that starts them, where there is one. `store` keeps their pidfds.
    """

    def __init__(
        self,
        epoll: select.epoll,
        ledger: Ledger,
        spawner: Spawner,
        report: Callable[[bytes], None],
        accounts: Accounts | None = None,
        executor_fd: int | None = None,
        store: FdStore | None = None,
    ) -> None:
        #: Set by `terminate`: nothing is started any more.
        self.is_stopping = False
        self._epoll = epoll
        self._ledger = ledger
        self._spawner = spawner
        self._accounts = accounts
        self._switcher: Switcher | Executor | None = None
        if executor_fd is not None:
            self._switcher = Executor(spawner, executor_fd)
        elif accounts is not None:
            self._switcher = Switcher(spawner)
        self._report = report
        self._store = store or FdStore("")
        self._reserve = process.Reserve()
        self._runs: dict[Key, Run] = {}
        self._by_pidfd: dict[int, Run] = {}
        self._by_report: dict[int, Run] = {}
        self._unsettled: dict[Key, Run] = {}
        #: Those of `_runs` that nobody was told of: whether a look has met them.
        self._untold: dict[Key, bool] = {}
        #: Packed EXITED messages without ACK.
        self._exits: dict[Key, bytes] = {}

    def __len__(self) -> int:
        return len(self._runs)

    @property
    def wants_look(self) -> bool:
        """
        Whether `look` has something to look at.
        """
        return bool(self._unsettled or self._untold)

    def announce(self) -> list[bytes]:
        """
        What a new daemon is told after WELCOME: RUNNING of the living, EXITED of the dead. Nobody
        is untold after it.
        """
        self._untold.clear()
        running = [
            messages.pack_running(*run.key, run.pid, run.started_at) for run in self._runs.values()
        ]
        return [*running, *self._exits.values()]

    def acknowledge(self, job: int, attempt: int) -> None:
        """
        Forget an exit. Nothing happens when there is none: it was announced twice, and the first
        ACK was enough.
        """
        if self._exits.pop((job, attempt), None) is not None:
            self._ledger.forget(job, attempt)
            self._store.remove((job, attempt))

    def signal(self, job: int, attempt: int, signo: int) -> None:
        """
        Signal a run. Nothing happens when there is none: it ended meanwhile.
        """
        run = self._runs.get((job, attempt))
        if run is not None:
            self._signal(run, signo)

    def terminate(self) -> None:
        """
        Start nothing any more, and ask every run to end.
        """
        self.is_stopping = True
        for run in self._runs.values():
            self._signal(run, signal.SIGTERM)

    def kill(self) -> None:
        """
        Kill every run.
        """
        for run in self._runs.values():
            self._signal(run, signal.SIGKILL)

    def take_event(self, fd: int) -> bool:
        """
        A descriptor became readable; False when it is none of the runs'.
        """
        run = self._by_report.get(fd)
        if run is not None:
            self._hear(run)
            return True
        run = self._by_pidfd.get(fd)
        if run is None:
            return False
        # The pidfd stays readable: watching it further would spin.
        self._epoll.unregister(fd)
        del self._by_pidfd[fd]
        self._unsettled[run.key] = run
        run.gone_at = monotonic_ms()
        self._settle([run])
        return True

    def look(self) -> None:
        """
        See whether unsettled runs have come to their end, and tell of those that live on.
        """
        if self._unsettled:
            self._settle(list(self._unsettled.values()))
        for key, was_met in list(self._untold.items()):
            if was_met:
                del self._untold[key]
                run = self._runs[key]
                self._report(messages.pack_running(*key, run.pid, run.started_at))
            else:
                self._untold[key] = True

    def start(self, request: messages.Start, fds: list[int], is_cut: bool) -> None:
        """
        Make a process of a START, or report REFUSED. `fds` came with it, those that were used up
        are removed; `is_cut` says that some were lost on the way. Raises `MessageError` when it
        has not the descriptors that it must have.
        """
        key = (request.job, request.attempt)
        try:
            made, report_fd = self._spawn(request, fds, is_cut)
        except SpawnError as error:
            self._refuse(key, error)
            return
        run = self._runs[key] = Run(key, made.pid, made.started_at, is_child=True)
        # The output belongs to the job now; its place in our table is the pidfd's.
        close_all(fds)
        self._ledger.start(made)
        self._watch(run)
        if report_fd < 0:
            self._untold[key] = False
        else:
            self._await_report(run, report_fd)

    def _refuse(self, key: Key, error: SpawnError) -> None:
        self._report(messages.pack_refused(*key, error.errno, error.stage, error.reason))

    def _spawn(self, request: messages.Start, fds: list[int], is_cut: bool) -> tuple[Started, int]:
        key = (request.job, request.attempt)
        if key in self._runs or key in self._exits:
            raise SpawnError(messages.DUPLICATE, errno.EEXIST)
        if is_cut:
            raise SpawnError(messages.SPAWN, errno.EMFILE)
        if len(fds) != (2 if request.body is None else 1):
            raise messages.MessageError(f"START with {len(fds)} descriptors")
        if self.is_stopping:
            raise SpawnError(messages.STOPPING, errno.ESHUTDOWN)
        body = _unpack_body(request, fds)
        account = self._admit(request.uid, body.user)
        started_at, made_from_ns, uid = now_ms(), boottime_ns(), request.uid
        try:
            self._ledger.intend(*key, started_at, made_from_ns, uid, *traces(fds[0], body.env))
        except OSError as error:
            raise SpawnError(messages.SPAWN, error.errno or errno.EIO) from None
        try:
            if account is None:
                pid, report_fd = self._spawner.spawn(body, request.umask, fds[0]), -1
            else:
                assert self._switcher is not None
                pid, report_fd = self._switcher.start(account, body, request.umask, fds[0])
        except SpawnError:
            self._ledger.forget(*key)
            raise
        return Started(*key, started_at, pid, made_from_ns, boottime_ns(), uid), report_fd

    def _admit(self, uid: int, user: bytes) -> Account | None:
        """
        The account of a run, None for our own. Raises `SpawnError`.
        """
        if self._accounts is not None:
            return self._accounts.admit(uid, user)
        if uid not in (messages.UID_OWN, os.geteuid()):
            raise SpawnError(messages.POLICY, 0, messages.NO_SWITCH)
        return None

    def _await_report(self, run: Run, report_fd: int) -> None:
        run.report_fd = report_fd
        self._by_report[report_fd] = run
        try:
            self._epoll.register(report_fd, select.EPOLLIN)
        except OSError:
            self._unsettled[run.key] = run

    def _hear(self, run: Run) -> None:
        """
        Take the report of a forked child, if it is there.
        """
        try:
            report = read_report(run.report_fd)
        except BlockingIOError:
            return
        del self._by_report[run.report_fd]
        try:
            # Closing is not enough: a child that was forked meanwhile has a copy for a moment.
            self._epoll.unregister(run.report_fd)
        except FileNotFoundError:
            pass  # There was no room to watch it.
        os.close(run.report_fd)
        run.report_fd = -1
        if report is None:
            self._untold[run.key] = False
        else:
            run.refusal = SpawnError(*report)

    def adopt(self, inheritance: Inheritance) -> None:
        """
        Take up what the ledger holds, with what there is of it in `inheritance`. Raises `OSError`
        when there is no room to watch it all.
        """
        resolve(self._ledger, now_ms())
        for exited in self._ledger.exits():
            self._exits[exited.job, exited.attempt] = messages.pack_exited(exited)
        kept = dict(inheritance.pidfds)
        started = self._ledger.started()
        self._store.restore(inheritance.stored, [*self._exits, *(s[:2] for s in started)])
        for each in started:
            run = Run((each.job, each.attempt), each.pid, each.started_at, is_child=False)
            self._runs[run.key] = run
            run.is_found = each.is_found
            run.pidfd = kept.pop(run.name, -1)
            if run.pidfd < 0:
                run.pidfd, run.is_child = find(each)
            if run.pidfd < 0:
                self._ended(run, None)
                continue
            self._by_pidfd[run.pidfd] = run
            self._epoll.register(run.pidfd, select.EPOLLIN)
            self._store.keep(run.key, run.name, run.pidfd, monotonic_ms())
            self._take_over(run, inheritance)
        close_all([*kept.values()])

    def _take_over(self, run: Run, inheritance: Inheritance) -> None:
        run.is_stopping = run.name in inheritance.told
        run.is_killed = run.name in inheritance.killed
        if run.name in inheritance.refusals:
            run.refusal = SpawnError(*inheritance.refusals[run.name])
        if run.name in inheritance.reports:
            self._await_report(run, inheritance.reports[run.name])

    def hand_over(self) -> Inheritance | None:
        """
        What a runner that takes our place in this process cannot read in the ledger. None while it
        could not adopt them all: one has no pidfd, for want of descriptors.
        """
        runs = self._runs.values()
        if any(run.pidfd < 0 for run in runs):
            return None
        return Inheritance(
            told=[run.name for run in runs if run.is_stopping],
            killed=[run.name for run in runs if run.is_killed],
            refusals={
                run.name: (run.refusal.stage, run.refusal.errno, run.refusal.reason)
                for run in runs
                if run.refusal is not None
            },
            reports={run.name: run.report_fd for run in runs if run.report_fd >= 0},
            pidfds={run.name: run.pidfd for run in runs if not run.is_child},
            stored=self._store.names(),
        )

    def _watch(self, run: Run) -> None:
        try:
            run.pidfd = os.pidfd_open(run.pid)
            self._epoll.register(run.pidfd, select.EPOLLIN)
            self._by_pidfd[run.pidfd] = run
        except OSError:
            self._unsettled[run.key] = run
        else:
            self._store.keep(run.key, run.name, run.pidfd, monotonic_ms() + STORE_AFTER_MS)

    def _signal(self, run: Run, signo: int) -> None:
        signos = [signo]
        if signo == signal.SIGTERM:
            signos.append(signal.SIGCONT)  # A stopped process dies of SIGTERM once it goes on.
        if signo in (signal.SIGTERM, signal.SIGKILL):
            run.is_stopping = True
        if signo == signal.SIGKILL:
            run.is_killed = True
        try:
            with self._reserve:
                process.signal_session(run.pid, signos, run.is_child)
        except OSError:
            # No room to look for its other groups. Those that survive their leader are seen when
            # it dies, and a SIGKILL is then repeated.
            pass

    def _settle(self, runs: list[Run]) -> None:
        stopping = {run.pid for run in runs if run.is_stopping}
        living: set[int] = set()
        if stopping:
            try:
                with self._reserve:
                    living = {found.session for found in process.living(stopping)}
            except OSError:
                living = stopping  # No room to look: the next look may tell.
        for run in runs:
            if run.report_fd >= 0:
                self._hear(run)
            if run.is_stopping and run.pid in living:
                if run.is_killed:
                    self._signal(run, signal.SIGKILL)
            elif run.is_child:
                self._reap(run)
            else:
                self._learn(run)

    def _reap(self, run: Run) -> None:
        pid, status, usage = os.wait4(run.pid, os.WNOHANG)
        # 0: it lives (it had no pidfd), or a debugger has not let go of it yet.
        if pid == 0:
            return
        if run.report_fd >= 0:
            self._hear(run)  # The last one who could write is dead: there is an answer.
        if run.refusal is None:
            self._ended(run, status, usage)
        else:
            self._dismiss(run)
            self._store.remove(run.key)
            self._ledger.forget(*run.key)
            self._refuse(run.key, run.refusal)

    def _learn(self, run: Run) -> None:
        assert run.gone_at is not None
        try:
            status = process.exit_status(run.pidfd)
        except OSError:
            self._ended(run, None)
            return
        if status is not None or monotonic_ms() >= run.gone_at + REAPED_MS:
            self._ended(run, status)

    def _ended(
        self, run: Run, status: int | None, usage: resource.struct_rusage | None = None
    ) -> None:
        job, attempt = run.key
        if run.is_found:
            status = usage = None
        exited = Exited(
            job=job,
            attempt=attempt,
            status=status or 0,
            known=status is not None,
            started_at=run.started_at,
            ended_at=now_ms(),
            usage_known=usage is not None,
            utime_us=int(usage.ru_utime * 1_000_000) if usage else 0,
            stime_us=int(usage.ru_stime * 1_000_000) if usage else 0,
            maxrss_kib=usage.ru_maxrss if usage else 0,
        )
        self._dismiss(run)
        self._ledger.exit(exited)
        message = self._exits[run.key] = messages.pack_exited(exited)
        self._report(message)

    def _dismiss(self, run: Run) -> None:
        del self._runs[run.key]
        self._unsettled.pop(run.key, None)
        self._store.let_go(run.key)
        self._untold.pop(run.key, None)
        if run.pidfd >= 0:
            os.close(run.pidfd)


def _unpack_body(request: messages.Start, fds: list[int]) -> messages.Body:
    try:
        data = request.body
        if data is None:
            data = _read_body(fds[1], request.body_bytes)
        return messages.unpack_body(data)
    except messages.BodyError:
        raise SpawnError(messages.BODY, errno.EBADMSG) from None
    except OSError as error:
        raise SpawnError(messages.BODY, error.errno or errno.EIO) from None


def _read_body(fd: int, size_bytes: int) -> bytes:
    # Only a regular file: reading from a pipe could wait for ever.
    found = os.fstat(fd)
    if not stat.S_ISREG(found.st_mode) or found.st_size != size_bytes:
        raise messages.BodyError("the descriptor does not hold the body")
    body = os.pread(fd, size_bytes, 0)
    if len(body) != size_bytes:
        raise messages.BodyError("the descriptor does not hold the body")
    return body
