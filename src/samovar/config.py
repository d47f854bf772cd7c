"""What can be set, a frozen dataclass per layer. Imports nothing of ours but errors."""

from __future__ import annotations

import functools
import ipaddress
import os
from dataclasses import dataclass, field, fields
from pathlib import Path
from typing import Literal

from samovar.errors import InvalidRequest
from samovar.types import VOLATILE_RULES

SaveMoment = Literal["cold", "continued", "finish", "evict", "shutdown"]
SAVE_MOMENTS: tuple[SaveMoment, ...] = ("cold", "continued", "finish", "evict", "shutdown")

_GIB = 2**30


def default_cache_directory() -> Path:
    """Where blocks are kept on disk unless something else is said: SAMOVAR_CACHE_DIR, if set."""
    said = os.environ.get("SAMOVAR_CACHE_DIR")
    if said:
        return Path(said)
    base = os.environ.get("XDG_CACHE_HOME")
    if base:
        return Path(base) / "samovar" / "kv"
    try:
        return Path.home() / ".cache" / "samovar" / "kv"
    except RuntimeError:
        raise InvalidRequest(
            "there is no home directory to keep prompts in: give --cache-dir, or set"
            " SAMOVAR_CACHE_DIR"
        ) from None


def default_shm_directory() -> Path:
    """Where blocks are kept on tmpfs; each user has a directory of their own there."""
    return Path("/dev/shm") / f"samovar-{os.getuid()}"  # 0700, and its owner is checked


@dataclass(frozen=True, slots=True)
class CacheConfig:
    """How much KV is kept, where, and when. Raises InvalidRequest for values of no sense.

    A budget of 0 switches its tier off. None leaves it to the machine: an eighth of its memory
    (at most 4 GiB) and of the disk 20 GiB or a tenth of what is free, whichever is less.
    """

    directory: Path = field(default_factory=default_cache_directory)
    memory_bytes: int | None = None
    shm_bytes: int = 0
    shm_directory: Path = field(default_factory=default_shm_directory)
    disk_bytes: int | None = None
    block_size: int = 128
    """Tokens per block; a power of two from 16 to 1024."""
    write_queue_bytes: int = _GIB // 4
    """Blocks that wait to be written, over all tiers; what does not fit is not saved there."""
    disk_bytes_per_day: int | None = None
    """Most bytes written to disk in any 24 hours, for flash that wears out; None: no cap."""
    min_tokens: int = 32
    """Shorter prompts are neither saved nor looked up."""
    save_moments: frozenset[SaveMoment] = frozenset(SAVE_MOMENTS)
    """`cold`: the prompt is computed; `continued`: so many tokens were generated since the last
    save; `finish`: the request ends; `evict`: its cells are taken away; `shutdown`."""
    continued_tokens: int = 2048
    """Tokens between two saves of a sequence that goes on generating."""
    keeps_logits: bool = False
    """Store what follows a turn's last token with it, so that an exact repeat computes nothing.
    Models whose state cannot be cut do that in any case: they could not repeat a prompt else."""
    checkpoint_tokens: int = 2048
    """Tokens between two checkpoints in a prompt, for models whose state cannot be cut."""
    checkpoint_share: float = 0.5
    """Most of a tier's budget that checkpoints may take."""

    def __post_init__(self) -> None:
        _check_cache(self)

    @property
    def is_off(self) -> bool:
        """Whether nothing is kept anywhere."""
        return self.memory_bytes == 0 and not self.shm_bytes and self.disk_bytes == 0


def _check_cache(config: CacheConfig) -> None:
    size = config.block_size
    if not 16 <= size <= 1024 or size & (size - 1):
        raise InvalidRequest("block_size must be a power of two from 16 to 1024")
    for one in fields(config):
        value = getattr(config, one.name)
        if one.name.endswith(("_bytes", "_tokens", "_per_day")) and value is not None and value < 0:
            raise InvalidRequest(f"{one.name} must not be negative")
    unknown = set(config.save_moments) - set(SAVE_MOMENTS)
    if unknown:
        raise InvalidRequest(f"unknown moments to save at: {', '.join(sorted(unknown))}")
    if not config.continued_tokens or not config.checkpoint_tokens:
        raise InvalidRequest("continued_tokens and checkpoint_tokens must be positive")
    if not 0 <= config.checkpoint_share <= 1:
        raise InvalidRequest("checkpoint_share must be between 0 and 1")


@dataclass(frozen=True, slots=True)
class WorkerConfig:
    """How one model is loaded and served. Zero or None leaves a value to model and machine.

    What is wrong with a value is found out where it is used, and is the answer to loading.
    """

    context_length: int = 0
    """Tokens of the longest sequence."""
    num_sequences: int = 4
    kv_layout: Literal["auto", "lanes", "pool"] = "auto"
    batch_size: int = 512
    threads: int = 0
    gpu_layers: int = -1
    use_mmap: bool = True
    use_mlock: bool = False
    flash_attention: Literal["auto", "on", "off"] = "auto"
    type_k: str = "f16"
    type_v: str = "f16"
    decode_seconds: float = 30.0
    """Deadline of one decode call."""
    max_waiting: int = 256
    is_deterministic: bool = False
    adapters: tuple[tuple[str, str], ...] = ()
    """LoRA files to load at once: (name, path)."""


@dataclass(frozen=True, slots=True)
class RuntimeConfig:
    """How workers are started, watched and started again."""

    ping_seconds: float = 1.0
    """Between two heartbeats."""
    stuck_seconds: float = 90.0
    """A step that takes longer hangs: three deadlines of a decode call. Also of no heartbeat."""
    boot_seconds: float = 3600.0
    """Longest loading without any progress: weights on a slow disk take long."""
    restarts: int = 5
    """Most restarts of a worker within `restart_window`; then its requests fail."""
    restart_window: float = 120.0
    first_backoff: float = 0.1
    """Seconds before the first restart; each one more within the window doubles it."""
    most_backoff: float = 10.0
    stop_seconds: float = 30.0
    """How long requests that run may take to finish when a model is unloaded."""
    max_models: int = 4
    """Models that are loaded at once; the longest idle goes for a new one."""
    memory_bytes: int | None = None
    """Most memory that all loaded models may take together, weights and contexts; None: what the
    machine has free."""
    keep_alive_seconds: float | None = 300.0
    """How long an idle model stays loaded; None: for ever."""
    command: tuple[str, ...] = ()
    """What a worker is started with, before the number of its socket; (): this Python's own."""


@dataclass(frozen=True, slots=True)
class ServerConfig:
    """How requests come in, from whom, and how much of each. Raises InvalidRequest."""

    host: str = "127.0.0.1"
    port: int = 8080
    """0: any that is free."""
    keys_file: Path | None = None
    """API keys (see docs/server.md); None: whoever reaches the server may use it."""
    has_no_auth: bool = False
    """Other machines may use it without a key."""
    allowed_hosts: tuple[str, ...] = ()
    """Names under which a server on a loopback address may be asked, besides `localhost`: a page
    of the web can have a name of its own lead there."""
    cors_origins: tuple[str, ...] = ()
    """Origins of web pages that may ask; `*`: all of them."""
    tls_cert: Path | None = None
    tls_key: Path | None = None
    preloads: bool = False
    """Load the models when the server starts, as many as are loaded at once."""
    logs_requests: bool = False
    """A line for every request."""
    replays: bool = True
    """For requests that say nothing: whether turns that were generated here come back as the
    tokens that they were."""
    volatile: tuple[str, ...] = ()
    """For requests that say nothing: rules that hold prompts still (see docs/stability.md)."""

    max_body_bytes: int = 2**25  # 32 MiB: a prompt of a million tokens takes four to eight
    max_bodies_bytes: int = 2**28  # of all requests that are being read
    max_depth: int = 128  # of a JSON body: schemas of tools nest thirty deep, parsers fail at 1000
    max_connections: int = 4096  # each has a descriptor and some kilobytes
    head_seconds: float = 15.0  # for a request's head, from the first byte or the connection on
    body_seconds: float = 300.0  # for a whole body: 32 MiB at one megabit per second
    body_idle_seconds: float = 15.0  # between two pieces of a body
    write_seconds: float = 30.0  # how long a client may take nothing of what waits for it
    idle_seconds: float = 60.0  # between two requests of a connection; pools keep them for less
    drain_seconds: float = 30.0  # how long requests that run may take to finish at the end

    def __post_init__(self) -> None:
        _check_server(self)

    @property
    def is_local(self) -> bool:
        """Whether only this machine can reach it."""
        return is_loopback(self.host)


@functools.lru_cache(64)
def is_loopback(host: str) -> bool:
    """Whether a host, as it is written in an address, is this machine and nothing else."""
    name = host.strip("[]").rstrip(".").lower()
    if name == "localhost" or name.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(name).is_loopback
    except ValueError:
        return False


def _check_server(config: ServerConfig) -> None:
    if not 0 <= config.port < 2**16:
        raise InvalidRequest("the port must be from 0 to 65535")
    if (config.tls_cert is None) != (config.tls_key is None):
        raise InvalidRequest("TLS needs both a certificate and its key: give both, or neither")
    for one in fields(config):
        value = getattr(config, one.name)
        if one.name.startswith("max_") and value < 1:
            raise InvalidRequest(f"{one.name} must be 1 or more")
        if one.name.endswith("_seconds") and not value > 0:
            raise InvalidRequest(f"{one.name} must be positive")
    if set(config.volatile) - set(VOLATILE_RULES):
        raise InvalidRequest(f"volatile rules are {', '.join(VOLATILE_RULES)}")
    if not config.is_local and config.keys_file is None and not config.has_no_auth:
        raise InvalidRequest(
            f"{config.host} can be reached from other machines: give API keys (--api-keys FILE),"
            " or say --no-auth"
        )
