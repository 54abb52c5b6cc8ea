"""``ko-reranker serve``: a complete rerank server from one model directory."""

from __future__ import annotations

import logging
import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from ko_reranker.commands.jobs import AllowBin
from ko_reranker.instances import Dtype
from ko_reranker.protocol import MAX_DOCUMENTS, is_origin

if TYPE_CHECKING:
    from ko_reranker.serving import ServingOptions


def _origins(origins: list[str] | None) -> list[str] | None:
    for origin in origins or ():
        if not is_origin(origin):
            raise typer.BadParameter(f"{origin!r} is no origin: write https://HOST, without a path, or *")
    return origins


def serve(
    model: Annotated[
        str | None,
        typer.Option(
            envvar="KO_RERANKER_MODEL",
            help="What to serve: a folder, s3://bucket/prefix/, a Hugging Face hub id, with @ and a commit or tag if you like, "
            "or sample:mini, the small Korean reranker that ships with this. Leave it out in SageMaker, which puts the model "
            "into its own folder.",
            show_default="/opt/ml/model where there is /opt/ml, else sample:mini",
        ),
    ] = None,
    trust_remote_code: Annotated[
        bool,
        typer.Option(
            "--trust-remote-code",
            envvar="KO_RERANKER_TRUST_REMOTE_CODE",
            help="Run the Python code that a model brings to load it with: of a folder, or of a hub id pinned to the commit "
            "that you have read, ORG/NAME@ and its 40 digits. Without, such a model is refused, and nobody is asked.",
        ),
    ] = False,
    allow_bin: AllowBin = False,
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
    api_key: Annotated[
        list[str] | None,
        typer.Option(
            envvar="KO_RERANKER_API_KEY",
            help="A key that requests must come with; give it several times for several. Set it where others than you reach "
            "the port. Everybody on the machine sees a command line: prefer the variable, or --api-key-file.",
            show_default="none: everybody may ask",
        ),
    ] = None,
    api_key_file: Annotated[
        Path | None,
        typer.Option(
            envvar="KO_RERANKER_API_KEY_FILE",
            help="A file of such keys, one a line, as a mounted secret is.",
        ),
    ] = None,
    open_health: Annotated[
        bool,
        typer.Option(
            envvar="KO_RERANKER_OPEN_HEALTH",
            help="/ping and /health answer without a key, as platforms expect. Close them when strangers reach the port.",
        ),
    ] = True,
    open_metrics: Annotated[
        bool,
        typer.Option(
            envvar="KO_RERANKER_OPEN_METRICS",
            help="/metrics answers without a key. Open it for a scraper that can't send one.",
        ),
    ] = False,
    tls_certificate: Annotated[
        Path | None,
        typer.Option(
            envvar="KO_RERANKER_TLS_CERTIFICATE",
            help="Serve HTTPS with this certificate (PEM, with its chain). Set it where no gateway in front does.",
        ),
    ] = None,
    tls_key: Annotated[
        Path | None,
        typer.Option(envvar="KO_RERANKER_TLS_KEY", help="The certificate's private key (PEM, not encrypted)."),
    ] = None,
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
        typer.Option(
            envvar="KO_RERANKER_DEVICE",
            help="auto takes a GPU if there is one, and fails if it can't be used; cpu leaves it to others.",
        ),
    ] = "auto",
    dtype: Annotated[
        Dtype,
        typer.Option(
            envvar="KO_RERANKER_DTYPE",
            help="Precision of the model. auto is half precision on a GPU, bf16 for a cross-encoder on a CPU with AMX "
            "or AMD's AVX512-BF16, else fp32; the log says which, and why. Take fp32 to compare scores exactly, int8 on a "
            "CPU for about twice the speed of that at almost, but not exactly, the same ranking.",
        ),
    ] = "auto",
    max_length: Annotated[
        int | None,
        typer.Option(
            envvar="KO_RERANKER_MAX_LENGTH",
            min=16,
            help="Tokens of a query and a document together (of late interaction those of a document); a longer one is read in "
            "chunks. Lower it for speed, raise it (as far as the model goes) to read more of a document at once.",
            show_default="what the model was trained with, or 512",
        ),
    ] = None,
    max_chunks: Annotated[
        int,
        typer.Option(
            envvar="KO_RERANKER_MAX_CHUNKS",
            min=1,
            help="Chunks that a document too long for the model is read in; its best chunk counts, the rest is left unread. "
            "Lower it to bound what a long document costs; 1 reads the beginning only, as most rerankers do.",
        ),
    ] = 64,
    chunk_overlap: Annotated[
        int,
        typer.Option(
            envvar="KO_RERANKER_CHUNK_OVERLAP",
            min=0,
            help="Tokens that neighbouring chunks share, at most half of a chunk. Raise it when answers are long passages that "
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
    vector_cache_mb: Annotated[
        float,
        typer.Option(
            envvar="KO_RERANKER_VECTOR_CACHE_MB",
            min=0,
            help="Megabytes of documents' vectors that a late-interaction model keeps for when they come again; a token takes "
            "2 bytes a channel. Raise it until the corpus that is reranked fits; 0 keeps none, and compares in fp32 instead of "
            "fp16. A cross-encoder keeps nothing.",
        ),
    ] = 512,
    prompt: Annotated[
        str | None,
        typer.Option(
            envvar="KO_RERANKER_PROMPT",
            help="What a generative model is asked, and with it how it ranks: the name of a prompt that comes with this, such "
            "as general-ko, pairwise-ko, setwise-ko or listwise-ko, or a YAML file. Set it for a language model that was not "
            "trained to rerank, or to compare documents with each other; a reranker is best asked what it was trained on.",
            show_default="what the model's folder says",
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
    max_connections: Annotated[
        int,
        typer.Option(
            envvar="KO_RERANKER_MAX_CONNECTIONS",
            min=1,
            help="Connections at the same time; past it the one that has waited longest for its client makes room. "
            "Raise it for very many clients that keep theirs, together with the limit of open files.",
        ),
    ] = 1024,
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
            help="Seconds after its arrival at which a request without scores gets 429 and gives up its place. Keep it under "
            "what your clients wait, so that nothing is computed for nobody; raise it for requests of thousands of documents.",
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
    cors_origins: Annotated[
        list[str] | None,
        typer.Option(
            "--cors-origin",
            envvar="KO_RERANKER_CORS_ORIGINS",
            callback=_origins,
            help="Lets web pages of this origin, such as https://app.example.com, call the server from a browser; * lets all. "
            "May be given more than once (in the variable, with spaces between). A page's users see its key.",
            show_default="none",
        ),
    ] = None,
    log_level: Annotated[
        Literal["info", "warning", "error"],
        typer.Option(
            envvar="KO_RERANKER_LOG_LEVEL",
            help="Lines of this level and above. info has one a request; where that is too much, warning keeps refusals for "
            "overload and defects, error the defects alone.",
        ),
    ] = "info",
) -> None:
    """Serve a reranker over HTTP: /v2/rerank, /v1/rerank, /rerank, and SageMaker's /invocations and /ping.

    Answers once the model is warm; SIGTERM finishes the requests in flight. Logs are JSON lines without any text.
    """
    from ko_reranker.container import model_dir
    from ko_reranker.models import MINI_MODEL
    from ko_reranker.rankers import EngineOptions, load_ranker
    from ko_reranker.serving import Metrics, ServingOptions, create_app
    from ko_reranker.serving.access import AccessError, check_variables, load_tls, read_keys
    from ko_reranker.serving.logs import configure_logging, log, set_level
    from ko_reranker.serving.server import CannotListen, leave_on_signals, reserve, run

    leave_on_signals()
    configure_logging()
    set_level(log_level)
    metrics = Metrics()
    try:
        protection = {"API_KEY": api_key, "API_KEY_FILE": api_key_file, "TLS_CERTIFICATE": tls_certificate, "TLS_KEY": tls_key}
        check_variables({f"KO_RERANKER_{name}": value for name, value in protection.items()}, os.environ)
        keys, tls = read_keys(api_key or (), api_key_file), load_tls(tls_certificate, tls_key)
    except AccessError as error:
        raise _stop(str(error)) from None
    options = ServingOptions(
        model_name=model_name or _name(model),
        max_body_bytes=_bytes(max_body_mb),
        max_documents=max_documents,
        max_connections=max_connections,
        max_waiting=max_waiting,
        max_waiting_bytes=_bytes(max_waiting_mb),
        request_timeout_seconds=request_timeout,
        cors_origins=tuple(cors_origins or ()),
        drain_seconds=drain_seconds,
        keys=keys,
        open_health=open_health,
        open_metrics=open_metrics,
        tls=tls,
    )
    source = model or str(model_dir() or MINI_MODEL)
    engine = EngineOptions(
        device=device,
        dtype=dtype,
        max_length=max_length,
        batch_tokens=batch_tokens,
        workers=workers,
        max_chunks=max_chunks,
        chunk_overlap=chunk_overlap,
        vector_cache_bytes=_bytes(vector_cache_mb),
        max_queue_tokens=max_queue_tokens,
        prompt=prompt,
    )
    try:
        listener = reserve(host, port)
    except CannotListen as error:
        raise _stop(str(error)) from None
    try:
        ranker = load_ranker(source, engine, observer=metrics, trust_remote_code=trust_remote_code)
    except Exception as error:
        listener.close()
        hint = "" if model else " Name another model with --model."
        raise _stop(f"cannot load the model {source}: {_sentence(error)}{hint}") from None
    log(
        "serving",
        model=options.model_name,
        precision=ranker.precision,
        precision_reason=ranker.precision_reason,
        max_length=ranker.max_length,
        host=host,
        port=port,
    )
    _warn(listener.getsockname()[0], options)
    if not run(create_app(ranker, options, metrics), listener, options):
        raise _stop(f"the model {source} loads but cannot score: the log says where it failed")


def _warn(address: str, options: ServingOptions) -> None:
    """Say in the log what lets in more than may be meant."""
    from ko_reranker.serving.access import is_loopback, short_keys
    from ko_reranker.serving.logs import log

    if not is_loopback(address) and not options.keys and options.tls is None:
        advice = "set --api-key-file and --tls-certificate, listen with --host 127.0.0.1, or see that only a gateway reaches it"
        log(
            "unprotected",
            logging.WARNING,
            address=address,
            reason="no key and no TLS on a port that others reach",
            advice=advice,
        )
    if number := short_keys(options.keys):
        log("short keys", logging.WARNING, keys=number, advice="a key of 20 to 128 random characters cannot be guessed")


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
