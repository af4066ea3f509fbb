"""
How the packages' programs begin.

They run on the distribution's interpreter, started bare: `-I` keeps the environment and the current
directory out, `-S` does without site-packages and the time it takes to look for them. So there is
nothing to import from but the standard library and this directory, which holds our packages and the
libraries they need, pinned. Whatever else is installed on the machine, these are the modules that
run.

This file must be readable for every Python 3: where python3 is older than 3.11, the newest
interpreter that is beside it takes over.
"""

import os
import sys

DIRECTORY = "/usr/lib/queuectl"
#: The first one has the newest extension module that this package brings.
INTERPRETERS = ("python3.14", "python3.13", "python3.12", "python3.11")
VERSION_MIN = (3, 11)


def prepare(distribution_packages=False):
    """
    Make our modules importable; with *distribution_packages*, after them python3-systemd too.
    """
    if sys.version_info < VERSION_MIN:
        take_over()
    # Our programs start each other with the interpreter they run on. A bare one would not find us.
    sys.executable = DIRECTORY + "/python"
    if distribution_packages:
        minor = f"python3.{sys.version_info[1]}"
        sys.path.append("/usr/lib/python3/dist-packages")  # Debian
        sys.path.append(f"/usr/lib64/{minor}/site-packages")  # Fedora, RHEL


def take_over():
    """
    Go on in a newer interpreter. Does not return.
    """
    for name in INTERPRETERS:
        path = f"/usr/bin/{name}"
        if os.access(path, os.X_OK):
            os.execv(path, [path, "-IS", *sys.argv])
    sys.exit(f"queuectl needs Python 3.11 or newer; this is {sys.version}")


def run(words):
    """
    Do what `python3 WORDS` would, with our modules importable after `-P -m MODULE`.
    """
    if words[:2] != ["-P", "-m"] or len(words) < 3:
        # Something that brings its own path: only without what -S leaves out.
        os.execv(sys.executable, [sys.executable, "-S", *words])
    module = words[2]
    prepare(distribution_packages=module == "queuectld")
    import runpy

    sys.argv = words[2:]
    runpy.run_module(module, run_name="__main__", alter_sys=True)
