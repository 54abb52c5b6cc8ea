"""``ko-reranker serve``: a complete rerank server from one model directory."""

from __future__ import annotations

from typing import Annotated, Literal

import typer


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            envvar="KO_RERANKER_MODEL",
            help="What to serve: a directory, an s3://bucket/prefix or a Hugging Face hub id. "
            "Leave it out in SageMaker, which puts the model into its model directory.",
            show_default="$SAGEMAKER_BASE_DIR/model",
        ),
    ] = None,
    port: Annotated[
        int,
        typer.Option(envvar="SAGEMAKER_BIND_TO_PORT", min=1, max=65535, help="Change it when another server has the port."),
    ] = 8080,
    host: Annotated[
        str,
        typer.Option(
            envvar="KO_RERANKER_HOST",
            help="Where to listen. 127.0.0.1 keeps a laptop's server to itself; a container has to listen everywhere.",
        ),
    ] = "0.0.0.0",  # noqa: S104 - a container is reached from outside
    model_name: Annotated[
        str | None,
        typer.Option(
            envvar="KO_RERANKER_MODEL_NAME",
            help="The model's name in answers. Set it to tell releases apart, or to keep an address to yourself.",
            show_default="the last part of --model, or ko-reranker",
        ),
    ] = None,
    device: Annotated[
        Literal["auto", "cpu", "cuda"],
        typer.Option(envvar="KO_RERANKER_DEVICE", help="auto takes a GPU if there is one; cpu leaves it to others."),
    ] = "auto",
    dtype: Annotated[
        Literal["auto", "fp32", "bf16", "fp16"],
        typer.Option(
            envvar="KO_RERANKER_DTYPE",
            help="Precision of the model. auto is fp32 on a CPU and half precision on a GPU; fp32 to compare scores exactly.",
        ),
    ] = "auto",
    max_length: Annotated[
        int | None,
        typer.Option(
            envvar="KO_RERANKER_MAX_LENGTH",
            min=16,
            help="Tokens of a query and a document together; the document's end is cut. "
            "Lower it for speed, raise it (as far as the model goes) for long documents.",
            show_default="what the model was trained with, or 512",
        ),
    ] = None,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            envvar="KO_RERANKER_BATCH_TOKENS",
            min=1,
            help="Tokens scored in one step. Lower it when memory runs out, raise it to fill a large GPU.",
            show_default="by device",
        ),
    ] = None,
    max_body_mb: Annotated[
        float,
        typer.Option(
            envvar="KO_RERANKER_MAX_BODY_MB",
            min=0.001,
            help="Largest request body in megabytes; a longer one gets 413. Raise it for very large requests.",
        ),
    ] = 25,
    max_waiting: Annotated[
        int,
        typer.Option(
            envvar="KO_RERANKER_MAX_WAITING",
            min=0,
            help="Requests that may wait for the model; more get 429. Lower it to fail fast, raise it to ride out peaks.",
        ),
    ] = 64,
    drain_seconds: Annotated[
        int,
        typer.Option(
            envvar="KO_RERANKER_DRAIN_SECONDS",
            min=0,
            help="After SIGTERM, how long requests in flight may take. Keep it under what your platform waits to kill.",
        ),
    ] = 25,
) -> None:
    """Serve a reranker over HTTP: /v2/rerank, /v1/rerank, /rerank, and SageMaker's /invocations and /ping.

    Answers once the model is warm; SIGTERM finishes the requests in flight. Logs are JSON lines without any text.
    """
    from ko_reranker.container import model_dir
    from ko_reranker.rankers import load_ranker
    from ko_reranker.serving import ServingOptions, create_app
    from ko_reranker.serving.logs import configure_logging, log
    from ko_reranker.serving.server import CannotListen, leave_on_signals, reserve, run

    leave_on_signals()
    configure_logging()
    options = ServingOptions(
        model_name=model_name or _name(model),
        max_body_bytes=int(max_body_mb * 1_000_000),
        max_waiting=max_waiting,
        drain_seconds=drain_seconds,
    )
    source = model or str(model_dir())
    tuning = {"device": device, "dtype": dtype, "max_length": max_length, "batch_tokens": batch_tokens}
    tuning = {name: value for name, value in tuning.items() if value is not None}
    try:
        listener = reserve(host, port)
        ranker = load_ranker(source, **tuning)
    except CannotListen as error:
        raise _stop(str(error)) from None
    except Exception as error:
        raise _stop(f"cannot load the model {source}: {_sentence(error)}") from None
    log("serving", model=options.model_name, max_length=ranker.max_length, host=host, port=port)
    if not run(create_app(ranker, options), listener, options):
        raise _stop(f"the model {source} loads but cannot score: the log says where it failed")


def _name(model: str | None) -> str:
    """A hub id is a name; of a folder or a bucket only the last part is anybody's business."""
    if not model:
        return "ko-reranker"
    is_hub_id = not model.startswith(("s3://", ".", "/", "~")) and model.count("/") == 1
    return model if is_hub_id else model.rstrip("/").rpartition("/")[2]


def _stop(sentence: str) -> typer.Exit:
    typer.echo(sentence, err=True)
    return typer.Exit(1)


def _sentence(error: Exception) -> str:
    return " ".join(str(error).split()) or type(error).__name__
