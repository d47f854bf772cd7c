"""A LoRA adapter: a small file that changes what a model says."""

from __future__ import annotations

import hashlib
from pathlib import Path

import llama_cpp.llama_cpp as ll

from samovar import gguf
from samovar.errors import AdapterRejected, MalformedGGUF
from samovar.native import library
from samovar.native.handle import Handle
from samovar.native.model import Model


class LoraAdapter:
    """An adapter loaded for one model. It keeps that model alive until it is closed.

    Raises ModelNotFound for a missing file and AdapterRejected for one that is damaged, is no
    adapter, or was made for another model.
    """

    def __init__(self, model: Model, path: str | Path) -> None:
        self.path = Path(path)
        self.model = model
        self._check()
        with library.captured_errors() as lines:
            pointer = ll.llama_adapter_lora_init(model.handle.pointer, bytes(self.path))
        if not pointer:
            raise AdapterRejected(f"llama.cpp refused {self.path.name}: {library.explain(lines)}")
        self.handle = Handle(pointer, ll.llama_adapter_lora_free, "adapter", parent=model.handle)
        self.handle.watch(self)
        self.fingerprint = hashlib.sha256(self.path.read_bytes()).digest()
        """SHA-256 of the file."""

    def close(self) -> None:
        """Free it. Idempotent. It must not be attached any more."""
        self.handle.close()

    def _check(self) -> None:
        try:
            header = gguf.read_header(self.path)
            gguf.check(header)
        except MalformedGGUF as error:
            raise AdapterRejected(str(error)) from error
        if not header.is_adapter:
            raise AdapterRejected(f"{self.path.name} is a model, not an adapter; pass it as MODEL")
        own, wanted = header.architecture, self.model.header.architecture
        if own != wanted:
            raise AdapterRejected(
                f"{self.path.name} was made for a model of architecture {own}, this one is"
                f" {wanted}; use an adapter trained on this model"
            )
