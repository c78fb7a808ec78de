"""The OpenAPI document of the HTTP side, which GET /openapi.json publishes."""

from __future__ import annotations

from typing import Any

from ._tensors import DTYPES

_ERRORS = {
    "400": "The request is malformed, or does not fit the model's names, types and shapes.",
    "401": "The token is missing or wrong.",
    "404": "There is no such model, version or open sequence.",
    "408": "The request did not arrive in time.",
    "409": "The sequence is open already.",
    "410": "The sequence has expired.",
    "413": "The request is too large.",
    "415": "The request is compressed.",
    "422": "The model fails on these values.",
    "429": "The client holds as many sequences as it may.",
    "503": "The queue or the server is full, or it is shutting down.",
    "504": "The request took too long.",
}


def document(version: str, models: dict[str, list[str]]) -> dict[str, Any]:
    """The document, for OpenAPI 3.1, of a server of these models and versions."""
    known = {"model": list(models), "version": sorted({v for versions in models.values() for v in versions})}
    paths: dict[str, Any] = {
        "/v2": {"get": _get("The server, and the protocol's extensions that it has.", "Server")},
        "/v2/health/live": {"get": _bare("Whether the server is alive.")},
        "/v2/health/ready": {"get": _bare("Whether the server takes new sequences.")},
        "/metrics": {"get": _bare("Metrics for Prometheus.", "text/plain", errors=["401"])},
        "/openapi.json": {"get": _bare("This document.", "application/json", errors=["401"])},
    }
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        parameters = [
            {"name": name, "in": "path", "required": True, "schema": {"type": "string", "enum": known[name]}}
            for name in ("model", "version")
            if f"{{{name}}}" in base
        ]
        paths[base] = {"parameters": parameters, "get": _get("The model's inputs and outputs.", "Model", "404")}
        ready = _bare("Whether the model is ready.", errors=["401", "404", "503"])
        paths[f"{base}/ready"] = {"parameters": parameters, "get": ready}
        paths[f"{base}/infer"] = {"parameters": parameters, "post": _infer()}
    return {
        "openapi": "3.1.0",
        "info": {
            "title": "rnn-export serve",
            "version": version,
            "description": "The Open Inference Protocol with the sequence and binary tensor extensions.",
        },
        "paths": paths,
        "components": {
            "schemas": _schemas(),
            "securitySchemes": {"bearer": {"type": "http", "scheme": "bearer"}},
        },
        "security": [{}, {"bearer": []}],
    }


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/components/schemas/{name}"}


def _errors(*statuses: str) -> dict[str, Any]:
    content = {"application/json": {"schema": _ref("Error")}}
    return {status: {"description": _ERRORS[status], "content": content} for status in statuses}


def _get(summary: str, schema: str, *errors: str) -> dict[str, Any]:
    done = {"description": summary, "content": {"application/json": {"schema": _ref(schema)}}}
    return {"summary": summary, "responses": {"200": done, **_errors("401", *errors)}}


def _bare(summary: str, media: str | None = None, errors: list[str] | None = None) -> dict[str, Any]:
    done: dict[str, Any] = {"description": summary}
    if media is not None:
        done["content"] = {media: {}}
    responses = {"200": done, **_errors(*(errors or []))}
    if "503" in responses or media is None:
        responses["503"] = {"description": _ERRORS["503"]}
    return {"summary": summary, "responses": responses}


def _infer() -> dict[str, Any]:
    binary = {"schema": {"type": "string", "format": "binary"}}
    done = {
        "description": "What the model makes of it.",
        "headers": {
            "Inference-Header-Content-Length": {
                "description": "How many bytes of the body are JSON, where raw tensors follow it.",
                "schema": {"type": "string"},
            }
        },
        "content": {"application/json": {"schema": _ref("InferResponse")}, "application/octet-stream": binary},
    }
    return {
        "summary": "Run the next chunk of a sequence, or a whole sequence where the model has no state.",
        "parameters": [
            {
                "name": "Inference-Header-Content-Length",
                "in": "header",
                "required": False,
                "schema": {"type": "string", "pattern": "^[0-9]{1,15}$"},
                "description": "How many bytes of the body are JSON; raw tensors follow it.",
            }
        ],
        "requestBody": {"required": True, "content": {"application/json": {"schema": _ref("InferRequest")}}},
        "responses": {"200": done, **_errors(*_ERRORS)},
    }


def _schemas() -> dict[str, Any]:
    text, texts = {"type": "string"}, {"type": "array", "items": {"type": "string"}}
    name = {"type": "string", "minLength": 1}
    shape = {"type": "array", "items": {"type": "integer", "minimum": 0}}
    tensor = _object({"name": name, "datatype": text, "shape": {"type": "array", "items": {"type": "integer"}}})
    datatype = {"type": "string", "enum": list(DTYPES)}
    return {
        "Error": _object({"error": text}),
        "Server": _object({"name": text, "version": text, "extensions": texts}),
        "Model": _object(
            {
                "name": text,
                "versions": texts,
                "platform": text,
                "inputs": {"type": "array", "items": tensor},
                "outputs": {"type": "array", "items": tensor},
                "limits": {
                    "type": "array",
                    "items": _object(
                        {
                            "axis": name,
                            "min": {"type": "integer", "minimum": 1},
                            "max": {"type": ["integer", "null"], "minimum": 1},
                            "reason": text,
                        }
                    ),
                },
            },
            required=["name", "versions", "platform", "inputs", "outputs"],
        ),
        "Parameters": {
            "type": "object",
            "properties": {
                "sequence_id": {
                    "oneOf": [
                        {"type": "integer", "minimum": 0, "maximum": 2**64 - 1},
                        {"type": "string", "maxLength": 128},
                    ]
                },
                "sequence_start": {"type": "boolean"},
                "sequence_end": {"type": "boolean"},
                "binary_data_output": {"type": "boolean"},
            },
        },
        "InferRequest": _object(
            {
                "id": text,
                "parameters": _ref("Parameters"),
                "inputs": {"type": "array", "items": _ref("Input")},
                "outputs": {"type": "array", "items": _ref("RequestedOutput")},
            },
            required=["inputs"],
        ),
        "Input": _object(
            {
                "name": name,
                "datatype": datatype,
                "shape": shape,
                "parameters": {
                    "type": "object",
                    "properties": {"binary_data_size": {"type": "integer", "minimum": 0}},
                },
                "data": {"type": "array", "description": "Numbers or booleans, flat or nested."},
            },
            required=["name", "datatype", "shape"],
        ),
        "RequestedOutput": _object(
            {"name": name, "parameters": {"type": "object", "properties": {"binary_data": {"type": "boolean"}}}},
            required=["name"],
        ),
        "InferResponse": _object(
            {
                "model_name": text,
                "model_version": text,
                "id": text,
                "parameters": _ref("Parameters"),
                "outputs": {
                    "type": "array",
                    "items": _object(
                        {"name": name, "datatype": datatype, "shape": shape, "data": {"type": "array"},
                         "parameters": {"type": "object"}},
                        required=["name", "datatype", "shape"],
                    ),
                },
            },
            required=["model_name", "model_version", "outputs"],
        ),
    }  # fmt: skip


def _object(properties: dict[str, Any], required: list[str] | None = None) -> dict[str, Any]:
    return {"type": "object", "properties": properties, "required": list(properties) if required is None else required}
