"""
What may come next on a command line, for the completions of bash, zsh and fish.

The shells' scripts hold no words of their own: they hand over the line up to the cursor and offer
what comes back. So commands and options come from the definitions that they are run by (options.py,
commands/), accounts from the host, and ids, queues and settings from the daemon, if one runs. None
is started, nothing is said about faults, and no answer is waited for longer than a person who
pressed a key would.
"""

import pwd
import shlex
from collections.abc import Callable, Iterable
from typing import TypeVar

from queuectl.cli import ALIASES, MODULES, count_words, load
from queuectl.client import Client
from queuectl.errors import QueuectlError, UsageError
from queuectl.options import Command, Option
from queuectl.protocol import DEFAULT_QUEUE, SCOPES, Jobs, List, ListQueues, Message, Queues
from queuectl.selection import id_to_ask
from queuectl.session import GLOBAL_OPTIONS
from queuectl.settings import SETTINGS
from queuectl.tables import state_of
from queuectl.tokens import ListTokens, Tokens
from queuectl.views import FINISHED_STATES, JOB_STATES, JobState

#: The first line of the answer when the shell is to offer files or directories instead.
FILES, DIRECTORIES = ":files", ":directories"

_JOBS_MAX = 200
_ANSWER_MS_MAX = 500
_UNFINISHED = [state for state in JOB_STATES if state not in FINISHED_STATES]
#: The states in which a job can be what the command does to it. Others take any job.
_STATES: dict[str, list[JobState]] = {
    "cancel": _UNFINISHED,
    "hold": ["scheduled", "pending", "failed"],
    "release": ["held"],
    "edit": ["scheduled", "held", "pending", "failed"],
    "wait": _UNFINISHED,
    "dlq": ["dead"],
    "retry": ["dead", "cancelled", "failed"],
}

R = TypeVar("R", bound=Message)
Connect = Callable[[], Client]
#: A word and what it means, for shells that show both.
Word = tuple[str, str]


def complete(words: list[str], connect: Connect) -> list[Word]:
    """
    Return what the last of *words*, of which there may be nothing yet, can become.

    *words* are those after the program's name. *connect* gives a connection to the daemon.
    """
    *before, last = words
    before, options = _skip_global(before)
    if options is not None:
        return _matching(_option_values(options, "", connect), last)
    if not before:
        return _matching([*_option_words(GLOBAL_OPTIONS, last), *_command_words()], last)
    name = ALIASES.get(before[0], before[0])
    if name not in MODULES:
        return []
    if name == "help" and not last.startswith("-"):
        return _matching(_next_words(before[1:]) if before[1:] else _command_words(), last)
    words = [name, *before[1:]]
    found = {each.words: each for each in load(name) if each.words[0] == name}
    count = count_words(words, found)
    more = _matching(_next_words(words), last)
    command = found.get(tuple(words[:count]))
    return more if command is None else [*more, *_in_command(command, words[count:], last, connect)]


def _skip_global(before: list[str]) -> tuple[list[str], Option | None]:
    # Options of every command may stand before its name. The second value is one of them whose
    # value is to be completed.
    by_name = {f"--{option.name}": option for option in GLOBAL_OPTIONS}
    while before and before[0].startswith("-"):
        option = by_name.get(before[0])
        if option is not None and option.value is not None:
            if len(before) == 1:
                return [], option
            before = before[2:]
        else:
            before = before[1:]
    return before, None


def _in_command(command: Command, before: list[str], last: str, connect: Connect) -> list[Word]:
    if "--" in before:
        return [(FILES, "")] if command.takes_argv else []
    options = (*command.options, *GLOBAL_OPTIONS)
    names = {f"--{option.name}": option for option in options}
    names |= {f"-{option.short}": option for option in options if option.short}
    waiting = names.get(before[-1]) if before else None
    if waiting is not None and waiting.value is not None:
        return _matching(_option_values(waiting, command.words[0], connect), last)
    name, equals, begun = last.partition("=")
    if equals and name in names:
        values = _matching(_option_values(names[name], command.words[0], connect), begun)
        return [
            (value if value in (FILES, DIRECTORIES) else f"{name}={value}", meaning)
            for value, meaning in values
        ]
    if last.startswith("-"):
        given = {word.partition("=")[0] for word in before}
        left = [each for each in options if each.repeat or f"--{each.name}" not in given]
        return _matching(_option_words(left, last), last)
    return _operands(command, before, last, connect)


def _operands(command: Command, before: list[str], last: str, connect: Connect) -> list[Word]:
    place = command.operands
    if command.words[1:2] == ("token",):
        return _matching(_token_words(connect), last) if place.startswith("ID") else []
    if place.startswith(("ID", "[ID")):
        # Several ids may be joined with commas.
        lead = last[: last.rfind(",") + 1]
        states = _STATES.get(command.words[0], [])
        return _matching([(lead + each, text) for each, text in _job_words(states, connect)], last)
    if place.startswith("NAME"):
        return _matching(_queue_words(connect), last)
    if "KEY" in place:
        return _matching(_setting_words(), last) if not before else []
    if place.islower():
        return _matching([(word, "") for word in place.split(" | ")], last)
    return [(FILES, "")] if "COMMAND" in place and command.words[0] != "help" else []


def _option_values(option: Option, command: str, connect: Connect) -> list[Word]:
    if option.choices:
        return [(choice, "") for choice in option.choices]
    kind = (option.name, option.value)
    if kind[1] in ("FILE", "PATH"):
        return [(FILES, "")]
    if kind[1] == "DIR":
        return [(DIRECTORIES, "")]
    if kind[1] == "STATE":
        return [(state, "") for state in JOB_STATES]
    if kind == ("queue", "NAME"):
        return _queue_words(connect)
    if kind == ("priority", "N"):
        return [("high", "10"), ("medium", "0"), ("low", "-10")]
    if kind == ("user", "NAME"):
        return [(each.pw_name, each.pw_gecos) for each in sorted(pwd.getpwall())]
    if kind[1] == "SCOPES":
        return [(scope, "") for scope in SCOPES]
    if kind[1] == "ID" and command not in ("enqueue", "run"):
        return _job_words([], connect)
    return []


def _command_words() -> list[Word]:
    words = []
    for name in MODULES:
        commands = [each for each in load(name) if each.words[0] == name]
        whole = [each for each in commands if len(each.words) == 1]
        seconds = ", ".join(each.words[1] for each in commands if len(each.words) > 1)
        words.append((name, whole[0].summary if whole else seconds))
    return words


def _next_words(words: list[str]) -> list[Word]:
    """
    Return what may follow *words* in the name of a command. With a name that goes on, it means the
    words after it.
    """
    name, count = ALIASES.get(words[0], words[0]), len(words)
    words = [name, *words[1:]]
    found: dict[str, list[str]] = {}
    for each in load(name) if name in MODULES else ():
        if list(each.words[:count]) == words and len(each.words) > count:
            whole = len(each.words) == count + 1
            found.setdefault(each.words[count], []).append(
                each.summary if whole else each.words[count + 1]
            )
    return [(word, ", ".join(meanings)) for word, meanings in found.items()]


def _option_words(options: Iterable[Option], last: str) -> list[Word]:
    if not last.startswith("-"):
        return []
    return [(f"--{option.name}", option.help) for option in options]


def _setting_words() -> list[Word]:
    return [(setting.key, setting.help) for setting in SETTINGS.values()]


def _job_words(states: list[JobState], connect: Connect) -> list[Word]:
    answer = _ask(List(states=states, limit=_JOBS_MAX), Jobs, connect)
    if answer is None:
        return []
    return [(id_to_ask(job), f"{state_of(job)} {job.command[:60]}") for job in answer.jobs]


def _queue_words(connect: Connect) -> list[Word]:
    answer = _ask(ListQueues(), Queues, connect)
    names = [DEFAULT_QUEUE] if answer is None else [queue.name for queue in answer.queues]
    return [(name, "") for name in names]


def _token_words(connect: Connect) -> list[Word]:
    answer = _ask(ListTokens(), Tokens, connect)
    return [] if answer is None else [(token.id, token.name) for token in answer.tokens]


def _ask(request: Message, kind: type[R], connect: Connect) -> R | None:
    try:
        with connect() as client:
            return client.call(request, kind, timeout_ms=_ANSWER_MS_MAX)
    except (QueuectlError, OSError):
        return None


def _matching(words: Iterable[Word], last: str) -> list[Word]:
    return [word for word in words if word[0].startswith(last) or word[0] in (FILES, DIRECTORIES)]


# --- the shells ---------------------------------------------------------------------------------


def lines_for(shell: str, words: list[str], connect: Connect) -> list[str]:
    """
    Return the lines that the script of *shell* reads. Raises UsageError.

    bash hands over the line as it was typed, because its own words end at `=` and `:`, and is
    given what comes after those. zsh and fish hand over words.
    """
    if shell not in SCRIPTS:
        raise UsageError(f"completion: {shell!r} is no shell; one of {', '.join(SCRIPTS)}")
    if shell == "bash":
        words = split_line(words[0] if words else "")[1:]
    words = words or [""]
    found = complete(words, connect)
    if found and found[0][0] in (FILES, DIRECTORIES):
        return [found[0][0]]
    # A word of the daemon's is a stranger's: nothing in it may end a line.
    if shell == "bash":
        cut = max(words[-1].rfind("="), words[-1].rfind(":")) + 1
        return [shlex.quote(_one_line(word[cut:])) for word, _ in found]
    if shell == "zsh":
        return [
            _one_line(word).replace("\\", "\\\\").replace(":", "\\:") + f":{_one_line(meaning)}"
            for word, meaning in found
        ]
    return [f"{_one_line(word)}\t{_one_line(meaning)}" for word, meaning in found]


def split_line(line: str) -> list[str]:
    """
    Return the words of a shell's line; the last is the one at its end, perhaps empty.
    """
    for closing in ("", '"', "'"):
        try:
            words = shlex.split(line + closing)
        except ValueError:  # A quotation is not closed yet.
            continue
        at_new_word = not closing and line[-1:].isspace() and not line.endswith("\\ ")
        return [*words, ""] if at_new_word or not words else words
    return line.split(" ")


def _one_line(text: str) -> str:
    return "".join(each if each.isprintable() else " " for each in text)


_BASH = """\
# Completion of queuectl for bash.
_queuectl() {
    local lines
    mapfile -t lines < <(queuectl completion words bash -- "${COMP_LINE:0:COMP_POINT}" 2>/dev/null)
    COMPREPLY=()
    case ${lines[0]-} in
        :files) compopt -o default ;;
        :directories) compopt -o dirnames ;;
        *) COMPREPLY=("${lines[@]}") ;;
    esac
}
complete -F _queuectl queuectl
"""

_ZSH = """\
#compdef queuectl
# Completion of queuectl for zsh.
_queuectl() {
    local -a lines
    lines=("${(@f)$(queuectl completion words zsh -- "${(@Q)words[2,CURRENT]}" 2>/dev/null)}")
    case ${lines[1]-} in
        :files) _files ;;
        :directories) _files -/ ;;
        ?*) _describe -V queuectl lines ;;
        *) return 1 ;;
    esac
}
if [[ ${funcstack[1]-} == _queuectl ]]; then
    _queuectl "$@"
else
    compdef _queuectl queuectl
fi
"""

_FISH = """\
# Completion of queuectl for fish.
function __queuectl_words
    set -l words (commandline -opc) (commandline -ct)
    set -l lines (queuectl completion words fish -- $words[2..] 2>/dev/null)
    switch "$lines[1]"
        case :files
            __fish_complete_path (commandline -ct)
        case :directories
            __fish_complete_directories (commandline -ct)
        case '*'
            printf '%s\\n' $lines
    end
end
complete -c queuectl -f -k -a '(__queuectl_words)'
"""

#: The script of each shell.
SCRIPTS = {"bash": _BASH, "zsh": _ZSH, "fish": _FISH}
