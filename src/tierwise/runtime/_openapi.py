"""The REST front in OpenAPI 3.1, for clients, documentation and tests that are made from it."""

from __future__ import annotations

from typing import Any, Final

from tierwise import __version__

__all__ = ["openapi"]

_DTYPES: Final = [
    *("BOOL", "UINT8", "UINT16", "UINT32", "UINT64", "INT8", "INT16", "INT32", "INT64"),
    *("FP16", "FP32", "FP64", "BYTES"),
]
_ERRORS: Final = {
    "400": "The request is wrong.",
    "401": "Nobody knows who asks.",
    "403": "Who asks may not.",
    "404": "No such model, version or path.",
    "409": "This node as it stands cannot do it.",
    "413": "Larger than this node takes.",
    "500": "Something failed that the asker cannot help.",
    "503": "No room now, or the node is going away; Retry-After says when to ask again.",
    "504": "The deadline passed.",
    "507": "No room for another model until one is unloaded.",
}


def _ref(name: str) -> dict[str, Any]:
    return {"$ref": f"#/components/schemas/{name}"}


def _object(required: list[str] | None = None, **properties: Any) -> dict[str, Any]:
    return {"type": "object", "properties": properties, **({"required": required} if required else {})}


def _list(items: dict[str, Any]) -> dict[str, Any]:
    return {"type": "array", "items": items}


_TEXT: Final = {"type": "string"}
_WHOLE: Final = {"type": "integer"}
_FLAG: Final = {"type": "boolean"}
_NUMBER: Final = {"type": "number"}
_COUNT: Final[dict[str, Any]] = {"type": "integer", "minimum": 1, "maximum": 2**63 - 1}
_FILE: Final = {"application/octet-stream": {"schema": {"description": "A safetensors file."}}}
_SHAPE: Final = _list({"type": "integer", "minimum": 0, "maximum": 2**63 - 1})
_PARAMETERS: Final = {"type": "object", "additionalProperties": {"type": ["boolean", "number", "string"]}}
_DURATION: Final = _object(["count", "ns"], count=_WHOLE, ns=_WHOLE)
_DATA: Final = {"type": "array", "description": "Values in row-major order, flat or nested."}

_SCHEMAS: Final[dict[str, Any]] = {
    "Error": _object(["error"], error=_TEXT),
    "Input": _object(
        ["name", "datatype", "shape"],
        name=_TEXT,
        datatype={"enum": _DTYPES},
        shape=_SHAPE,
        parameters=_PARAMETERS,
        data=_DATA,
    ),
    "Request": _object(
        ["inputs"],
        id=_TEXT,
        parameters=_PARAMETERS,
        inputs=_list(_ref("Input")),
        outputs=_list(_object(["name"], name=_TEXT, parameters=_PARAMETERS)),
    ),
    "Answer": _object(
        ["model_name", "model_version", "outputs"],
        model_name=_TEXT,
        model_version=_TEXT,
        id=_TEXT,
        parameters=_PARAMETERS,
        outputs=_list(
            _object(
                ["name", "datatype", "shape"],
                name=_TEXT,
                datatype={"enum": _DTYPES},
                shape=_SHAPE,
                parameters=_PARAMETERS,
                data=_DATA,
            )
        ),
    ),
    "Server": _object(["name", "version", "extensions"], name=_TEXT, version=_TEXT, extensions=_list(_TEXT)),
    "Tensor": _object(["name", "datatype", "shape"], name=_TEXT, datatype=_TEXT, shape=_list(_WHOLE)),
    "Model": _object(
        ["name", "versions", "platform", "inputs", "outputs"],
        name=_TEXT,
        versions=_list(_TEXT),
        platform=_TEXT,
        inputs=_list(_ref("Tensor")),
        outputs=_list(_ref("Tensor")),
        properties={"type": "object"},
    ),
    "Statistics": _object(
        ["model_stats"],
        model_stats=_list(
            _object(
                ["name", "version", "inference_count", "execution_count", "inference_stats", "batch_stats"],
                name=_TEXT,
                version=_TEXT,
                last_inference=_WHOLE,
                inference_count=_WHOLE,
                execution_count=_WHOLE,
                inference_stats=_object(success=_DURATION, fail=_DURATION, queue=_DURATION),
                batch_stats=_list(_object(["batch_size"], batch_size=_WHOLE)),
            )
        ),
    ),
    "Index": _list(
        _object(["name", "version", "state", "reason"], name=_TEXT, version=_TEXT, state=_TEXT, reason=_TEXT)
    ),
    "Load": _object(parameters={"type": "object", "additionalProperties": _TEXT}),
    "Order": _object(
        share_frac={"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        rate={"type": ["number", "null"], "exclusiveMinimum": 0},
        checkpoint_every=_COUNT,
        swap_every={**_COUNT, "type": ["integer", "null"]},
        steps={**_COUNT, "type": ["integer", "null"]},
        folder={"type": ["string", "null"]},
        seed={"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        lean=_FLAG,
        feature_cache_bytes={"type": "integer", "minimum": 0, "maximum": 2**63 - 1},
        fresh=_FLAG,
    ),
    "Training": _object(
        ["model", "version", "state", "order", "progress"],
        model=_TEXT,
        version=_TEXT,
        state={"enum": ["running", "restarting", "done", "stopped", "failed"]},
        order=_ref("Order"),
        progress={"type": "object"},
        weights=_TEXT,
        restarts=_WHOLE,
        reason=_TEXT,
    ),
    "BatchTaken": _object(["loss", "steps", "saved_steps"], loss=_NUMBER, steps=_WHOLE, saved_steps=_WHOLE),
    "Live": _object(["live"], live=_FLAG),
    "Ready": _object(["ready"], ready=_FLAG, name=_TEXT),
    "Nothing": _object(),
    "OnlyReady": _object(ready=_FLAG),
}


def _json(schema: dict[str, Any]) -> dict[str, Any]:
    return {"application/json": {"schema": schema}}


def _operation(summary: str, answer: str, asked: str | None = None, **also: str) -> dict[str, Any]:
    """One verb of a path: what it answers, what it takes, and statuses that answer the same way."""
    responses: dict[str, Any] = {"200": {"description": "Done.", "content": _json(_ref(answer))}}
    for code, why in _ERRORS.items():
        responses[code] = {"description": why, "content": _json(_ref("Error"))}
    for code, schema in also.items():
        responses[code.removeprefix("http_")]["content"] = _json({"anyOf": [_ref(schema), _ref("Error")]})
    operation: dict[str, Any] = {"summary": summary, "responses": responses}
    if asked is not None:
        operation["requestBody"] = {"required": asked == "Request", "content": _json(_ref(asked))}
    return operation


def _path(text: str, **verbs: dict[str, Any]) -> dict[str, Any]:
    names = [part[1:-1] for part in text.split("/") if part.startswith("{")]
    parameters = [
        {"name": name, "in": "path", "required": True, "schema": {"type": "string", "minLength": 1}} for name in names
    ]
    return {"parameters": parameters, **verbs} if parameters else verbs


def _training() -> dict[str, dict[str, Any]]:
    """The paths of training."""
    base = "/v2/models/{model}/training"
    told = {
        "begin": "Train a model beside its serving",
        "save": "Write a checkpoint",
        "swap": "Let the served model take over the weights",
        "stop": "End a training behind a checkpoint",
    }
    paths = {
        f"{base}/{verb}": _path(base, post=_operation(summary, "Training", "Order" if verb == "begin" else "Nothing"))
        for verb, summary in told.items()
    }
    taken, given = _operation("What was learnt", "Training"), _operation("Take over what was learnt", "Training")
    taken["responses"]["200"]["content"], given["requestBody"] = _FILE, {"required": True, "content": _FILE}
    return {
        base: _path(base, get=_operation("How a training goes", "Training")),
        **paths,
        f"{base}/batch": _path(base, post=_operation("Learn from a batch", "BatchTaken", "Request")),
        f"{base}/delta": _path(base, get=taken, post=given),
    }


def openapi() -> dict[str, Any]:
    """The description, as a JSON object."""
    infer = _operation("Ask a model", "Answer", "Request")
    infer["responses"]["200"]["content"]["application/octet-stream"] = {
        "schema": {"description": "JSON and behind it binary contents, see Inference-Header-Content-Length."}
    }
    ready = _operation("Whether a model can be asked", "Ready", http_404="Ready")
    told, stats = _operation("What a model takes and gives", "Model"), _operation("What models have done", "Statistics")
    paths = {
        "/v2/health/live": {"get": _operation("Whether the node is there", "Live")},
        "/v2/health/ready": {"get": _operation("Whether it answers requests", "Ready", http_503="Ready")},
        "/v2": {"get": _operation("What the node is", "Server")},
        "/v2/models/stats": {"get": stats},
        "/v2/repository/index": {"post": _operation("What models there are", "Index", "OnlyReady")},
    }
    for base in ("/v2/models/{model}", "/v2/models/{model}/versions/{version}"):
        paths[base] = _path(base, get=told)
        paths[f"{base}/ready"] = _path(base, get=ready)
        paths[f"{base}/stats"] = _path(base, get=stats)
        paths[f"{base}/infer"] = _path(base, post=infer)
    for verb in ("load", "unload"):
        path = f"/v2/repository/models/{{model}}/{verb}"
        summary = "Serve a model" if verb == "load" else "Stop serving a model"
        paths[path] = _path(path, post=_operation(summary, "Nothing", "Load" if verb == "load" else "Nothing"))
    paths |= _training()
    info = {"title": "Tierwise node", "version": __version__, "summary": "The Open Inference Protocol, version 2."}
    return {"openapi": "3.1.0", "info": info, "paths": paths, "components": {"schemas": _SCHEMAS}}
