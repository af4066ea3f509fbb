"""
Every message that crosses the control socket, in two unions: what a decoder of any of them is made
of. The daemon's end needs all; a command imports only the few that it sends and hears.
"""

from queuectl.editing import Edit
from queuectl.measures import GetHistory, GetMetrics, History, Metrics
from queuectl.protocol import (
    Act,
    Acted,
    Config,
    DeleteQueue,
    Done,
    Enqueue,
    Enqueued,
    GetConfig,
    Hello,
    JobDetail,
    Jobs,
    List,
    ListQueues,
    ListWorkers,
    LogEnd,
    Logs,
    Output,
    Queues,
    Refused,
    SetConfig,
    SetQueue,
    Show,
    Shutdown,
    StartWorkers,
    Status,
    StatusReport,
    StopWorkers,
    Wait,
    Waited,
    Welcome,
    Workers,
)
from queuectl.tokens import CreateToken, ListTokens, RevokeToken, TokenCreated, Tokens
from queuectl.watching import Changed, Watch

Request = (
    Hello
    | CreateToken
    | ListTokens
    | RevokeToken
    | Enqueue
    | List
    | Show
    | Logs
    | Act
    | Edit
    | Wait
    | Watch
    | Status
    | GetMetrics
    | GetHistory
    | StartWorkers
    | StopWorkers
    | ListWorkers
    | GetConfig
    | SetConfig
    | ListQueues
    | SetQueue
    | DeleteQueue
    | Shutdown
)

Response = (
    Welcome
    | TokenCreated
    | Tokens
    | Refused
    | Done
    | Enqueued
    | Jobs
    | JobDetail
    | Output
    | LogEnd
    | Acted
    | Waited
    | Changed
    | StatusReport
    | Metrics
    | History
    | Workers
    | Config
    | Queues
)
