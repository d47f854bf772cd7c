"""OpenAI's routes: chat completions, completions, embeddings, models, and our extensions."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
