"""
The API as an OpenAPI 3.1 document, made of its operations.

Shapes become JSON Schema by msgspec. An example of an answer is put together from the examples of
its fields.
"""

from collections.abc import Sequence
from http import HTTPStatus
from typing import Any

import msgspec
from msgspec import inspect as types

from queuectl import __version__
from queuectl.views import JOB_STATES
from queuectl.web.operations import JSON, Answer, Body, Operation, Parameter
from queuectl.web.problems import MEDIA_TYPE, Problem

_REF = "#/components/schemas/{name}"
#: What every request can be refused with, what one with a body too, and what it means.
_ALWAYS = (400, 401, 403, 414, 429, 500, 501, 503, 504)
_WITH_A_BODY = (408, 413, 415)
_MEANINGS = {
    400: "A field or a parameter breaks a rule.",
    401: "No token, or none that is good for anything.",
    403: "Not for this account, or not for this token.",
    404: "There is no such job, attempt, queue or setting.",
    408: "The body did not arrive in time.",
    409: "Wrong state, or an id that is taken.",
    413: "The request is too long.",
    414: "The path and the query are too long.",
    415: "The body is of another type.",
    416: "There is no output in this range.",
    429: "Too many refused tokens from this address; try again after Retry-After seconds.",
    500: "Not confirmed stored.",
    501: "The daemon is too old for it.",
    503: "No room now, or no daemon; try again after Retry-After seconds.",
    504: "Not finished in time, or the daemon did not answer in time.",
}
_SCOPES = {
    "read": "Looks.",
    "submit": "Makes jobs: the token needs the scope submit.",
    "manage": "Changes: the token needs the scope manage.",
}


def document(operations: Sequence[Operation], prefix: str) -> dict[str, Any]:
    """
    Return the document of *operations*, which are served below *prefix*.
    """
    shapes = [Problem, *_shapes(operations)]
    schemas, components = msgspec.json.schema_components(shapes, ref_template=_REF)
    schema_of = dict(zip(map(_name, shapes), schemas, strict=True))
    paths: dict[str, dict[str, Any]] = {}
    for operation in operations:
        item = paths.setdefault(operation.path, {})
        if parameters := _places(operation.path):
            item["parameters"] = parameters
        item[operation.method.lower()] = _operation(operation, schema_of)
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "queuectl",
            "version": __version__,
            "description": "A durable job queue for shell commands.",
        },
        "servers": [{"url": prefix}],
        "security": [{"token": []}],
        "paths": paths,
        "components": {
            "schemas": components,
            "securitySchemes": {"token": {"type": "http", "scheme": "bearer"}},
        },
    }


def _shapes(operations: Sequence[Operation]) -> list[Any]:
    found: dict[str, Any] = {}
    for operation in operations:
        held: list[Body | Answer] = [*operation.answers]
        if operation.body is not None:
            held.append(operation.body)
        for shape in [shape for each in held for shape in (each.type, each.alternative)]:
            if shape is not None:
                found[_name(shape)] = shape
    return list(found.values())


def _schema(held: Body | Answer, schema_of: dict[str, Any]) -> dict[str, Any]:
    schema: dict[str, Any] = schema_of[_name(held.type)]
    if held.alternative is None:
        return schema
    return {"anyOf": [schema, schema_of[_name(held.alternative)]]}


def _name(shape: Any) -> str:
    return str(shape)


def _places(path: str) -> list[dict[str, Any]]:
    """
    Return the parameters that stand in the path.
    """
    names = [part[1:-1] for part in path.split("/") if part.startswith("{")]
    examples = {"id": "17", "name": "default", "key": "max_retries"}
    return [
        {
            "name": name,
            "in": "path",
            "required": True,
            "schema": {"type": "string", "minLength": 1},
            "example": examples[name],
        }
        for name in names
    ]


def _operation(operation: Operation, schema_of: dict[str, Any]) -> dict[str, Any]:
    refusals = {*_ALWAYS, *operation.refusals, *(_WITH_A_BODY if operation.body else ())}
    described: dict[str, Any] = {
        "operationId": operation.name,
        "tags": [operation.path.split("/")[1]],
        "summary": operation.summary,
        "description": _SCOPES[operation.scope],
        "parameters": [
            *(_parameter(each, "query") for each in operation.query),
            *(_parameter(each, "header") for each in operation.headers),
        ],
        "responses": {
            **{str(each.status): _answer(each, schema_of) for each in operation.answers},
            **{str(each): _refusal(each) for each in sorted(refusals)},
        },
    }
    body = operation.body
    if body is not None:
        content = {"schema": _schema(body, schema_of)}
        examples = {name: {"value": value} for name, value in body.examples.items()}
        described["requestBody"] = {
            "required": body.required,
            "content": {
                media_type: {**content, "examples": examples}
                if media_type == JSON
                else {"schema": {"type": "string"}}
                for media_type in body.media_types
            },
        }
    return described


def _parameter(parameter: Parameter, place: str) -> dict[str, Any]:
    schemas: dict[str, dict[str, Any]] = {
        "count": {"type": "integer", "minimum": parameter.least, "maximum": parameter.most},
        "cursor": {"type": "string", "pattern": "^[0-9]{1,15}$"},
        "flag": {"type": "boolean"},
        "states": {"type": "array", "items": {"type": "string", "enum": list(JOB_STATES)}},
        "text": {"type": "string", "maxLength": parameter.most},
    }
    return {
        "name": parameter.name,
        "in": place,
        "description": parameter.help,
        "schema": schemas[parameter.kind],
        "example": parameter.example,
    }


def _answer(answer: Answer, schema_of: dict[str, Any]) -> dict[str, Any]:
    described: dict[str, Any] = {"description": answer.help}
    if answer.headers:
        described["headers"] = {
            name: {"description": help_, "schema": {"type": "string"}}
            for name, help_ in answer.headers.items()
        }
    if answer.type is not None:
        described["content"] = {
            answer.media_type: {
                "schema": _schema(answer, schema_of),
                "example": example_of(types.type_info(answer.type)),
            }
        }
    elif answer.media_type != JSON:
        described["content"] = {answer.media_type: {"schema": {"type": "string"}}}
    return described


def _refusal(status: int) -> dict[str, Any]:
    described: dict[str, Any] = {
        "description": _MEANINGS.get(status, HTTPStatus(status).phrase),
        "content": {MEDIA_TYPE: {"schema": {"$ref": _REF.format(name=Problem.__name__)}}},
    }
    if status in (HTTPStatus.TOO_MANY_REQUESTS, HTTPStatus.SERVICE_UNAVAILABLE):
        described["headers"] = {
            "Retry-After": {"description": "Seconds.", "schema": {"type": "string"}}
        }
    return described


def example_of(kind: types.Type) -> Any:
    """
    Return a value of a shape, put together from the examples of its parts.
    """
    if isinstance(kind, types.Metadata):
        examples = (kind.extra_json_schema or {}).get("examples")
        return examples[0] if examples else example_of(kind.type)
    if isinstance(kind, types.StructType):
        return {field.encode_name: example_of(field.type) for field in kind.fields}
    if isinstance(kind, types.UnionType):
        some = [each for each in kind.types if not isinstance(each, types.NoneType)]
        marked = [each for each in some if isinstance(each, types.Metadata)]
        if len(some) < len(kind.types):
            return example_of(marked[0]) if marked else None
        return example_of(some[0])
    if isinstance(kind, types.ListType):
        return [example_of(kind.item_type)]
    simple: dict[type, Any] = {types.StrType: "", types.IntType: 0, types.BoolType: False}
    simple |= {types.FloatType: 0.5, types.DictType: {}, types.AnyType: None}
    return simple[type(kind)]
