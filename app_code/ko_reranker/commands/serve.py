"""``ko-reranker serve``: a complete rerank server from one model directory."""

from __future__ import annotations

from typing import Annotated, Literal

import typer

from ko_reranker.protocol import MAX_DOCUMENTS


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            envvar="KO_RERANKER_MODEL",
            help="What to serve: a folder, s3://bucket/prefix/, a Hugging Face hub id, or sample:mini, the small Korean "
            "reranker in the box. Leave it out in SageMaker, which puts the model into its own folder.",
            show_default="/opt/ml/model where there is /opt/ml, else sample:mini",
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
        Literal["auto", "fp32", "bf16", "fp16", "int8"],
        typer.Option(
            envvar="KO_RERANKER_DTYPE",
            help="Precision of the model. auto is fp32 on a CPU and half precision on a GPU. Take fp32 to compare scores "
            "exactly, int8 on a CPU for about twice the speed at almost, but not exactly, the same ranking.",
        ),
    ] = "auto",
    max_length: Annotated[
        int | None,
        typer.Option(
            envvar="KO_RERANKER_MAX_LENGTH",
            min=16,
            help="Tokens of a query and a document together; a longer document is read in pieces. "
            "Lower it for speed, raise it (as far as the model goes) to read more of a document at once.",
            show_default="what the model was trained with, or 512",
        ),
    ] = None,
    max_chunks: Annotated[
        int,
        typer.Option(
            envvar="KO_RERANKER_MAX_CHUNKS",
            min=1,
            help="Pieces that a document too long for the model is read in; its best piece counts, the rest is left unread. "
            "Lower it to bound what a long document costs; 1 reads the beginning only, as most rerankers do.",
        ),
    ] = 64,
    chunk_overlap: Annotated[
        int,
        typer.Option(
            envvar="KO_RERANKER_CHUNK_OVERLAP",
            min=0,
            help="Tokens that neighbouring pieces share, at most half of a piece. Raise it when answers are long passages that "
            "a cut could divide, lower it for speed on long documents.",
        ),
    ] = 64,
    batch_tokens: Annotated[
        int | None,
        typer.Option(
            envvar="KO_RERANKER_BATCH_TOKENS",
            min=1,
            help="Tokens scored in one step. Lower it when memory runs out or small requests wait behind large ones, "
            "raise it to fill a large GPU.",
            show_default="1,024 on a CPU, 16,384 on a GPU",
        ),
    ] = None,
    workers: Annotated[
        int | None,
        typer.Option(
            envvar="KO_RERANKER_WORKERS",
            min=1,
            help="Threads that score side by side on a CPU. Lower it to leave cores to other programs.",
            show_default="one a core, at most 8",
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
    max_documents: Annotated[
        int,
        typer.Option(
            envvar="KO_RERANKER_MAX_DOCUMENTS",
            min=1,
            help="Documents of one request; more get 422. Lower it to keep single callers from taking the model for long.",
        ),
    ] = MAX_DOCUMENTS,
    max_waiting: Annotated[
        int,
        typer.Option(
            envvar="KO_RERANKER_MAX_WAITING",
            min=0,
            help="Requests that may wait for the model; more get 429. Lower it to fail fast, raise it to ride out peaks.",
        ),
    ] = 256,
    max_waiting_mb: Annotated[
        float,
        typer.Option(
            envvar="KO_RERANKER_MAX_WAITING_MB",
            min=0.001,
            help="Megabytes of request bodies held at once; past it 429. Lower it on a machine with little memory: "
            "a request takes a few times its body.",
        ),
    ] = 200,
    max_queue_tokens: Annotated[
        int | None,
        typer.Option(
            envvar="KO_RERANKER_MAX_QUEUE_TOKENS",
            min=1,
            help="Tokens that may wait for the model; past it 429 with the time to wait. Set it to bound everybody's wait "
            "whatever the sizes of requests: seconds times the tokens a second that /metrics shows.",
            show_default="what can be scored within --request-timeout",
        ),
    ] = None,
    request_timeout: Annotated[
        float,
        typer.Option(
            envvar="KO_RERANKER_REQUEST_TIMEOUT",
            min=0.1,
            help="Seconds after which a request without scores gets 429 and gives up its place. Keep it under what your "
            "clients wait, so that nothing is computed for nobody; raise it for requests of thousands of documents.",
        ),
    ] = 60,
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
    from ko_reranker.models import MINI_MODEL
    from ko_reranker.rankers import load_ranker
    from ko_reranker.serving import Metrics, ServingOptions, create_app
    from ko_reranker.serving.logs import configure_logging, log
    from ko_reranker.serving.server import CannotListen, leave_on_signals, reserve, run

    leave_on_signals()
    configure_logging()
    metrics = Metrics()
    options = ServingOptions(
        model_name=model_name or _name(model),
        max_body_bytes=_bytes(max_body_mb),
        max_documents=max_documents,
        max_waiting=max_waiting,
        max_waiting_bytes=_bytes(max_waiting_mb),
        request_timeout_seconds=request_timeout,
        drain_seconds=drain_seconds,
    )
    source = model or str(model_dir() or MINI_MODEL)
    tuning = {
        "device": device,
        "dtype": dtype,
        "max_length": max_length,
        "max_chunks": max_chunks,
        "chunk_overlap": chunk_overlap,
        "batch_tokens": batch_tokens,
        "workers": workers,
        "max_queue_tokens": max_queue_tokens,
    }
    try:
        listener = reserve(host, port)
        ranker = load_ranker(source, **tuning, observer=metrics)
    except CannotListen as error:
        raise _stop(str(error)) from None
    except Exception as error:
        hint = "" if model else " Name another model with --model."
        raise _stop(f"cannot load the model {source}: {_sentence(error)}{hint}") from None
    log("serving", model=options.model_name, precision=ranker.precision, max_length=ranker.max_length, host=host, port=port)
    if not run(create_app(ranker, options, metrics), listener, options):
        raise _stop(f"the model {source} loads but cannot score: the log says where it failed")


def _bytes(megabytes: float) -> int:
    return int(megabytes * 1_000_000)


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
