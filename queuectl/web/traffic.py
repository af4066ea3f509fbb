"""
What a gateway has served: answers by method, route and status, of which there are only so many
kinds. What never came to a route, because it was refused before or there is none, has none.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from starlette.routing import BaseRoute, Mount, Route, WebSocketRoute

#: Of requests. Another one is anybody's invention, and refused.
METHODS = frozenset({"GET", "HEAD", "OPTIONS", "POST", "PUT", "PATCH", "DELETE"})
NO_ROUTE = "none"
OTHER_METHOD = "other"
WEBSOCKET = "WEBSOCKET"


class Kind(NamedTuple):
    method: str
    route: str
    status: int


class Traffic:
    """
    The answers of one gateway.
    """

    def __init__(self) -> None:
        self.answers: Counter[Kind] = Counter()
        #: The path of each route, by the endpoint that an ASGI scope has once it came to one.
        self._paths: dict[Any, str] = {}

    def learn(self, routes: Iterable[BaseRoute]) -> None:
        """
        Know these routes, none of which share an endpoint.
        """
        for route in routes:
            if isinstance(route, Route | WebSocketRoute):
                self._paths[route.endpoint] = route.path
            elif isinstance(route, Mount):
                self._paths[route.app] = f"{route.path}/"

    def answered(self, scope: Mapping[str, Any], status: int) -> None:
        """
        Count an answer, or with status 101 a WebSocket that was accepted.
        """
        method = scope.get("method", WEBSOCKET)
        if method not in METHODS and method != WEBSOCKET:
            method = OTHER_METHOD
        route = self._paths.get(scope.get("endpoint"), NO_ROUTE)
        self.answers[Kind(method, route, status)] += 1
