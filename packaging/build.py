"""
build.py: make the deb and the RPM in dist/, from packaging/nfpm.yaml.
build.py --man DIRECTORY: write the manual pages there, and nothing else.

Two runs of one commit give the same bytes, on any machine with the same C compiler (there is one
small program to compile): what is brought is pinned by hash, files are stamped with the time of the
commit (SOURCE_DATE_EPOCH, if that is set), and the program that writes the packages is pinned too.
That program is nfpm, a single static binary: the distributions' own tools would be two
descriptions, rpmbuild's output depends on the release of rpm that is at hand, and neither builds
for the other kind of system.

Everything is prepared in build/stage, where it can be looked at.
"""

import gzip
import hashlib
import os
import re
import shutil
import subprocess
import sys
import tempfile
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

PACKAGING = Path(__file__).resolve().parent
ROOT = PACKAGING.parent
STAGE = ROOT / "build/stage"
WHEELS = ROOT / "build/wheels"
DIST = ROOT / "dist"

#: Each has an extension module of msgspec of its own.
PYTHONS = ("3.11", "3.12", "3.13", "3.14")
#: The processor as the kernel and wheels call it -> as Debian does; nfpm takes Debian's for both.
ARCHITECTURES = {"x86_64": "amd64", "aarch64": "arm64"}
#: What packages are made from.
SOURCES = (
    "queuectl", "queuectld", "packaging", "systemd", "docs", "README.md", "CHANGELOG.md", "LICENSE"
)  # fmt: skip
#: The text of a license that Debian has on every machine, and what stands for it there.
APACHE = re.compile(
    r" *Apache License\n *Version 2\.0.*limitations under the License\.\n", re.DOTALL
)
APACHE_ON_DEBIAN = "The Apache License 2.0; its text is in /usr/share/common-licenses/Apache-2.0.\n"
#: Files of wheels that a running program does not need.
LEFT_OUT = (".pyi", "py.typed", ".c")


def main() -> int:
    """
    Build both packages for this processor; print what they are.
    """
    sys.path.insert(0, os.fspath(ROOT))
    if sys.argv[1:2] == ["--man"] and len(sys.argv) == 3:
        write_pages(Path(sys.argv[2]))
        return 0
    if len(sys.argv) > 1:
        sys.exit(__doc__)
    machine = os.uname().machine
    if machine not in ARCHITECTURES:
        sys.exit(f"build.py: there are no wheels for {machine}; one of {', '.join(ARCHITECTURES)}")
    seconds = source_date_epoch()
    stage(machine, seconds)
    for path in write_packages(ARCHITECTURES[machine], seconds):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        sys.stdout.write(f"{digest}  {path.relative_to(ROOT)}\n")
    return 0


def source_date_epoch() -> int:
    """
    Return the time that is stamped on everything, seconds since the epoch.

    A tree that was unpacked from an archive of a commit has no git, but the commit's time on each
    file. A repository that such a tree happens to lie in is not asked.
    """
    given = os.environ.get("SOURCE_DATE_EPOCH", "")
    if given.isdigit():
        return int(given)
    if given:
        sys.exit(f"build.py: SOURCE_DATE_EPOCH is {given!r}; seconds since 1970, or leave it unset")
    if not (ROOT / ".git").exists():
        return max(int(path.stat().st_mtime) for path in sources())
    log = ["git", "-C", os.fspath(ROOT), "log", "-1", "--format=%ct"]
    try:
        return int(subprocess.run(log, check=True, capture_output=True, text=True).stdout)
    except FileNotFoundError:
        said = "there is no git here"
    except subprocess.CalledProcessError as error:
        said = error.stderr.strip().partition("\n")[0]
    sys.exit(f"build.py: the commit's time is not to be had ({said}); set SOURCE_DATE_EPOCH to it")


def sources() -> Iterator[Path]:
    """
    Yield every file that packages are made from, and nothing that running or building left.
    """
    for name in SOURCES:
        path = ROOT / name
        files = [path] if path.is_file() else sorted(path.rglob("*"))
        yield from (each for each in files if each.is_file() and "__pycache__" not in each.parts)


def version() -> str:
    """
    Return the version, from its one place.
    """
    text = (ROOT / "queuectl/__init__.py").read_text()
    found = re.search(r'^__version__ = "([0-9.]+)"$', text, re.MULTILINE)
    assert found is not None
    return found[1]


# --- the tree ---------------------------------------------------------------------------------


def stage(machine: str, seconds: int) -> None:
    """
    Make build/stage anew: the tree of both packages, stamped with the time *seconds*.
    """
    shutil.rmtree(STAGE, ignore_errors=True)
    library = STAGE / "usr/lib/queuectl"
    for package in ("queuectl", "queuectld"):
        for source in sorted((ROOT / package).rglob("*.py")):
            copy(source, library / source.relative_to(ROOT))
    for folder in ("templates", "static"):
        for source in sorted((ROOT / "queuectl/web" / folder).rglob("*.*")):
            copy(source, library / source.relative_to(ROOT))
    copy(PACKAGING / "lib/launch.py", library / "launch.py")
    copy(PACKAGING / "lib/python", library / "python", mode=0o755)
    for launcher in sorted((PACKAGING / "bin").iterdir()):
        copy(launcher, STAGE / "usr/bin" / launcher.name, mode=0o755)
    for source in sorted((PACKAGING / "etc").iterdir()):
        copy(source, STAGE / "etc/queuectl" / source.name)
    for source in sorted((ROOT / "queuectld/runner").glob("*.c")):
        compile_program(source, library / source.stem)
    licenses = unpack_wheels(machine, library)
    stage_units()
    stage_texts(licenses, seconds)
    stage_pages(seconds)
    stage_completions()
    for path in STAGE.rglob("*"):
        os.utime(path, (seconds, seconds))


def copy(source: Path, target: Path, mode: int = 0o644) -> None:
    """
    Copy a file, with *mode* whatever the umask and the checkout made of it.
    """
    write(target, source.read_bytes(), mode)


def write(target: Path, data: bytes, mode: int = 0o644) -> None:
    """
    Write a file and the directories above it.
    """
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_bytes(data)
    target.chmod(mode)
    for parent in target.relative_to(STAGE).parents:
        (STAGE / parent).chmod(0o755)


def compile_program(source: Path, target: Path) -> None:
    """
    Compile a program of one C file. Where in the file system it was built leaves no trace.

    It is static: one is started for each job, which loading libraries would make dearer by half,
    and what it does as root before that job then hangs on this file alone.
    """
    with tempfile.TemporaryDirectory() as folder:
        made = Path(folder) / source.stem
        command = ["cc", "-std=gnu11", "-O2", "-Wall", "-Wextra", "-Werror", "-s"]
        command += ["-fPIE", "-static-pie", "-Wl,-z,relro,-z,now"]
        command += ["-D_FORTIFY_SOURCE=2", "-fstack-protector-strong"]
        subprocess.run([*command, "-o", made, source.name], cwd=source.parent, check=True)
        copy(made, target, mode=0o755)


def unpack_wheels(machine: str, library: Path) -> dict[str, str]:
    """
    Put the pinned libraries into *library*; return each one's license by name and version.

    The wheels of one library for several interpreters come to lie in one directory: they differ
    in the extension module, whose name says for which interpreter it is, and in nothing else.
    """
    licenses: dict[str, str] = {}
    notices: dict[str, str] = {}
    for wheel in fetch_wheels(machine):
        name, number = wheel.name.split("-")[:2]
        with zipfile.ZipFile(wheel) as archive:
            for entry in sorted(archive.namelist()):
                if entry.endswith("/"):
                    continue
                data = archive.read(entry)
                if ".dist-info/" in entry:
                    if "/licenses/" in entry:
                        texts = notices if "NOTICE" in entry else licenses
                        texts[f"{name} {number}"] = data.decode()
                    continue
                target = library / entry
                assert not target.exists() or target.read_bytes() == data, f"{wheel}: {entry}"
                if not entry.endswith(LEFT_OUT):
                    write(target, data)
    return {each: text + notices.get(each, "") for each, text in licenses.items()}


def fetch_wheels(machine: str) -> Iterator[Path]:
    """
    Yield the pinned wheels, which are downloaded once.
    """
    wanted = WHEELS / machine
    stamp = wanted / hashlib.sha256((PACKAGING / "wheels.txt").read_bytes()).hexdigest()
    if not stamp.exists():
        shutil.rmtree(wanted, ignore_errors=True)
        for python in PYTHONS:
            platforms = [f"--platform=manylinux{each}_{machine}" for each in ("2014", "_2_28")]
            pip("download", "--no-deps", "--only-binary=:all:", "--require-hashes",
                f"--python-version={python}", *platforms, f"--dest={wanted}",
                f"--requirement={PACKAGING / 'wheels.txt'}")  # fmt: skip
        stamp.touch()
    yield from sorted(wanted.glob("*.whl"))


def pip(*words: str) -> None:
    """
    Run the pip of this interpreter.
    """
    quiet = ["--quiet", "--disable-pip-version-check"]
    subprocess.run([sys.executable, "-m", "pip", *words, *quiet], check=True)


def stage_units() -> None:
    """
    Put what belongs to systemd where its packages have it.
    """
    units = ROOT / "systemd"
    for kind in ("*.service", "*.socket"):
        for source in sorted(units.glob(kind)):
            copy(source, STAGE / "usr/lib/systemd/system" / source.name)
        for source in sorted((units / "user").glob(kind)):
            copy(source, STAGE / "usr/lib/systemd/user" / source.name)
    copy(units / "sysusers.conf", STAGE / "usr/lib/sysusers.d/queuectl.conf")
    copy(units / "tmpfiles.conf", STAGE / "usr/lib/tmpfiles.d/queuectl.conf")
    copy(units / "queuectl.catalog", STAGE / "usr/lib/systemd/catalog/queuectl.catalog")


def stage_texts(licenses: dict[str, str], seconds: int) -> None:
    """
    Put licenses, changelogs and the documentation where each distribution looks for them.
    """
    doc = STAGE / "usr/share/doc/queuectl"
    own = (ROOT / "LICENSE").read_text()
    write(doc / "copyright", debian_copyright(own, licenses).encode())
    whole = own + "".join(f"\n--- {name} ---\n\n{licenses[name]}" for name in sorted(licenses))
    write(STAGE / "rpm/LICENSE", whole.encode())
    write(doc / "changelog.gz", compressed((ROOT / "CHANGELOG.md").read_bytes()))
    write(STAGE / "changelog.yaml", changelog(seconds).encode())
    copy(ROOT / "README.md", doc / "README.md")
    for source in sorted((ROOT / "docs").iterdir()):
        if source.suffix in (".md", ".json", ".yml"):
            copy(source, doc / "docs" / source.name)
    copy(PACKAGING / "deb/lintian-overrides", STAGE / "deb/lintian-overrides")


def debian_copyright(own: str, licenses: dict[str, str]) -> str:
    """
    Return the file in which Debian wants every license, in its machine-readable form.
    """
    header = "https://www.debian.org/doc/packaging-manuals/copyright-format/1.0/"
    parts = [f"Format: {header}\nUpstream-Name: queuectl\n"]
    texts = {"queuectl": (own, "*")}
    for name, text in licenses.items():
        library = name.split()[0]
        texts[library] = (APACHE.sub(APACHE_ON_DEBIAN, text), f"usr/lib/queuectl/{library}*")
    for library, (text, files) in texts.items():
        found = re.search(r"Copyright.*\d{4}.*", text)
        holder = found[0].strip() if found else f"The authors of {library}"
        lines = [f" {line.rstrip()}" if line.strip() else " ." for line in text.splitlines()]
        parts.append(
            f"Files: {files}\nCopyright: {holder}\nLicense: {library}\n" + "\n".join(lines) + "\n"
        )
    return "\n".join(parts)


def changelog(seconds: int) -> str:
    """
    Return the packages' own changelog, which refers to the program's, in nfpm's form.
    """
    description = (PACKAGING / "nfpm.yaml").read_text()
    maintainer = re.search(r"^maintainer: (.*)$", description, re.MULTILINE)
    assert maintainer is not None
    return (
        f"- semver: {version()}-1\n"
        f"  date: {datetime.fromtimestamp(seconds, UTC).isoformat().replace('+00:00', 'Z')}\n"
        f"  packager: {maintainer[1]}\n"
        "  deb: {urgency: medium, distributions: [stable]}\n"
        "  changes:\n"
        f"    - note: Version {version()}; see /usr/share/doc/queuectl/changelog.gz.\n"
    )


def compressed(data: bytes) -> bytes:
    """
    Return *data* compressed, without a time in it.
    """
    return gzip.compress(data, 9, mtime=0)


def stage_pages(seconds: int) -> None:
    """
    Put the manual pages where man(1) looks for them.
    """
    for name, text in manual_pages(seconds).items():
        section = name.rpartition(".")[2]
        write(STAGE / f"usr/share/man/man{section}/{name}.gz", compressed(text.encode()))


def write_pages(directory: Path) -> None:
    """
    Write the manual pages as they are into a directory.
    """
    directory.mkdir(parents=True, exist_ok=True)
    for name, text in manual_pages(source_date_epoch()).items():
        (directory / name).write_text(text)


def manual_pages(seconds: int) -> dict[str, str]:
    """
    Return the text of each manual page by its file's name.
    """
    from manpages import pages

    return pages(version(), datetime.fromtimestamp(seconds, UTC).date())


def stage_completions() -> None:
    """
    Write the completions where the shells look for them.
    """
    from queuectl.completion import SCRIPTS

    share = STAGE / "usr/share"
    write(share / "bash-completion/completions/queuectl", SCRIPTS["bash"].encode())
    write(share / "fish/vendor_completions.d/queuectl.fish", SCRIPTS["fish"].encode())
    for kind in ("deb", "rpm"):
        write(STAGE / kind / "zsh/_queuectl", SCRIPTS["zsh"].encode())


# --- the packages -----------------------------------------------------------------------------


def write_packages(architecture: str, seconds: int) -> list[Path]:
    """
    Have both packages written; return their paths.
    """
    nfpm = find_nfpm()
    description = ROOT / "build/nfpm.yaml"
    text = (PACKAGING / "nfpm.yaml").read_text()
    description.write_text(text.replace("contents:\n", f"contents:\n{documentation()}", 1))
    DIST.mkdir(exist_ok=True)
    environment = {
        **os.environ,
        "SOURCE_DATE_EPOCH": str(seconds),
        "PACKAGE_ARCH": architecture,
        "PACKAGE_VERSION": version(),
    }
    paths: list[Path] = []
    for kind in ("deb", "rpm"):
        for old in DIST.glob(f"queuectl[-_]*.{kind}"):
            old.unlink()
        command = [nfpm, "package", "--config", os.fspath(description)]
        command += ["--packager", kind, "--target", "dist/"]
        subprocess.run(command, cwd=ROOT, env=environment, check=True, stdout=subprocess.DEVNULL)
        paths += DIST.glob(f"*.{kind}")
    return paths


def documentation() -> str:
    """
    Return the lines that mark each file of documentation as such for the RPM.

    There are machines that leave documentation out. nfpm wants such files one by one.
    """
    folders = (STAGE / "usr/share/doc", STAGE / "usr/share/man")
    files = sorted(path for each in folders for path in each.rglob("*") if path.is_file())
    return "".join(
        f"  - {{src: {path.relative_to(ROOT)}, dst: /{path.relative_to(STAGE)}, "
        "type: doc, packager: rpm}\n"
        for path in files
    )


def find_nfpm() -> str:
    """
    Return the path of the pinned nfpm, which is downloaded once.
    """
    wanted = ROOT / "build/nfpm"
    program = wanted / "nfpm"
    if not program.exists():
        pip("download", "--no-deps", "--only-binary=:all:", "--require-hashes",
            f"--dest={wanted}", f"--requirement={PACKAGING / 'nfpm.txt'}")  # fmt: skip
        (wheel,) = wanted.glob("nfpm-*.whl")
        with zipfile.ZipFile(wheel) as archive:
            (entry,) = (each for each in archive.namelist() if each.endswith("/scripts/nfpm"))
            program.write_bytes(archive.read(entry))
        program.chmod(0o755)
    return os.fspath(program)


if __name__ == "__main__":
    sys.exit(main())
