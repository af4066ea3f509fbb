"""
What is in the packages, and that it is the same each time.
"""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
from package_files import (
    ROOT,
    Packages,
    build,
    control_file,
    deb_fields,
    deb_members,
    need,
    output,
    rpm_query,
    unpacked,
)

from queuectl import __version__
from queuectl.cli import MODULES

CONFFILES = ["/etc/queuectl/queuectld.toml", "/etc/queuectl/runner.toml"]
PROGRAMS = ["/usr/bin/queuectl", "/usr/bin/queuectl-runner", "/usr/bin/queuectld"]
LIBRARY = "/usr/lib/queuectl/"
#: What only one kind of system looks for.
ONLY = (
    "/usr/share/zsh/",
    "/usr/share/lintian/",
    "/usr/share/licenses/",
    "/usr/share/doc/queuectl/changelog.Debian.gz",
)
SCRIPTS = sorted(
    path
    for folder in ("bin", "lib", "deb", "rpm")
    for path in (ROOT / "packaging" / folder).iterdir()
    if path.suffix != ".toml" and path.name not in ("lintian-overrides", "__pycache__")
)


def test_two_builds_have_the_same_bytes(packages: Packages, tmp_path: Path) -> None:
    """
    Neither folder, umask, modes, time zone nor language leave a trace; an unpacked archive, without
    git, makes what the repository makes.
    """
    changed = {"TZ": "Asia/Kathmandu", "LC_ALL": "C"}
    again = build(changed, umask=0o077, tree=unpacked(tmp_path / "tree"))
    for first, second in zip(packages, again, strict=True):
        assert first.read_bytes() == second.read_bytes(), second.name


def test_a_time_that_cannot_be_had(tmp_path: Path) -> None:
    """
    A time that is none, and a repository that git will not read, end the build with what to do.
    """
    tree = unpacked(tmp_path / "tree")
    command = [sys.executable, tree / "packaging/build.py", "--man", tmp_path / "man"]

    def complaint(**environment: str) -> str:
        inside = {name: value for name, value in os.environ.items() if name != "SOURCE_DATE_EPOCH"}
        done = subprocess.run(
            command, env={**inside, **environment}, capture_output=True, text=True, check=False
        )
        assert 1 == done.returncode
        return done.stderr

    expected = "build.py: SOURCE_DATE_EPOCH is 'now'; seconds since 1970, or leave it unset\n"
    assert expected == complaint(SOURCE_DATE_EPOCH="now")
    (tree / ".git").touch()
    assert "set SOURCE_DATE_EPOCH to it\n" in complaint()
    assert "(there is no git here)" in complaint(PATH="/nowhere")


def test_another_time_is_another_package() -> None:
    """
    SOURCE_DATE_EPOCH is the time that everything carries.
    """
    need("dpkg-deb", "rpm")
    try:
        other = build({"SOURCE_DATE_EPOCH": "1700000000"})
        assert {1_700_000_000} == {each.mtime for each in deb_members(other.deb).values()}
        assert ["1700000000"] == rpm_query(other.rpm, "%{BUILDTIME}\n")
    finally:
        build()


def test_files_are_roots_and_may_be_read(packages: Packages) -> None:
    """
    Modes come from the description, whatever the checkout has; nothing runs as somebody else.
    """
    need("dpkg-deb")
    for name, each in deb_members(packages.deb).items():
        program = name in (*PROGRAMS, f"{LIBRARY}python", f"{LIBRARY}executor")
        mode = 0o755 if program or each.isdir() else 0o644
        assert (0, 0, mode) == (each.uid, each.gid, each.mode & 0o7777), name


def test_both_packages_hold_the_same_files(packages: Packages) -> None:
    """
    One description: they differ only in what only one kind of system looks for.
    """
    need("dpkg-deb", "rpm")
    members = deb_members(packages.deb)
    deb = {name for name, each in members.items() if each.isfile() and not name.startswith(ONLY)}
    lines = [
        line.split() for line in rpm_query(packages.rpm, "[%{FILENAMES} %{FILEMODES:perms}\n]")
    ]
    rpm = {name for name, mode in lines if mode[0] == "-" and not name.startswith(ONLY)}
    assert deb == rpm
    assert {each for each in members if each.startswith("/usr/share/zsh/")} >= {
        "/usr/share/zsh/vendor-completions/_queuectl"
    }
    assert "/usr/share/zsh/site-functions/_queuectl" in [name for name, _ in lines]


def test_contents(packages: Packages) -> None:
    """
    Our packages, the pinned libraries with a module for each interpreter, units, pages; nothing
    that is compiled when it is installed, no tests, nothing else of the checkout.
    """
    need("dpkg-deb")
    names = {name for name, each in deb_members(packages.deb).items() if each.isfile()}
    inside = {name.removeprefix(LIBRARY) for name in names if name.startswith(LIBRARY)}
    pinned = re.findall(r"(?m)^([a-z0-9-]+)==", (ROOT / "packaging/wheels.txt").read_text())
    single = {"typing_extensions": "typing_extensions.py"}
    libraries = {each.replace("-", "_") for each in pinned}
    expected = {"queuectl", "queuectld", "launch.py", "python"}
    expected |= {single.get(each, each) for each in libraries}
    compiled = {path.stem for path in (ROOT / "queuectld/runner").glob("*.c")}
    assert expected | compiled == {name.partition("/")[0] for name in inside}
    modules = [re.findall(r"\.cpython-(\d+)-", name) for name in inside if name.endswith(".so")]
    # Of msgspec and of markupsafe.
    assert [["311"]] * 2 + [["312"]] * 2 + [["313"]] * 2 + [["314"]] * 2 == sorted(modules)
    checkout = (ROOT / "queuectl/web").rglob("*.*")
    shown = {os.fspath(path.relative_to(ROOT)) for path in checkout if path.suffix != ".pyc"}
    assert shown <= inside
    assert not [name for name in names if name.endswith((".pyc", ".pyi")) or "/tests/" in name]
    units = ("queuectld.service", "queuectld.socket", "queuectl-runner.service")
    units += ("queuectl-web.service",)
    for folder in ("system", "user"):
        assert {f"/usr/lib/systemd/{folder}/{unit}" for unit in units} <= names
    assert {"/usr/lib/sysusers.d/queuectl.conf", "/usr/lib/tmpfiles.d/queuectl.conf"} <= names
    assert {f"/usr/share/man/man1/queuectl-{name}.1.gz" for name in MODULES} <= names
    assert {*PROGRAMS, *CONFFILES} <= names


def test_what_the_runners_unit_names_is_there(packages: Packages) -> None:
    """
    The runner refuses to start without its policy and its executor, or when others can write them.
    """
    need("dpkg-deb")
    unit = (ROOT / "systemd/queuectl-runner.service").read_text()
    (line,) = re.findall(r"^ExecStart=(.*)$", unit, re.MULTILINE)
    program, *options = line.split()
    policy, executor = (options[options.index(o) + 1] for o in ("--policy", "--executor"))
    assert policy in CONFFILES
    members = deb_members(packages.deb)
    for name in (program, policy, executor, *map(str, Path(executor).parents)):
        each = members.get(name)
        if each is not None:
            assert (0, 0, 0) == (each.uid, each.gid, each.mode & 0o022), name
    assert {program, policy, executor} <= members.keys()


def test_the_executor_is_static(packages: Packages, tmp_path: Path) -> None:
    """
    It is started as root for each job: no library and no loader takes part, and there is nothing
    that a machine of another age could lack.
    """
    need("dpkg-deb", "readelf")
    output("dpkg-deb", "--extract", packages.deb, tmp_path)
    program = tmp_path / f"{LIBRARY}executor".lstrip("/")
    told = output("readelf", "--wide", "--program-headers", "--dynamic", program)
    assert "DYN" in told
    assert "GNU_RELRO" in told
    assert "INTERP" not in told
    assert "(NEEDED)" not in told


def test_deb_control(packages: Packages) -> None:
    """
    The version is the program's, nothing is needed that a small server lacks, and what an
    administrator may change is kept.
    """
    need("dpkg-deb")
    fields = deb_fields(packages.deb)
    assert f"{__version__}-1" == fields["Version"]
    needed = fields["Depends"].split(", ")
    assert {"python3", "python3-systemd", "systemd", "libc6"} == {e.split()[0] for e in needed}
    assert "python3 (>= 3.11)" in needed
    assert CONFFILES == control_file(packages.deb, "conffiles").split()


def test_rpm_header(packages: Packages) -> None:
    """
    The same for the RPM; documentation is marked, so that it can be left out.
    """
    need("rpm")
    assert [f"{__version__}-1"] == rpm_query(packages.rpm, "%{VERSION}-%{RELEASE}\n")
    lines = rpm_query(packages.rpm, "[%{FILENAMES} %{FILEFLAGS:fflags}.\n]")
    flags = dict(line.split() for line in lines)
    assert {"cn."} == {flags[name] for name in CONFFILES}
    pages = {flag for name, flag in flags.items() if name.startswith("/usr/share/man/")}
    assert {"d."} == pages
    needed = [
        each for each in rpm_query(packages.rpm, "[%{REQUIRENAME}\n]") if "rpmlib" not in each
    ]
    assert ["systemd"] == [each for each in needed if each[0] != "("]
    # There is none for an interpreter that stands beside an older python3.
    assert "(python3-systemd if python3 >= 3.11)" in needed


def test_lintian(packages: Packages) -> None:
    """
    Debian's checker finds neither errors nor warnings; each override says why.
    """
    need("lintian")
    command = ["lintian", "--allow-root", "--fail-on", "error,warning", packages.deb]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert (0, "") == (done.returncode, done.stdout), done.stderr


def test_rpmlint(packages: Packages) -> None:
    """
    Fedora's checker finds neither errors nor warnings; each filter says why.
    """
    need("rpmlint")
    command = ["rpmlint", "-c", ROOT / "packaging/rpm/rpmlint.toml", packages.rpm]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "0 errors, 0 warnings" in done.stdout, done.stdout


def test_every_override_has_its_reason() -> None:
    """
    What a checker is told to pass over stands below a comment that says why.
    """
    for name in ("deb/lintian-overrides", "rpm/rpmlint.toml"):
        before = ""
        for line in (ROOT / "packaging" / name).read_text().splitlines():
            override = line.startswith("queuectl:") or line.strip().startswith('"')
            explained = before.strip().startswith("#") or before.strip().startswith('"')
            assert not override or explained or "#" in line, line
            before = line


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda path: f"{path.parent.name}/{path.name}")
def test_scripts_are_valid(script: Path) -> None:
    """
    What dpkg, rpm and the kernel are given parses.
    """
    text = script.read_text()
    if "python3" in text.partition("\n")[0] or script.suffix == ".py":
        compile(text, script, "exec")
    else:
        subprocess.run(["sh", "-n", script], check=True)


def test_the_launcher_is_readable_for_old_interpreters() -> None:
    """
    Where python3 is too old, the launcher must still get as far as finding another.
    """
    import ast

    ast.parse((ROOT / "packaging/lib/launch.py").read_text(), feature_version=(3, 6))
