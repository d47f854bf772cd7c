from __future__ import annotations

import gzip
import io
import json
import pickle
import struct
import tarfile
import zipfile

import pytest
from gguf_files import Save

from samovar.errors import MalformedGGUF
from samovar.gguf import read_header


def zipped(name: str) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr(name, b"x" * 100)
    return out.getvalue()


def tarred() -> bytes:
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w") as archive:
        archive.addfile(tarfile.TarInfo("model.gguf"))
    return out.getvalue()


def safetensors() -> bytes:
    head = json.dumps({"__metadata__": {"format": "pt"}}).encode()
    return struct.pack("<Q", len(head)) + head + bytes(100)


LFS = b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


@pytest.mark.parametrize(
    ("data", "words"),
    [
        (b"", "is empty"),
        (b"GG", "ends inside its header"),
        (b"GGUF\x03", "ends inside its header"),
        (gzip.compress(b"GGUF" * 100), "gzip"),
        (b"\x28\xb5\x2f\xfd" + bytes(50), "zstd"),
        (zipped("model.gguf"), "zip archive"),
        (zipped("archive/data.pkl"), "PyTorch"),
        (pickle.dumps({"weight": 1}), "pickle"),
        (tarred(), "tar archive"),
        (safetensors(), "safetensors"),
        (b"lmgg" + bytes(50), "GGML"),
        (b"tjgg" + bytes(50), "GGJT"),
        (b"\x89HDF\r\n\x1a\n" + bytes(50), "HDF5"),
        (b"\x7fELF" + bytes(50), "a program"),
        (LFS, "git lfs pull"),
        (b"<!DOCTYPE html><html>Not found</html>", "web page"),
        (b'{"architectures": ["LlamaForCausalLM"]}', "JSON"),
        ("# Mod\u00e8le\n".encode() * 1000, "text file"),
        (bytes(4096), "zeros"),
        (b"\x01\x02\x03\x04" * 10, "begins with 01 02 03 04"),
    ],
)
def test_a_foreign_file_is_named(save: Save, data: bytes, words: str) -> None:
    with pytest.raises(MalformedGGUF, match=words) as raised:
        read_header(save(data))
    assert "\n" not in str(raised.value)
