"""Messages and tools to prompt text, through the model's own Jinja template.

    request ── messages ──> plain conversation ── literal ──> guarded conversation
            ── renderer (a child process) ──> text ── literal ──> segments

Everything here is text: token ids are the backend's. Import the modules; this package exports
nothing itself, so that the child process loads no more than it needs.
"""
