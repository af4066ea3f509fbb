"""
`doctor`: look at everything that queuectl stands on, and say what is wrong and what mends it.
"""

from queuectl import __version__
from queuectl.diagnosis import Case, Finding, diagnose
from queuectl.discovery import SYSTEM_SOCKET, state_dir
from queuectl.errors import EXIT_DONE, EXIT_NOTHING, QueuectlError
from queuectl.escape import printable
from queuectl.machine import Machine
from queuectl.options import Arguments, Command
from queuectl.protocol import Status, StatusReport
from queuectl.session import Session

#: A daemon that does not answer in this time is not well.
_ANSWER_MS_MAX = 5_000
_SYSTEM_STATE_DIR = "/var/lib/queuectl"


def doctor(session: Session, _arguments: Arguments) -> int:
    """
    Print what was found. Starts no daemon.
    """
    session.refuse_host("doctor", "looks at this machine's files, accounts and processes")
    findings = diagnose(examine(session))
    problem = any(each.level == "problem" for each in findings)
    if session.structured:
        session.print_json_array(_document(each) for each in findings)
    elif session.quiet:
        for each in findings:
            if each.level != "ok":
                session.print(each.check)
    else:
        for each in findings:
            session.print(f"{each.level:8} {each.check:12} {printable(each.text)}")
            if each.mend:
                session.print(f"{'':8} {'':12} mend: {printable(each.mend)}")
    return EXIT_NOTHING if problem else EXIT_DONE


def examine(session: Session) -> Case:
    """
    Return what can be known about the installation from here. Raises QueuectlError for a place
    that cannot be.
    """
    place = session.place
    directory = _SYSTEM_STATE_DIR if place.socket == SYSTEM_SOCKET else state_dir()
    case = Case(
        machine=Machine(),
        client_version=__version__,
        socket=place.socket,
        state_dir=directory,
        now=session.now,
    )
    try:
        with session.connect_running() as client:
            report = client.call(Status(), StatusReport, timeout_ms=_ANSWER_MS_MAX)
    except QueuectlError as error:
        return case._replace(fault=str(error), fault_code=error.code)
    return case._replace(report=report)


def _document(finding: Finding) -> dict[str, object]:
    return {
        "check": finding.check,
        "level": finding.level,
        "text": finding.text,
        "mend": finding.mend or None,
    }


COMMANDS = (
    Command(
        ("doctor",),
        "check the installation; say what is wrong and what mends it",
        doctor,
        details=(
            "Looks at the socket and who may use it, the versions of program, daemon and runner,\n"
            "lingering, cgroups, the disk of the state, the clock and the journal. Each is ok, a\n"
            "warning (it works, but will not in some case) or a problem. Exit code 1 if there is\n"
            "a problem. Starts no daemon."
        ),
    ),
)
