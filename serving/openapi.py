"""Descriptions of a served release for programs: metadata of Open Inference v2, and OpenAPI 3.1."""

from __future__ import annotations

from typing import Any

from palisade.data.columns import Columns, Numeric
from palisade.data.tokens import Tokens
from palisade.serving.completions import DEFAULT_TOKENS, MAX_LOGPROBS, TOKENS_AT_ONCE
from palisade.serving.served import Served

COMPLETIONS_PATH = "/v1/completions"
ERROR_MEANINGS = {
    "400": "the body is no rows of this model",
    "401": "no valid key",
    "403": "the key is suspended, or its budget of different records is spent",
    "408": "the body came too slowly",
    "413": "more rows, or bytes, than may come at once",
    "415": "a packed body",
    "421": "there are no keys, and the request names another machine, or comes from a page of another site",
    "422": "a value that its column cannot have",
    "429": "too many records for now; Retry-After says for how many seconds",
    "503": "the counts cannot be kept, or too much is waiting",
}


def model_metadata(served: Served) -> dict[str, Any]:
    """Metadata of the model, as Open Inference v2 names its tensors."""
    if served.is_language_model:
        text = {"datatype": "BYTES", "shape": [-1]}
        return {
            "name": served.name, "versions": ["1"], "platform": "palisade", "inputs": [{"name": "prompt", **text}],
            "outputs": [{"name": "text", **text}],
        }  # fmt: skip
    classes = list(served.release.classes)
    output = {
        "probabilities": {"name": "probabilities", "datatype": "FP32", "shape": [-1, len(classes)]},
        "label": {"name": "label", "datatype": "BYTES", "shape": [-1]},
        "counts": {"name": "counts", "datatype": "FP64", "shape": [len(classes)]},
    }[served.release.form]
    return {
        "name": served.name,
        "versions": ["1"],
        "platform": "palisade",
        "inputs": _inputs(served),
        "outputs": [{**output, "parameters": {"classes": classes}}],
    }


def _inputs(served: Served) -> list[dict[str, Any]]:
    step = served.release.preprocessing
    if isinstance(step, Columns):
        kinds = {name: "FP64" if isinstance(column, Numeric) else "BYTES" for name, column in step.columns.items()}
        return [{"name": name, "datatype": kind, "shape": [-1]} for name, kind in kinds.items()]
    if isinstance(step, Tokens):
        return [{"name": "input", "datatype": "BYTES", "shape": [-1]}]
    return [{"name": "input", "datatype": "FP64", "shape": [-1, *served.rows.shape]}]


def openapi(served: Served) -> dict[str, Any]:
    """The addresses that take rows or prompts, with what they take and return."""
    if served.is_language_model:
        return _description(
            served, {COMPLETIONS_PATH: _post(_prompts(served), _object({"choices": {"type": "array"}}))}
        )
    form = served.release.form
    item = {"type": "string"} if form == "label" else {"type": "array", "items": {"type": "number"}}
    v1_answer = {"counts": {"type": "array", "items": {"type": "number"}}}
    if form != "counts":
        v1_answer = {"predictions": {"type": "array", "items": item}}
    instances = {"type": "array", "items": _row(served), "minItems": 1, "maxItems": served.most}
    tensor = {
        "type": "object",
        "required": ["name", "shape", "datatype", "data"],
        "properties": {"name": {"enum": [each["name"] for each in _inputs(served)]}, "data": {"type": "array"}},
    }
    v1, v2 = f"/v1/models/{served.name}:predict", f"/v2/models/{served.name}/infer"
    paths = {
        v1: _post(_object({"instances": instances}), _object(v1_answer)),
        v2: _post(
            _object({"inputs": {"type": "array", "items": tensor}}),
            _object({"outputs": {"type": "array", "items": {"type": "object"}}}),
        ),
    }
    return _description(served, paths)


def _description(served: Served, paths: dict[str, Any]) -> dict[str, Any]:
    return {
        "openapi": "3.1.0",
        "info": {"title": served.name, "version": "1"},
        "components": {"securitySchemes": {"key": {"type": "http", "scheme": "bearer"}}},
        "security": [{"key": []}, {}],
        "paths": paths,
    }


def _prompts(served: Served) -> dict[str, Any]:
    texts = {"type": "array", "items": {"type": "string"}, "minItems": 1, "maxItems": served.most}
    own = {
        "prompt": {"oneOf": [{"type": "string"}, texts]},
        "max_tokens": {"type": "integer", "minimum": 0, "maximum": TOKENS_AT_ONCE, "default": DEFAULT_TOKENS},
        "seed": {"type": "integer", "minimum": 0, "default": 0},
        "echo": {"type": "boolean", "default": False},
        "logprobs": {"type": ["integer", "null"], "minimum": 0, "maximum": MAX_LOGPROBS},
    }
    return {"type": "object", "required": ["prompt"], "properties": own}


def _row(served: Served) -> dict[str, Any]:
    step = served.release.preprocessing
    if isinstance(step, Columns):
        return _object({name: {"type": ["string", "number", "boolean", "null"]} for name in step.columns})
    if isinstance(step, Tokens):
        return {"type": "string"}
    row: dict[str, Any] = {"type": "number"}
    for length in reversed(served.rows.shape):
        row = {"type": "array", "items": row, "minItems": length, "maxItems": length}
    return row


def _object(properties: dict[str, Any]) -> dict[str, Any]:
    return {"type": "object", "required": list(properties), "properties": properties}


def _post(request: dict[str, Any], answer: dict[str, Any]) -> dict[str, Any]:
    def content(schema: dict[str, Any]) -> dict[str, Any]:
        return {"content": {"application/json": {"schema": schema}}}

    refusals = {status: {"description": meaning} for status, meaning in ERROR_MEANINGS.items()}
    answers = {"200": {"description": "answers", **content(answer)}, **refusals}
    return {"post": {"requestBody": {"required": True, **content(request)}, "responses": answers}}
