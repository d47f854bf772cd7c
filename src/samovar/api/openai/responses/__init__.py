"""The Responses API: requests of items, answers of items, streams of typed events.

body ──schema, items──> items ──prompt──> messages ──decode──> GenerateRequest
Event ──turn──> typed events, and at any moment the response object ──encode──> bytes
"""
