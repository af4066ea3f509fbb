"""
Style and structure as tests: what reviewers would otherwise have to look for each time.
"""

import ast
import re
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
FUNCTION_LINES_MAX = 70
FILE_LINES_MAX = 500

#: What the files of a folder may import of ours. The longest matching folder counts.
OURS = {
    "queuectl": ("queuectl",),
    "queuectld": ("queuectl", "queuectld"),
    "queuectld/core": (
        "queuectl.editing",
        "queuectl.measures",
        "queuectl.protocol",
        "queuectl.settings",
        "queuectl.tokens",
        "queuectl.views",
        "queuectl.watching",
        "queuectld.core",
    ),
    "queuectld/journal": ("queuectld.journal",),
    "queuectld/runner": ("queuectld.runner",),
    "queuectld/runtime": (
        "queuectl",
        "queuectld.core",
        "queuectld.journal",
        "queuectld.runner.endpoint",
        "queuectld.runner.messages",
        "queuectld.runtime",
    ),
}
#: The standard library and packages that a folder may import, where that is limited.
OTHERS = {
    "queuectld/core": {
        "array",
        "bisect",
        "collections",
        "functools",
        "heapq",
        "itertools",
        "math",
        "msgspec",
        "operator",
        "shlex",
        "signal",  # its numbers and names
        "typing",
    },
}
WAITING = {"asyncio", "logging", "structlog", "subprocess", "threading", "time", "socket"}
BANNED_MODULES = {"utils", "util", "helpers", "helper", "common", "misc", "base", "manager"}
BANNED_WORDS = re.compile(r"\b(TODO|FIXME|XXX|HACK)\b")


def python_files(*folders: str) -> Iterator[Path]:
    for folder in folders or ("queuectl", "queuectld", "tests", "bench"):
        yield from sorted((ROOT / folder).rglob("*.py"))


def imports(path: Path) -> Iterator[tuple[str, int]]:
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: relative import"
            module = node.module or ""
            whole = (ROOT / module.replace(".", "/")).is_dir()
            names = [f"{module}.{alias.name}" for alias in node.names] if whole else [module]
            yield from ((name, node.lineno) for name in names)


def rule_for(path: Path, rules: dict[str, object]) -> object | None:
    folder = path.parent.relative_to(ROOT).as_posix()
    matching = [rule for rule in rules if folder == rule or folder.startswith(f"{rule}/")]
    return rules[max(matching, key=len)] if matching else None


@pytest.mark.parametrize("path", list(python_files("queuectl", "queuectld")), ids=str)
def test_imports_go_one_way(path: Path) -> None:
    """
    A folder imports only what lies below it: the leaf never the daemon, the core nothing that
    waits, the journal and the runner nothing of ours.
    """
    ours = rule_for(path, OURS)
    others = rule_for(path, OTHERS)
    for name, line in imports(path):
        top = name.partition(".")[0]
        where = f"{path.relative_to(ROOT)}:{line}: imports {name}"
        if top in ("queuectl", "queuectld"):
            allowed = any(name == each or name.startswith(f"{each}.") for each in ours)
            assert allowed or name.endswith(".__version__"), where
        elif others is not None:
            assert top in others, where


def test_the_runner_needs_only_the_standard_library() -> None:
    """
    The process that will be root has no code but its own and Python's.
    """
    import sys

    for path in python_files("queuectld/runner", "queuectld/journal"):
        for name, line in imports(path):
            top = name.partition(".")[0]
            ours = top == "queuectld" or name == "queuectl.__version__"
            assert ours or top in sys.stdlib_module_names, f"{path}:{line}: {name}"


def test_core_imports_nothing_that_waits() -> None:
    """
    The core reads no clock and opens nothing.
    """
    for path in python_files("queuectld/core"):
        assert not WAITING & {name.partition(".")[0] for name, _ in imports(path)}, path
        assert not re.search(r"\bopen\(", path.read_text()), path


@pytest.mark.parametrize("path", list(python_files()), ids=str)
def test_files_and_functions_are_short(path: Path) -> None:
    """
    A file can be read in one sitting, a function seen at once.
    """
    text = path.read_text()
    assert len(text.splitlines()) <= FILE_LINES_MAX, path
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            length = (node.end_lineno or 0) - node.lineno + 1
            assert length <= FUNCTION_LINES_MAX, f"{path}:{node.lineno} {node.name}: {length}"


def test_a_jobs_state_is_assigned_in_one_place() -> None:
    """
    Only the state's one function moves a job.
    """
    places = []
    for path in python_files("queuectld"):
        for node in ast.walk(ast.parse(path.read_text())):
            targets = node.targets if isinstance(node, ast.Assign) else []
            flat = [e for t in targets for e in (t.elts if isinstance(t, ast.Tuple) else [t])]
            places += [
                (path.name, node.lineno)
                for target in flat
                if isinstance(target, ast.Attribute)
                and target.attr == "state"
                and isinstance(target.value, ast.Name)
                and target.value.id == "job"
            ]
    names = [name for name, _ in places]
    assert names == ["state.py"], places


def test_names_and_words() -> None:
    """
    Modules are named for what they hold; nothing is left for later; packages import nothing.
    """
    for path in python_files():
        assert path.stem not in BANNED_MODULES, path
        if path != Path(__file__).resolve():
            assert not BANNED_WORDS.search(path.read_text()), path
        if path.name == "__init__.py":
            assert not list(imports(path)), path


def test_tests_wait_for_conditions() -> None:
    """
    A test that sleeps is either slow or wrong: waiting polls a condition, with a deadline.
    """
    for path in python_files("tests"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                calls = [
                    child.lineno
                    for child in ast.walk(node)
                    if isinstance(child, ast.Call) and ast.unparse(child.func) == "time.sleep"
                ]
                assert not calls, f"{path}:{calls}: {node.name} sleeps"


def test_public_functions_say_what_they_do() -> None:
    """
    Every public module, class and function of the packages has a docstring; methods of protocols
    and properties too.
    """
    for path in python_files("queuectl", "queuectld"):
        tree = ast.parse(path.read_text())
        assert ast.get_docstring(tree), f"{path}: module"
        for node in tree.body:
            named = isinstance(node, ast.FunctionDef | ast.ClassDef)
            if named and not node.name.startswith("_"):
                documented = ast.get_docstring(node) or is_plain_tuple(node)
                assert documented, f"{path}:{node.lineno} {node.name}"


def is_plain_tuple(node: ast.AST) -> bool:
    """
    Whether a class is a NamedTuple whose name and fields say all there is.
    """
    return isinstance(node, ast.ClassDef) and any(
        ast.unparse(base) == "NamedTuple" for base in node.bases
    )


def test_shell_scripts_are_valid() -> None:
    """
    The scripts parse.
    """
    scripts = [ROOT / ".ci/run", ROOT / "docs/demo.sh", ROOT / "packaging/apt-need"]
    for script in scripts:
        shell = script.read_text().splitlines()[0].rpartition("/")[2].split()[-1]
        assert subprocess.run([shell, "-n", script], check=False).returncode == 0, script
