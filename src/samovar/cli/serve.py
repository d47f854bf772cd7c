"""`samovar serve`: models behind HTTP, for OpenAI's, Anthropic's and Ollama's clients."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, TypeVar

import click

from samovar.cli.cache_input import cache_config
from samovar.cli.input import model_path, read_adapter
from samovar.cli.interrupt import act_on_interrupt
from samovar.cli.sizes import read_size
from samovar.config import CacheConfig, RuntimeConfig, ServerConfig, WorkerConfig
from samovar.errors import InvalidRequest, ModelNotFound
from samovar.server.app import create_app
from samovar.server.listening import (
    Server,
    bind,
    raise_descriptor_limit,
    url_of,
    uvicorn_config,
)
from samovar.server.served import ServedModel

_USUAL = "samovar-mini"
_LEVELS = ("debug", "info", "warning", "error")
_KV_TYPES = ("f32", "f16", "bf16", "q8_0", "q5_1", "q5_0", "q4_1", "q4_0")

_T = TypeVar("_T")


@dataclass(frozen=True, slots=True)
class ServeOptions:
    """The command line of `samovar serve`, as parsed."""

    models: tuple[str, ...]
    host: str
    port: int
    ctx_size: int
    sequences: int
    kv_layout: Literal["auto", "lanes", "pool"]
    batch_size: int
    threads: int
    gpu_layers: int
    type_k: str
    type_v: str
    lora: tuple[str, ...]
    deterministic: bool
    no_cache: bool
    cache_dir: Path | None
    cache_memory: str | None
    cache_disk: str | None
    cache_shm: str | None
    keep_alive: float
    max_models: int
    memory: str | None
    preload: bool
    api_keys: Path | None
    no_auth: bool
    allowed_host: tuple[str, ...]
    cors_origin: tuple[str, ...]
    tls_cert: Path | None
    tls_key: Path | None
    max_body: str
    drain: float
    volatile: str
    no_replay: bool
    log_level: str


_OPTIONS = (
    click.argument("models", nargs=-1, metavar="[[NAME=]MODEL]..."),
    click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on."),
    click.option("--port", type=int, default=8080, show_default=True, help="0: any free one."),
    click.option("--ctx-size", type=int, default=0, metavar="N", help="Tokens of a sequence."),
    click.option("--sequences", type=int, default=4, show_default=True, help="At once per model."),
    click.option(
        "--kv-layout",
        type=click.Choice(["auto", "lanes", "pool"]),
        default="auto",
        show_default=True,
        help="How sequences share the context.",
    ),
    click.option("--batch-size", type=int, default=512, show_default=True, help="Most per step."),
    click.option("--threads", type=int, default=0, metavar="N", help="Default: every core."),
    click.option("--gpu-layers", type=int, default=-1, metavar="N", help="Default: all."),
    click.option("--type-k", type=click.Choice(_KV_TYPES), default="f16", help="Of keys."),
    click.option("--type-v", type=click.Choice(_KV_TYPES), default="f16", help="Of values."),
    click.option("--lora", multiple=True, metavar="PATH[:SCALE]", help="For every request."),
    click.option("--deterministic", is_flag=True, help="Answers do not depend on company."),
    click.option("--no-cache", is_flag=True, help="Compute everything, keep nothing."),
    click.option("--cache-dir", type=Path, metavar="DIR", help="Default: ~/.cache/samovar/kv."),
    click.option("--cache-memory", metavar="SIZE", help="Budget of the memory tier: 2G; 0: off."),
    click.option("--cache-disk", metavar="SIZE", help="Budget of the disk tier: 50G; 0: off."),
    click.option("--cache-shm", metavar="SIZE", help="Budget of the tmpfs tier. [0: off]"),
    click.option(
        "--keep-alive",
        type=float,
        default=300.0,
        show_default=True,
        metavar="SECONDS",
        help="How long an idle model stays loaded; negative: for ever.",
    ),
    click.option("--max-models", type=int, default=4, show_default=True, help="Loaded at once."),
    click.option("--memory", metavar="SIZE", help="Of all loaded models together. [what is free]"),
    click.option("--preload", is_flag=True, help="Load models now; /ready tells when they are."),
    click.option("--api-keys", type=Path, metavar="FILE", help="Who may ask: docs/server.md."),
    click.option("--no-auth", is_flag=True, help="Other machines may ask without a key."),
    click.option("--allowed-host", multiple=True, metavar="NAME", help="Besides localhost."),
    click.option("--cors-origin", multiple=True, metavar="ORIGIN", help="Pages that may ask; *."),
    click.option("--tls-cert", type=Path, metavar="FILE", help="Certificate chain, PEM."),
    click.option("--tls-key", type=Path, metavar="FILE", help="Its private key, PEM."),
    click.option("--max-body", default="32M", show_default=True, metavar="SIZE", help="A request."),
    click.option(
        "--drain",
        type=float,
        default=30.0,
        show_default=True,
        metavar="SECONDS",
        help="How long requests may take to finish when the server is stopped.",
    ),
    click.option("--volatile", default="", metavar="RULES", help="billing,date,reminders."),
    click.option("--no-replay", is_flag=True, help="Tokenize turns of the past anew."),
    click.option(
        "--log-level",
        type=click.Choice(_LEVELS),
        default="warning",
        show_default=True,
        help="info: a line for every request.",
    ),
)


def _with_options(function: Callable[..., _T]) -> Callable[..., _T]:
    for option in reversed(_OPTIONS):
        function = option(function)
    return function


@click.command()
@_with_options
def serve(**options: Any) -> None:  # noqa: ANN401 - click hands over what it parsed
    """Serve MODELs to OpenAI's, Anthropic's and Ollama's clients.

    MODEL is a GGUF file or a built-in name; clients ask for it by NAME, or else by the name of its
    file without `.gguf`. Without a MODEL it is samovar-mini.
    """
    _serve(ServeOptions(**options))


def _serve(options: ServeOptions) -> None:
    config = _server(options)
    runtime = RuntimeConfig(
        max_models=_at_least("--max-models", options.max_models, 1),
        keep_alive_seconds=None if options.keep_alive < 0 else options.keep_alive,
        memory_bytes=None if options.memory is None else read_size(options.memory),
    )
    models = _models(options)
    logging.getLogger("samovar").setLevel(options.log_level.upper())
    app = create_app(models, runtime, config)
    listening = uvicorn_config(app, config)
    raise_descriptor_limit(config.max_connections)
    sock = bind(config)

    def say() -> None:
        names = ", ".join(one.name for one in models)
        sys.stdout.write(f"samovar serves {names} on {url_of(sock, config)}\n")
        sys.stdout.flush()

    act_on_interrupt(_nothing)  # from here on the server heeds interrupts itself
    Server(listening, say).run(sockets=[sock])


def _nothing() -> None:
    """In place of ending at once."""


def _server(options: ServeOptions) -> ServerConfig:
    return ServerConfig(
        host=options.host,
        port=options.port,
        keys_file=options.api_keys,
        has_no_auth=options.no_auth,
        allowed_hosts=options.allowed_host,
        cors_origins=options.cors_origin,
        tls_cert=options.tls_cert,
        tls_key=options.tls_key,
        preloads=options.preload,
        logs_requests=options.log_level in ("debug", "info"),
        max_body_bytes=read_size(options.max_body),
        drain_seconds=options.drain,
        replays=not options.no_replay,
        volatile=tuple(one.strip() for one in options.volatile.split(",") if one.strip()),
    )


def _models(options: ServeOptions) -> list[ServedModel]:
    """What is served. Raises ModelNotFound for a file that is not there, and InvalidRequest."""
    adapters = [read_adapter(text) for text in options.lora]
    named = [(Path(path).stem, path, scale) for path, scale in adapters]
    worker = WorkerConfig(
        context_length=_at_least("--ctx-size", options.ctx_size, 0),
        num_sequences=_at_least("--sequences", options.sequences, 1),
        kv_layout=options.kv_layout,
        batch_size=_at_least("--batch-size", options.batch_size, 1),
        threads=_at_least("--threads", options.threads, 0),
        gpu_layers=options.gpu_layers,
        type_k=options.type_k,
        type_v=options.type_v,
        is_deterministic=options.deterministic,
        adapters=tuple((name, path) for name, path, _ in named),
    )
    used = tuple((name, scale) for name, _, scale in named)
    cache = _cache(options)
    found: dict[str, ServedModel] = {}
    for text in options.models or (_USUAL,):
        name, path = _named(text)
        if name in found:
            raise InvalidRequest(f"two models would be called {name}: give one as NAME=MODEL")
        found[name] = ServedModel(name, path, worker, cache, used)
    return list(found.values())


def _named(text: str) -> tuple[str, str]:
    """NAME=MODEL, or MODEL, which is called as its file. A file of such a name is itself."""
    name, equals, path = text.partition("=")
    if not equals or not name or Path(text).exists():
        name, path = "", text
    file = Path(model_path(path))
    if not file.is_file():
        what = "is not a file" if file.exists() else "does not exist"
        raise ModelNotFound(f"{file} {what}: give a GGUF file or a built-in name")
    return name or file.stem, str(file)


def _cache(options: ServeOptions) -> CacheConfig | None:
    if options.no_cache:
        return None
    sizes: dict[str, Any] = {
        name: read_size(text)
        for name, text in (
            ("memory_bytes", options.cache_memory),
            ("disk_bytes", options.cache_disk),
            ("shm_bytes", options.cache_shm),
        )
        if text is not None
    }
    return CacheConfig(directory=cache_config(options.cache_dir).directory, **sizes)


def _at_least(name: str, value: int, least: int) -> int:
    if value < least:
        raise InvalidRequest(f"{name} must be {least} or more")
    return value
