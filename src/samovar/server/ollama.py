"""Ollama's routes."""

from __future__ import annotations

from fastapi import APIRouter

from samovar.server import ollama_models, ollama_text, ollama_vectors

router = APIRouter(tags=["ollama"])

for _part in (ollama_text, ollama_vectors, ollama_models):
    router.include_router(_part.router)
