"""
Which requests may be about thousands of jobs, for which they take up to some 10 ms each, or have a
long answer: what a connection has not read is looked at before each of them.
"""

from queuectl.editing import Edit
from queuectl.measures import GetHistory, GetMetrics
from queuectl.protocol import Act, List, ListQueues, ListWorkers, Logs, Show, Wait
from queuectl.tokens import ListTokens
from queuectl.watching import Watch

LONG: frozenset[type] = frozenset(
    {Act, Edit, GetHistory, GetMetrics, List, ListQueues, ListTokens, ListWorkers, Logs, Show}
    | {Wait, Watch}
)
