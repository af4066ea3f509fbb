"""
A control group for each box. Boxes that shared one would share the groups of their units: to kill
a unit in one box would be to kill it in all, and none would see it empty while another has it.
"""

import os
import time
from pathlib import Path

REMOVE_S_MAX = 10.0
#: Where systemd-nspawn puts what it starts, and in there, who comes in from outside. systemd does
#: not believe that a process is of its machine if its group is not.
VISITORS = "payload/visitors"


def own_groups() -> list[Path]:
    """
    Return where this process is in the hierarchies that systemd keeps its units in: the unified
    one, and beside it, if there is one, that of version 1 which only names them.
    """
    paths: dict[str, str] = {}
    for line in Path("/proc/self/cgroup").read_text().splitlines():
        _, controllers, path = line.split(":", 2)
        paths[controllers] = path
    found: dict[str, Path] = {}
    for line in Path("/proc/self/mountinfo").read_text().splitlines():
        mount, _, kind = line.partition(" - ")
        filesystem, _, options = kind.split(" ", 2)
        controllers = "name=systemd" if "name=systemd" in options.split(",") else ""
        is_ours = filesystem == "cgroup2" or (filesystem == "cgroup" and controllers)
        if is_ours and controllers in paths:
            # One may be mounted at several places.
            found.setdefault(controllers, Path(mount.split(" ")[4] + paths[controllers]))
    return list(found.values())


class ControlGroup:
    """
    One group, in each of those hierarchies: made here, entered by a process, removed when empty.
    """

    def __init__(self, name: str) -> None:
        self._paths = [group / name for group in own_groups()]
        for path in self._paths:
            path.mkdir()

    def enter(self) -> None:
        """
        Put the calling process into it.
        """
        for path in self._paths:
            (path / "cgroup.procs").write_text("0")

    def visitors(self) -> list[Path]:
        """
        Return the files that a process writes "0" to, to be among who comes in from outside.
        """
        folders = [path / VISITORS for path in self._paths]
        for folder in folders:
            folder.mkdir(parents=True, exist_ok=True)  # systemd removes it when it is empty.
        return [folder / "cgroup.procs" for folder in folders]

    def remove(self) -> None:
        """
        Remove it and all below it. Its processes have ended, but the kernel may still list some.
        """
        deadline = time.monotonic() + REMOVE_S_MAX
        for path in self._paths:
            while path.exists():
                for folder, _, _ in os.walk(path, topdown=False):
                    try:
                        os.rmdir(folder)
                    except OSError:
                        assert time.monotonic() < deadline, f"{folder} is not empty"
                        time.sleep(0.01)
