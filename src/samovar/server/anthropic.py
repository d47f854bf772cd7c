"""Anthropic's routes: messages, counting tokens, models."""

from __future__ import annotations

from fastapi import APIRouter

router = APIRouter()
