"""What a file is that is not GGUF, said in one line with what to do about it."""

from __future__ import annotations

import codecs

# How much of the file `explain` needs.
HEAD_BYTES = 4096

CONVERT = "convert it with llama.cpp's convert_hf_to_gguf.py, or get a GGUF build of the model"
AGAIN = "download it again"

# The first bytes of formats that people try, in order.
MAGICS: tuple[tuple[bytes, str], ...] = (
    (b"\x1f\x8b", "is compressed with gzip: unpack it first (gunzip)"),
    (b"\x28\xb5\x2f\xfd", "is compressed with zstd: unpack it first (unzstd)"),
    (b"\xfd7zXZ\x00", "is compressed with xz: unpack it first (unxz)"),
    (b"BZh", "is compressed with bzip2: unpack it first (bunzip2)"),
    (b"7z\xbc\xaf\x27\x1c", "is a 7z archive: unpack it first"),
    (b"Rar!\x1a\x07", "is a RAR archive: unpack it first"),
    (b"\x89HDF\r\n\x1a\n", f"is an HDF5 (Keras) file: {CONVERT}"),
    (b"\x93NUMPY", f"is a numpy array: {CONVERT}"),
    (b"lmgg", f"is in the old GGML format, from before GGUF: {CONVERT}"),
    (b"fmgg", f"is in the old GGMF format, from before GGUF: {CONVERT}"),
    (b"tjgg", f"is in the old GGJT format, from before GGUF: {CONVERT}"),
    (b"algg", f"is a LoRA adapter in the old GGLA format, from before GGUF: {CONVERT}"),
    (b"\x7fELF", "is a program, not a model"),
    (b"version https://git-lfs", "is a Git LFS pointer, not the model itself: run `git lfs pull`"),
)


def explain(head: bytes) -> str:
    """The rest of a sentence that starts with the file's name: "is ...: do ...".

    `head` is the first HEAD_BYTES bytes of a file that does not begin with `GGUF`.
    """
    for magic, meaning in MAGICS:
        if head.startswith(magic):
            return meaning
    return _explain_structure(head) or _explain_text(head) or _explain_binary(head)


def _explain_structure(head: bytes) -> str | None:
    if head.startswith(b"PK\x03\x04"):
        if b"data.pkl" in head:
            return f"is a PyTorch checkpoint, not GGUF: {CONVERT}"
        return "is a zip archive: unpack it first"
    if len(head) > 2 and head[0] == 0x80 and 2 <= head[1] <= 5:
        return f"is a Python pickle (an old PyTorch checkpoint), not GGUF: {CONVERT}"
    if head[257:262] == b"ustar":
        return "is a tar archive: unpack it first (tar -xf)"
    # safetensors: the length of a JSON header in 64 bits, then the JSON.
    if len(head) > 9 and head[8:9] == b"{" and int.from_bytes(head[:8], "little") < 1 << 28:
        return f"is a Hugging Face safetensors file, not GGUF: {CONVERT}"
    return None


def _explain_text(head: bytes) -> str | None:
    start = head.lstrip(b"\xef\xbb\xbf \t\r\n")[:16].lower()
    if start.startswith((b"<!doctype", b"<html", b"<?xml")):
        return f"is a web page, probably an error or a login in place of the model: {AGAIN}"
    if any(byte < 0x20 and byte not in b"\t\n\r\x1b\x0c" for byte in head):
        return None
    try:
        # Incremental, because the end of `head` may cut a character in two.
        codecs.getincrementaldecoder("utf-8")().decode(head)
    except UnicodeDecodeError:
        return None
    if start.startswith((b"{", b"[")):
        return "is a JSON file, not a model: give the .gguf file"
    return "is a text file, not a model: give the .gguf file"


def _explain_binary(head: bytes) -> str:
    if not head.strip(b"\x00"):
        return f"begins with zeros, as an unfinished download does: {AGAIN}"
    return (
        f"is not a GGUF file: it begins with {head[:4].hex(' ')}, not with 47 47 55 46 (GGUF); "
        "give a .gguf file, or download it again"
    )
