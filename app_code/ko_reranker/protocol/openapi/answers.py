"""The schemas of the answers."""

from __future__ import annotations

from .schemas import Schema, array, obj


def answers() -> dict[str, Schema]:
    """Return the schemas of what is answered to a ranking, and of errors."""
    index = {"type": "integer", "minimum": 0}
    number = {"type": "number"}
    probability = {"type": "number", "minimum": 0, "maximum": 1}
    usage = obj(["prompt_tokens", "total_tokens"], {"prompt_tokens": index, "total_tokens": index})
    result = obj(
        ["index", "relevance_score"],
        {"index": index, "relevance_score": number, "document": {"type": ["object", "string"]}},
    )
    ranked = obj(
        ["id", "object", "model", "created", "results", "usage", "meta"],
        {
            "id": {"type": "string"},
            "object": {"enum": ["rerank", "list"]},
            "model": {"type": "string"},
            "created": index,
            "results": array(result),
            "data": array(result, description="The same as results; left out of answers past 5 MB."),
            "usage": usage,
            "meta": obj(
                ["api_version", "billed_units", "tokens", "warnings"],
                {
                    "api_version": obj(["version"], {"version": {"type": "string"}}),
                    "billed_units": obj(["search_units"], {"search_units": index}),
                    "tokens": obj(["input_tokens"], {"input_tokens": index}),
                    "warnings": array({"type": "string"}),
                },
            ),
        },
    )
    scored = obj(["index", "score"], {"index": index, "score": number, "text": {"type": "string"}})
    return {
        "Answer": {
            "anyOf": [
                ranked,
                array(scored, title="Text Embeddings Inference"),
                obj(
                    ["rankings"],
                    {"rankings": array(obj(["index", "logit"], {"index": index, "logit": number}))},
                    title="NVIDIA NIM",
                ),
                obj(["object", "model", "data", "usage"], {"data": array(scored), "usage": usage}, title="mixedbread"),
                obj(
                    ["results"],
                    {"results": array(obj(["index", "relevanceScore"], {"index": index, "relevanceScore": probability}))},
                    title="Amazon Bedrock",
                ),
                array(obj(["label", "score"], {"label": {"const": "LABEL_0"}, "score": number}), title="Hugging Face"),
                obj(["scores"], {"scores": array(probability)}, title="Dify"),
            ]
        },
        "Error": obj(
            ["message", "detail", "error", "error_type"],
            {
                "message": {"type": "string"},
                "detail": {"type": "string"},
                "error": obj(
                    ["message", "type", "param", "code"],
                    {
                        "message": {"type": "string"},
                        "type": {"type": "string"},
                        "param": {"type": ["string", "null"]},
                        "code": {"type": "integer"},
                    },
                ),
                "error_type": {"type": "string"},
            },
        ),
    }


def facts() -> dict[str, Schema]:
    """Return the schemas of what the service tells about itself."""
    model = obj(["id", "object"], {"id": {"type": "string"}, "object": {"const": "model"}})
    return {
        "Models": obj(["object", "data", "models"], {"object": {"const": "list"}, "data": array(model)}),
        "Info": obj(
            ["model_id", "model_type", "max_input_length", "max_client_batch_size"],
            {
                "model_id": {"type": "string"},
                "model_type": obj(["reranker"], {"reranker": {"type": "object"}}),
                "max_input_length": {"type": ["integer", "null"]},
                "max_client_batch_size": {"type": "integer"},
            },
        ),
        "Health": obj(["status"], {"status": {"type": "string"}}),
        "OpenApi": obj(["openapi", "paths"], {"openapi": {"type": "string"}, "paths": {"type": "object"}}),
    }
