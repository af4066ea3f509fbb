"""
What the daemon tells of itself, and the queue cannot: by request, the function that answers.
"""

from collections.abc import Callable
from typing import Any

from queuectl.measures import GetMetrics
from queuectl.protocol import Status
from queuectld.core.peer import Peer
from queuectld.runtime.meters import metrics
from queuectld.runtime.status import status_report

#: Each is given the daemon, the call, the time and who asks.
REPORTS: dict[type, Callable[[Any, int, int, Peer], Any]] = {
    Status: status_report,
    GetMetrics: metrics,
}
