"""From what a runtime wants to an engine that serves it."""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from samovar import gguf
from samovar.cache.machine.gauge import Reading, Resource
from samovar.cache.opening import namespace_of, open_store
from samovar.cache.store import BlockStore
from samovar.chat.fallback import Fallback, fallback
from samovar.chat.family import template_family
from samovar.chat.prompt import request_renderer
from samovar.chat.renderer import Renderer
from samovar.chat.specials import Specials
from samovar.config import CacheConfig, WorkerConfig
from samovar.engine.engine import Engine, EngineOptions
from samovar.engine.layout import plan
from samovar.engine.scopes import Cache
from samovar.native.context import ContextOptions
from samovar.native.devices import devices
from samovar.native.interface import Backend, StateKind
from samovar.native.llama import LlamaBackend
from samovar.native.model import ModelOptions
from samovar.worker.chats import Chats
from samovar.worker.replaying import open_replaying
from samovar.worker.sidecar import family_beside

logger = logging.getLogger(__name__)


@dataclass(slots=True)
class Served:
    """A model with everything that belongs to it."""

    backend: Backend
    engine: Engine
    store: BlockStore | None
    renderer: Renderer | None
    description: str
    chats: Chats
    cache: CacheConfig | None = None
    """How the store is set; None: there is none."""
    has_template: bool = True
    """Whether the file has a template of its own; else one was chosen for it."""
    mapped_bytes: int = 0
    """Weights that are needed in the page cache."""

    def close(self) -> bool:
        """Free everything, saving first. False: not all was saved."""
        if self.chats.replaying is not None:
            self.chats.replaying.close()
        is_saved = True if self.store is None else self.store.close()
        if self.renderer is not None:
            self.renderer.close()
        self.backend.close()
        return is_saved


Loader = Callable[[str, WorkerConfig, CacheConfig | None, Callable[[float], None]], Served]
"""What `load` is; a worker may be given another one."""


def load(
    path: str,
    config: WorkerConfig,
    cache: CacheConfig | None,
    on_progress: Callable[[float], None],
) -> Served:
    """Load a model. Raises a SamovarError that says what is wrong and what to do."""
    backend = _open_llama(path, config, on_progress)
    try:
        instead = None if _has_template(backend) else _fallback(backend)
        renderer = _renderer(backend, instead)
    except BaseException:
        backend.close()
        raise
    served = assemble(backend, renderer, backend.model.description, config, cache)
    if renderer is not None:
        folder = None if served.store is None else served.store.folder
        served.chats.replaying = open_replaying(backend.vocabulary, renderer, folder)
    served.has_template = instead is None and renderer is not None
    served.chats.described = family_beside(Path(path))
    served.chats.ends = () if instead is None else instead.ends
    served.mapped_bytes = backend.model.mapped_bytes
    return served


def assemble(
    backend: Backend,
    renderer: Renderer | None,
    description: str,
    config: WorkerConfig,
    cache: CacheConfig | None,
) -> Served:
    """An engine and its cache on a backend, which is closed if that fails."""
    store = None
    try:
        if cache is not None and not cache.is_off and backend.state_kind is not StateKind.NONE:
            fields, weights = backend.describe_state(), backend.weights_paths
            grid = backend.describe_grid() if config.is_deterministic else None
            namespace = namespace_of(fields, weights, cache, grid=grid)
            accounts = [partial(_device, index) for index in range(len(devices()))]
            store = open_store(namespace, cache, accounts)
        options = EngineOptions(config.max_waiting, config.is_deterministic)
        opened = None if store is None or cache is None else Cache(store, cache)
        engine = Engine(backend, options, cache=opened)
        for name, file in config.adapters:
            engine.load_adapter(name, file)
    except BaseException:
        if store is not None:
            store.close()
        if renderer is not None:
            renderer.close()
        backend.close()
        raise
    chats = Chats(backend, renderer)
    kept = None if store is None else cache
    return Served(backend, engine, store, renderer, description, chats, kept)


def _device(index: int) -> Reading | None:
    """An account of a graphics processor's memory, for whoever watches over what runs short."""
    found = devices()
    if index >= len(found):
        return None
    one = found[index]
    resource = Resource.MEMORY if one.is_integrated else Resource.DEVICE
    return Reading(f"device {one.name}", resource, one.free, one.total)


def _open_llama(
    path: str, config: WorkerConfig, on_progress: Callable[[float], None]
) -> LlamaBackend:
    header = gguf.read_header(Path(path))
    gguf.check(header)
    wanted = ContextOptions(
        context_length=config.context_length,
        num_sequences=config.num_sequences,
        batch_size=max(config.batch_size, config.num_sequences),
        micro_batch_size=min(512, config.batch_size),
        threads=config.threads,
        flash_attention=config.flash_attention,
        type_k=config.type_k,
        type_v=config.type_v,
        decode_seconds=config.decode_seconds,
    )
    model = ModelOptions(
        gpu_layers=config.gpu_layers,
        use_mmap=config.use_mmap,
        use_mlock=config.use_mlock,
        on_progress=on_progress,
    )
    return LlamaBackend.open(path, model=model, context=plan(header, wanted, config.kv_layout))


def _has_template(backend: LlamaBackend) -> bool:
    return template_family(backend.model.chat_template) is not None  # a blank one is none


def _fallback(backend: LlamaBackend) -> Fallback | None:
    """A template for a file without one; None: the model has no text to generate."""
    if backend.state_kind is StateKind.NONE or not backend.vocabulary_size:
        return None

    def is_token(text: str) -> bool:
        return len(backend.tokenize(text, add_special=False, parse_special=True)) == 1

    found = fallback(is_token)
    logger.info(
        "the file carries no chat template; conversations are written as for %s", found.name
    )
    return found


def _renderer(backend: LlamaBackend, instead: Fallback | None) -> Renderer | None:
    """What renders this model's conversations; None: nothing can."""
    source = backend.model.chat_template if instead is None else instead.source
    if source is None or template_family(source) is None:
        return None
    vocabulary = backend.vocabulary
    bos, eos = vocabulary.bos, vocabulary.eos
    renderer = Renderer(
        source,
        bos_token="" if bos is None else vocabulary.text(bos),
        eos_token="" if eos is None else vocabulary.text(eos),
    )
    backend.use_renderer(request_renderer(renderer, Specials(vocabulary.control_texts)))
    return renderer
