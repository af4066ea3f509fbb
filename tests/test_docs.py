"""
The documents of commands and configuration against the code, links and commands everywhere.

What is compared is whole: a thing of the code that its document lacks fails, and so does a thing of
the document that the code lacks. The protocol, the journal and the architecture are in
test_docs_formats.py.
"""

import ast
import inspect
import re
import shlex
import subprocess
from pathlib import Path
from typing import Any, get_args

import msgspec
import pytest
from markdown_reader import ROOT, Document, anchor, code_in, link_target, plain
from msgspec import inspect as types

from queuectl import __version__, documents, jobspec, protocol, views
from queuectl.autostart import LOG_NAME
from queuectl.cli import ALIASES, find_command
from queuectl.commands import daemon as daemon_commands
from queuectl.commands import status as status_command
from queuectl.commands.guide import all_commands, usage
from queuectl.commands.jobs import _TERMINAL_LIMIT
from queuectl.environment import ALLOWED, ALLOWED_PREFIX
from queuectl.errors import EXIT_BUG, EXIT_CODES, EXIT_DONE, EXIT_NOTHING
from queuectl.framing import FRAME_BYTES_MAX
from queuectl.options import Command, Option, parse
from queuectl.session import GLOBAL_OPTIONS
from queuectl.setting_text import parse_setting
from queuectl.settings import SETTINGS, Setting
from queuectld import main as daemon_main
from queuectld.core.queue import START_AGAIN_MS
from queuectld.journal import tool
from queuectld.journal.journal import Durability
from queuectld.runner import main as runner_main
from queuectld.runner.endpoint import SOCKET_NAME
from queuectld.runner.ledger import LEDGER_NAME
from queuectld.runtime.daemon import THROW_AWAY_GRACE_MS
from queuectld.runtime.housekeeping import SYNC_INTERVAL_MS
from queuectld.runtime.output import TAIL_BYTES_MAX

NAMES = [
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    "queuectld/README.md",
    *sorted(f"docs/{path.name}" for path in (ROOT / "docs").glob("*.md")),
]
DOCUMENTS = [Document(name) for name in NAMES]
COMMANDS = Document("docs/commands.md")
CONFIGURATION = Document("docs/configuration.md")
ARCHITECTURE = Document("docs/architecture.md")
ALL_COMMANDS = all_commands()

each_document = pytest.mark.parametrize("document", DOCUMENTS, ids=repr)


def sample(kind: types.Type) -> Any:
    """
    Return some value of a type of the wire.
    """
    if isinstance(kind, types.StructType):
        fields = {each.name: sample(each.type) for each in kind.fields if each.required}
        return kind.cls(**fields)
    if isinstance(kind, types.UnionType):
        return sample(kind.types[0])
    if isinstance(kind, types.LiteralType):
        return kind.values[0]
    simple: dict[type, Any] = {types.StrType: "x", types.IntType: 1, types.BoolType: False}
    simple |= {types.ListType: [], types.DictType: {}, types.NoneType: None}
    return simple[type(kind)]


def sample_of(cls: type) -> Any:
    return sample(types.type_info(cls))


# --- commands ------------------------------------------------------------------------------------


def spelled(option: Option) -> tuple[str, ...]:
    """
    Return how the documents write an option: `-n`, `--count N`.
    """
    long = f"--{option.name}" + (f" {option.value}" if option.value else "")
    return (f"-{option.short}", long) if option.short else (long,)


def documented_options(title: str) -> list[tuple[str, ...]]:
    """
    Return the options of a section, those of the sections that its rows link to included.
    """
    found = []
    for table in COMMANDS.section(title).tables:
        for row in table[1:] if table[0][0] == "option" else []:
            target = link_target(row[0])
            if target is None:
                found.append(tuple(code_in(row[0])))
            else:
                (linked,) = [s for s in COMMANDS.sections if f"#{anchor(s.title)}" == target]
                found += documented_options(linked.title)
    return found


def test_every_command_is_documented_and_no_other() -> None:
    """
    Each command has a section of its own, and each section that is called so is a command.
    """
    titles = [each.title for each in COMMANDS.sections if each.title.startswith("queuectl ")]
    assert sorted(f"queuectl {each.name}" for each in ALL_COMMANDS) == sorted(titles)


@pytest.mark.parametrize("command", ALL_COMMANDS, ids=lambda each: each.name)
def test_a_command_is_documented_as_it_is(command: Command) -> None:
    """
    A command's section shows its usage and exactly the options that it takes.
    """
    title = f"queuectl {command.name}"
    shown = [each.text for each in COMMANDS.section(title).blocks if each.info == "text"]
    assert [f"queuectl {usage(command)}"] == shown
    assert sorted(map(spelled, command.options)) == sorted(documented_options(title))


def test_options_of_every_command() -> None:
    """
    The options that every command takes are documented, in one place.
    """
    expected = [spelled(each) for each in GLOBAL_OPTIONS]
    assert expected == documented_options("Options of every command")


def test_short_names_of_commands() -> None:
    """
    Every alias of a command is documented.
    """
    rows = COMMANDS.table("Rules that hold everywhere")
    assert {(f"`{short}`", f"`{name}`") for short, name in ALIASES.items()} == set(map(tuple, rows))


def test_exit_codes_of_queuectl() -> None:
    """
    Every exit code is documented with the causes that have it.
    """
    expected: dict[int, set[str]] = {EXIT_DONE: set(), EXIT_NOTHING: set(), EXIT_BUG: set()}
    for cause, code in EXIT_CODES.items():
        expected.setdefault(code, set()).add(cause)
    rows = COMMANDS.table("Exit codes")
    assert expected == {int(row[0]): set(code_in(row[1])) for row in rows}


def test_fields_of_a_job() -> None:
    """
    Every field that a job's JSON may have is documented.
    """
    rows = COMMANDS.table("Job fields")
    assert sorted(jobspec._FIELDS) == sorted(plain(row[0]) for row in rows)


def test_states_are_documented() -> None:
    """
    Every state of a job is in the list that users read.
    """
    rows = COMMANDS.section("Filters").tables[1][1:]
    assert list(views.JOB_STATES) == [plain(row[0]) for row in rows]


def test_ends_of_an_attempt() -> None:
    """
    Every way in which an attempt ends is documented, in the JSON and where it is explained.
    """
    ends = set(get_args(views.RunEnd))
    (row,) = [row for row in COMMANDS.table("Run") if plain(row[0]) == "end"]
    assert ends == set(code_in(row[1]))
    assert ends == {plain(row[0]) for row in ARCHITECTURE.table("How a job ends")}


DETAIL = documents.detail_document(sample_of(protocol.JobDetail))
STATUS = documents.status_document(
    msgspec.structs.replace(sample_of(protocol.StatusReport), runner=sample_of(views.ProcessView)),
    "x",
)
JSON = {
    "Job": documents.job_document(sample_of(views.JobView)),
    "Run": documents.run_document(sample_of(views.RunView)),
    "Error": documents.error_document(sample_of(views.JobError)),
    "Worker": documents.worker_document(sample_of(views.WorkerView)),
    "Queue": documents.queue_document(sample_of(views.QueueView)),
    "Setting": documents.setting_document(sample_of(views.SettingView)),
    "Daemon": daemon_commands._document(sample_of(protocol.StatusReport), "x"),
    "Status": STATUS,
}
JSON["Job in full"] = {key: value for key, value in DETAIL.items() if key not in JSON["Job"]}


@pytest.mark.parametrize("title", JSON)
def test_keys_of_a_json_document(title: str) -> None:
    """
    A JSON document has exactly the keys that are documented, in that order.
    """
    assert list(JSON[title]) == [plain(row[0]) for row in COMMANDS.table(title)]


@pytest.mark.parametrize("key", [key for key, value in STATUS.items() if isinstance(value, dict)])
def test_keys_inside_status(key: str) -> None:
    """
    What `status --json` holds under its keys is documented too.
    """
    (meaning,) = [row[1] for row in COMMANDS.table("Status") if plain(row[0]) == key]
    if key == "runner":
        assert "the same" in meaning
        assert list(STATUS["daemon"]) == list(STATUS["runner"])
    else:
        assert set(STATUS[key]) <= set(code_in(meaning))


# --- environment ---------------------------------------------------------------------------------


def environment_names() -> tuple[set[str], set[str]]:
    """
    Return the variables that the programs read by name, and those that they set for jobs.
    """
    read: set[str] = set()
    given: set[str] = set()
    for path in [*(ROOT / "queuectl").rglob("*.py"), *(ROOT / "queuectld").rglob("*.py")]:
        for node in ast.walk(ast.parse(path.read_text())):
            name: ast.expr | None = None
            if isinstance(node, ast.Call) and ast.unparse(node.func).endswith("environ.get"):
                name = node.args[0]
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value).endswith("environ"):
                name = node.slice
            elif isinstance(node, ast.Subscript) and ast.unparse(node.value) == "env":
                name = node.slice
                if isinstance(name, ast.Constant):
                    given.add(str(name.value))
                continue
            if isinstance(name, ast.Constant):
                read.add(str(name.value))
    return read, given


def test_environment_variables() -> None:
    """
    Every variable that is read, given to jobs or passed on to them is documented, and no other.
    """
    read, given = environment_names()
    assert read == {plain(row[0]) for row in COMMANDS.table("Environment variables")}
    rows = ARCHITECTURE.section("What a job gets").tables[1][1:]
    assert given == {plain(row[0]) for row in rows}
    passed_on = code_in(COMMANDS.section("Job options").prose)
    assert {*ALLOWED, ALLOWED_PREFIX} <= set(passed_on)


# --- configuration -------------------------------------------------------------------------------


def test_every_setting_is_documented_and_no_other() -> None:
    """
    The table of settings has every setting, in the order of the code.
    """
    assert list(SETTINGS) == [plain(row[0]) for row in CONFIGURATION.table("Settings")]


@pytest.mark.parametrize("setting", SETTINGS.values(), ids=lambda each: each.key)
def test_a_setting_is_documented_as_it_is(setting: Setting) -> None:
    """
    Aliases, kind, default and limits of a setting are those of the code.
    """
    (row,) = [row for row in CONFIGURATION.table("Settings") if plain(row[0]) == setting.key]
    _, aliases, kind, default, limits, meaning = row
    assert (list(setting.aliases), setting.kind) == (code_in(aliases), kind)
    assert setting.default == parse_setting(setting, code_in(default)[0])
    if setting.kind == "choice":
        assert list(views.ON_LOST) == code_in(limits)
    else:
        a_limit = SETTINGS["workers"] if setting.kind == "list" else setting
        least, most = (parse_setting(a_limit, each) for each in code_in(limits))
        assert (setting.minimum, setting.maximum) == (least, most)
    assert meaning


def test_options_of_the_daemon() -> None:
    """
    Every option of queuectld is documented, and whether it takes a value.
    """
    expected = {
        (tuple(action.option_strings), action.nargs != 0)
        for action in daemon_main.parser()._actions
    }
    found = set()
    for row in CONFIGURATION.section("The daemon").tables[0][1:]:
        words = code_in(row[0])
        names = tuple(word.partition(" ")[0] for word in words)
        found.add((names, any(" " in word for word in words)))
    assert expected == found


def test_options_of_the_runner() -> None:
    """
    Every option of queuectl-runner is documented.
    """
    expected = re.findall(r'option == "(--[a-z-]+)"', inspect.getsource(runner_main._parse))
    rows = CONFIGURATION.section("The runner").tables[0][1:]
    assert sorted(expected) == sorted(plain(row[0]).partition(" ")[0] for row in rows)


def exit_codes(module: object, prefix: str) -> set[int]:
    return {value for name, value in vars(module).items() if name.startswith(prefix)}


def test_exit_codes_of_the_programs() -> None:
    """
    Every exit code of the daemon, the runner and the journal's tools is documented.
    """
    usage_code = 2  # argparse's
    expected = {0, usage_code} | exit_codes(daemon_main, "EXIT_")
    rows = CONFIGURATION.section("The daemon").tables[1][1:]
    assert expected == {int(row[0]) for row in rows}
    rows = CONFIGURATION.section("The runner").tables[1][1:]
    assert exit_codes(runner_main, "EX_") == {int(row[0]) for row in rows}
    rows = Document("docs/journal.md").table("Tools")
    assert {usage_code} | exit_codes(tool, "EXIT_") == {int(row[0]) for row in rows}
    refusals = {
        int(row[0]) for row in Document("docs/journal.md").table("When it refuses to start")
    }
    assert set(daemon_main._JOURNAL_EXITS.values()) | {daemon_main.EXIT_STORAGE} == refusals


def test_names_in_the_state_directory() -> None:
    """
    The files of the state directory are called what the document says.
    """
    names = {plain(row[0]) for row in CONFIGURATION.table("State directory")}
    assert {LOG_NAME, f"runner/{LEDGER_NAME}", f"runner/{SOCKET_NAME}"} <= names


def test_durability_modes() -> None:
    """
    Every durability mode is documented.
    """
    rows = CONFIGURATION.table("Durability")
    assert list(get_args(Durability)) == [plain(row[0]) for row in rows]


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (COMMANDS, f"at most {protocol.BATCH_JOBS_MAX:,} jobs and {FRAME_BYTES_MAX >> 20} MiB"),
        (COMMANDS, f"at most {protocol.ID_CHARS_MAX} printable characters"),
        (COMMANDS, f"{-protocol.PRIORITY_MAX} to {protocol.PRIORITY_MAX}, or `high` (10)"),
        (COMMANDS, f"0 for all (default: {_TERMINAL_LIMIT} on a terminal"),
        (COMMANDS, f"the last N lines, of the last {TAIL_BYTES_MAX >> 20} MiB"),
        (COMMANDS, f"Of more than {status_command._IDLE_ROWS_MAX} workers"),
        (CONFIGURATION, f"a sync follows within {SYNC_INTERVAL_MS} ms"),
        (CONFIGURATION, f"made again {START_AGAIN_MS // 1000} seconds later"),
        (CONFIGURATION, f"SIGTERM, {THROW_AWAY_GRACE_MS // 1000} seconds, SIGKILL"),
        (ARCHITECTURE, f"no; again after {START_AGAIN_MS // 1000} seconds"),
    ],
)
def test_figures_in_sentences(document: Document, words: str) -> None:
    """
    A figure of the code that stands in a sentence is the one of the code.
    """
    assert words in " ".join(document.text.split())


# --- all documents -------------------------------------------------------------------------------


@each_document
def test_links_lead_somewhere(document: Document) -> None:
    """
    Every link within the project names a file that is there, and a heading that is in it.
    """
    assert len(set(document.anchors)) == len(document.anchors), "two headings have one anchor"
    wrong = []
    for target in document.links:
        if target.startswith("https://"):
            continue
        name, _, heading = target.partition("#")
        path = (document.path.parent / name).resolve() if name else document.path
        if not path.exists() or (
            heading and heading not in Document(str(path.relative_to(ROOT))).anchors
        ):
            wrong.append(target)
    assert wrong == []


_PATH = re.compile(r"(?:queuectl|queuectld|docs|tests|packaging|systemd|bench|\.ci)/[\w./-]*\w/?")


@each_document
def test_paths_lead_somewhere(document: Document) -> None:
    """
    Every path of the project that is named in backticks is there.
    """
    named = [each for each in code_in(document.outside_fences) if _PATH.fullmatch(each)]
    assert [] == [each for each in named if not (ROOT / each).exists()]


def command_lines(document: Document) -> list[list[str]]:
    """
    Return the words of every command line of queuectl in shell blocks and in backticks.
    """
    blocks = [b.text for s in document.sections for b in s.blocks if b.info == "sh"]
    lines = [line for block in blocks for line in block.split("\n")]
    found = []
    for line in [*lines, *code_in(" ".join(document.outside_fences.split()))]:
        if "queuectl " not in line:
            continue
        lexer = shlex.shlex(line, posix=True, punctuation_chars=True)
        lexer.whitespace_split = True
        words: list[str] = []
        for word in [*lexer, ";"]:
            if not set(word) <= set("();<>|&"):
                words.append(word)
                continue
            if words[:1] == ["queuectl"] and len(words) > 1:
                found.append(words[1:])
            words = []
    return found


@each_document
def test_documented_command_lines_are_understood(document: Document) -> None:
    """
    Every command line that a document shows names a command that is there and options it takes.
    """
    for words in command_lines(document):
        if words[0] == "COMMAND":
            continue
        if words[0].startswith("-"):
            parse(words, [*GLOBAL_OPTIONS, Option("version", "")])
            continue
        command, rest = find_command(words)
        parse(rest, (*command.options, *GLOBAL_OPTIONS))


def test_command_lines_are_found() -> None:
    """
    The reader of command lines sees them in blocks and in sentences: else it would prove nothing.
    """
    lines = command_lines(COMMANDS)
    assert ["enqueue", "--partial", "-f", "-"] in lines
    assert ["prune", "--state", "completed", "--older-than", "1d"] in lines
    assert ["release"] in lines


def test_the_tour_names_every_file() -> None:
    """
    The tour of the daemon has a line for each module, in the place where it is.
    """
    folder = ROOT / "queuectld"
    expected = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob("*.py")
        if path.name not in ("__init__.py", "__main__.py")
    }
    tour = Document("queuectld/README.md")
    rows = [row for table in tour.section("Reading order").tables for row in table[1:]]
    named = {link_target(row[0]) or "" for row in rows}
    assert expected == {each for each in named if not each.startswith("../")}
    assert all(len(row) == 2 and row[1] for row in rows)


def test_targets_of_make_are_there() -> None:
    """
    Every `make` target that a document names is in the Makefile.
    """
    makefile = (ROOT / "Makefile").read_text()
    for document in DOCUMENTS:
        named = re.findall(r"(?:^|`)make ([a-z]+)\b", document.text, re.MULTILINE)
        for target in named:
            assert re.search(rf"^{target}:", makefile, re.MULTILINE), (document, target)


def test_the_changelog_has_this_version() -> None:
    """
    What this version brings is in the changelog, first.
    """
    versions = [each.title for each in Document("CHANGELOG.md").sections if each.level == 2]
    assert versions[0].startswith(f"[{__version__}] - ")


def test_documents_name_no_place_of_one_machine() -> None:
    """
    No document that is kept holds a path that is there on one machine only.
    """
    kept = subprocess.run(
        ["git", "ls-files", "*.md"], cwd=ROOT, capture_output=True, text=True, check=False
    )
    names = kept.stdout.split() if kept.returncode == 0 else NAMES
    for name in names:
        text = Path(ROOT / name).read_text()
        assert not re.search(r"/home/\w|/root/", text), name
