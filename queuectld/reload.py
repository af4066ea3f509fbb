"""
SIGHUP: read the configuration again, take over what can change while the daemon runs, say what
cannot.

A configuration with a fault changes nothing: the one in force holds, as a whole.
"""

import argparse
import os

from queuectl.settings import SETTINGS
from queuectld.configuration import OWN, Configuration, ConfigurationError
from queuectld.core.events import Configured
from queuectld.options import configuration
from queuectld.runtime.daemon import Daemon
from queuectld.runtime.log import Log


class Reloader:
    """
    Knows the configuration in force.
    """

    def __init__(
        self, daemon: Daemon, options: argparse.Namespace, current: Configuration, log: Log
    ) -> None:
        self._daemon = daemon
        self._options = options
        #: What the daemon was started with, for what holds until it ends.
        self._first = current
        self._current = current
        self._log = log

    def reload(self) -> None:
        """
        Read it again.
        """
        daemon = self._daemon
        daemon.manager.reloading()
        try:
            found = configuration(self._options, os.environ)
        except ConfigurationError as error:
            daemon.log.error("reload_failed", error=str(error))
        else:
            self._take_over(found)
        daemon.manager.ready()

    def _take_over(self, found: Configuration) -> None:
        daemon = self._daemon
        changed = found.changed_from(self._current)
        live = [key for key in changed if key in SETTINGS or OWN[key].live]
        daemon.event(Configured(*found.settings()))
        self._log.set_level(found.choice("log_level"))
        daemon.log.info("reloaded", changed=live)
        needed = [
            key for key in found.changed_from(self._first) if key in OWN and not OWN[key].live
        ]
        if needed:
            daemon.log.warning("restart_needed", keys=needed)
        self._current = found
