"""
`completion`: the scripts with which shells complete command lines, and the words they ask for.
"""

from queuectl.client import Client
from queuectl.completion import SCRIPTS, lines_for
from queuectl.errors import EXIT_DONE, UsageError
from queuectl.options import Arguments, Command
from queuectl.session import Session

#: Whoever pressed a key waits no longer than this for another machine.
_OPEN_SECONDS_MAX = 1.0


def completion(session: Session, arguments: Arguments) -> int:
    """
    Print a shell's script, or for that script (`words SHELL -- WORD...`) what may come next.
    """
    shell, *rest = arguments.operands
    if shell == "words":
        if len(rest) != 1:
            raise UsageError("completion words: needs a shell; see `queuectl help completion`")

        def connect() -> Client:
            return session.connect_running(open_seconds=_OPEN_SECONDS_MAX)

        for line in lines_for(rest[0], arguments.argv or [], connect):
            session.print(line)
        return EXIT_DONE
    if shell not in SCRIPTS or rest:
        wrong = rest[0] if rest else shell
        raise UsageError(f"completion: one of {', '.join(SCRIPTS)}; got {wrong!r}")
    session.print(SCRIPTS[shell].rstrip("\n"))
    return EXIT_DONE


COMMANDS = (
    Command(
        ("completion",),
        "print the script that completes queuectl's command lines in a shell",
        completion,
        operands="bash | zsh | fish",
        operands_min=1,
        operands_max=2,
        takes_argv=True,
        details=(
            "The packages install these scripts; otherwise let the shell read the output when it\n"
            "starts. Ids, queues and settings come from the daemon that runs."
        ),
        examples=(
            'eval "$(queuectl completion bash)"   # in ~/.bashrc',
            'eval "$(queuectl completion zsh)"    # in ~/.zshrc, after compinit',
            "queuectl completion fish | source    # in ~/.config/fish/config.fish",
        ),
    ),
)
