"""
`version`: of this program, and of the daemon if one runs.
"""

from queuectl import __version__
from queuectl.errors import EXIT_DONE, DaemonUnreachable, QueuectlError
from queuectl.options import Arguments, Command
from queuectl.protocol import PROTOCOL_VERSION, Config, GetConfig
from queuectl.session import Session


def version(session: Session, _arguments: Arguments) -> int:
    """
    Print both versions. Starts no daemon.
    """
    daemon = pid = None
    try:
        with session.connect_running() as client:
            client.call(GetConfig(), Config)
            if client.welcome is not None:
                daemon, pid = client.welcome.version, client.welcome.pid
    except DaemonUnreachable:
        pass
    except QueuectlError as error:
        session.complain(str(error))
    if session.structured:
        session.print_json(
            {"client": __version__, "protocol": PROTOCOL_VERSION, "daemon": daemon, "pid": pid}
        )
        return EXIT_DONE
    session.print(f"queuectl {__version__}")
    if daemon is not None:
        session.print(f"queuectld {daemon} (pid {pid})")
    return EXIT_DONE


COMMANDS = (Command(("version",), "print the version of queuectl and of the daemon", version),)
