"""Greedy text against llama-cpp-python's own high-level class, token for token."""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from pathlib import Path

import pytest
from llama_cpp import Llama

from samovar.native.context import ContextOptions
from samovar.native.llama import LlamaBackend
from samovar.types import SamplingParams
from tests.conftest import FULL_SCALE, GENERATING_KINDS, ROOT, Models, shared_vocabularies

PROMPT = "The quick brown fox jumps over the lazy dog. Once upon a time, in a village, "
REAL = [path for path in shared_vocabularies() if "bert" not in path.name]
THREADS, LENGTH = 1, 100


def _peer(path: Path, count: int = LENGTH, text: str = PROMPT) -> tuple[list[int], list[int]]:
    """The prompt's ids and the greedy ids after it, by the peer."""
    peer = Llama(
        str(path),
        n_ctx=1024,
        n_batch=512,
        n_ubatch=512,
        n_threads=THREADS,
        n_threads_batch=THREADS,
        flash_attn=True,
        verbose=False,
    )
    try:
        prompt = peer.tokenize(text.encode(), add_bos=True, special=False)
        greedy = peer.generate(prompt, temp=0.0, top_k=1, repeat_penalty=1.0)
        return prompt, list(itertools.islice(greedy, count))
    finally:
        peer.close()


def _ours(path: Path, count: int = LENGTH, text: str = PROMPT) -> tuple[list[int], list[int]]:
    """The same by Samovar."""
    # The peer keeps all of a sliding window's cells; how cells are grouped moves the last bits.
    options = ContextOptions(
        context_length=1024, threads=THREADS, flash_attention="on", full_window=True
    )
    with LlamaBackend.open(path, context=options, proves_state=False) as backend:
        prompt = backend.tokenize(text)
        backend.prefill(prompt)
        return prompt, [backend.decode_one().token for _ in range(count)]


@pytest.mark.parametrize("quant", ["F16", "Q8_0", "Q4_0"])
@pytest.mark.parametrize("kind", GENERATING_KINDS)
@pytest.mark.parametrize("vocab", [None, "spm"], ids=["bpe", "spm"])
def test_greedy_text_is_the_peers(models: Models, kind: str, quant: str, vocab: str | None) -> None:
    path = models(kind, quant, vocab)
    assert _ours(path) == _peer(path)


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_prompt_of_several_batches_gives_the_peers_text(models: Models, kind: str) -> None:
    path = models(kind, "Q8_0")
    prompt, tokens = _ours(path, 50, PROMPT * 15)
    assert 512 < len(prompt) < 970
    assert (prompt, tokens) == _peer(path, 50, PROMPT * 15)


# A real vocabulary makes a tiny model large: each one once in the usual run, with everything in
# the long one.
REAL_CASES = [
    (kind, quant, vocab)
    for place, vocab in enumerate(REAL)
    for kind, quant in (
        itertools.product(GENERATING_KINDS, ("F16", "Q8_0"))
        if FULL_SCALE
        else [(GENERATING_KINDS[place % len(GENERATING_KINDS)], "Q8_0")]
    )
]


@pytest.mark.parametrize(
    ("kind", "quant", "vocab"), REAL_CASES, ids=lambda v: getattr(v, "stem", v)
)
def test_greedy_text_is_the_peers_with_real_vocabularies(
    models: Models, kind: str, quant: str, vocab: Path
) -> None:
    path = models(kind, quant, vocab)
    assert _ours(path) == _peer(path)
    path.unlink()


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_the_command_prints_the_peers_tokens(models: Models, kind: str) -> None:
    path = models(kind, "Q8_0")
    command = [sys.executable, "-m", "samovar", "run", str(path), PROMPT, "--raw", "--json"]
    command += ["--temperature", "0", "--max-tokens", str(LENGTH), "--ctx-size", "1024"]
    done = subprocess.run(
        [*command, "--threads", str(THREADS)], capture_output=True, check=True, cwd=ROOT
    )
    assert json.loads(done.stdout)["tokens"] == _peer(path)[1]


@pytest.mark.parametrize("kind", GENERATING_KINDS)
def test_a_seeded_run_repeats_itself(models: Models, kind: str) -> None:
    params = SamplingParams(
        temperature=1.0,
        top_k=40,
        top_p=0.95,
        min_p=0.02,
        repeat_penalty=1.1,
        xtc_probability=0.3,
        seed=11,
    )
    options = ContextOptions(context_length=512, threads=THREADS)
    found = []
    with LlamaBackend.open(models(kind), context=options, proves_state=False) as backend:
        for _ in range(2):
            backend.seq_rm(0)
            backend.configure_sampler(params)
            backend.prefill(backend.tokenize(PROMPT))
            found.append([backend.decode_one().token for _ in range(40)])
    assert found[0] == found[1]
    assert len(set(found[0])) > 5
