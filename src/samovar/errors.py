"""The exception tree: every class has a stable code that the edges map to their own dialect.

    SamovarError
    ├── RequestError              the caller's fault
    │   ├── InvalidRequest            invalid_request
    │   │   ├── InvalidToken              invalid_token
    │   │   └── GrammarRejected           grammar_rejected
    │   ├── ModelNotFound             model_not_found
    │   ├── SessionNotFound           session_not_found
    │   ├── TranscriptMismatch        transcript_mismatch
    │   └── ContextOverflow           context_length_exceeded
    ├── Unavailable               not now; try again
    │   ├── Overloaded                overloaded
    │   ├── DecodeTimeout             decode_timeout
    │   ├── DeadlineExceeded          deadline_exceeded
    │   ├── WorkerLost                worker_lost
    │   ├── SessionBusy               session_busy
    │   └── SessionReset              session_reset
    ├── ModelError                this file cannot be served here
    │   ├── LoadFailed                load_failed
    │   │   ├── MalformedGGUF             malformed_gguf
    │   │   ├── UnsupportedModel          unsupported_model
    │   │   └── OutOfMemory               out_of_memory
    │   ├── AdapterRejected           adapter_rejected
    │   ├── OperationUnsupported      operation_unsupported
    │   └── TemplateError             template_error
    │       └── TemplateMissing           template_missing
    └── InternalError             a bug, ours or a caller's
        ├── NativeError               native_error
        ├── NoLogits                  no_logits
        ├── StateRejected             state_rejected
        └── Released                  released

A message says what happened and what to do about it. It never contains prompt text.
"""

from __future__ import annotations

from typing import ClassVar


class SamovarError(Exception):
    """Anything Samovar raises on purpose."""

    code: ClassVar[str] = "internal_error"
    retryable: ClassVar[bool] = False


class RequestError(SamovarError):
    """The request cannot be served as it stands; another one may be."""

    code = "invalid_request"


class InvalidRequest(RequestError):
    """A value is missing, of the wrong type or out of range."""


class InvalidToken(InvalidRequest):
    """A token id is not in the model's vocabulary."""

    code = "invalid_token"


class GrammarRejected(InvalidRequest):
    """A grammar does not compile, or exceeds the limits set for grammars."""

    code = "grammar_rejected"


class ModelNotFound(RequestError):
    """There is no such model."""

    code = "model_not_found"


class SessionNotFound(RequestError):
    """There is no such session: it never was, was ended, or its room was needed by others."""

    code = "session_not_found"


class TranscriptMismatch(RequestError):
    """A session does not hold the tokens that the caller expected."""

    code = "transcript_mismatch"


class ContextOverflow(RequestError):
    """More tokens than the context has room for."""

    code = "context_length_exceeded"


class Unavailable(SamovarError):
    """Not now: the same request may succeed later."""

    code = "unavailable"
    retryable = True


class Overloaded(Unavailable):
    """A bounded queue or the cells of the context are full."""

    code = "overloaded"


class DecodeTimeout(Unavailable):
    """A decode call was interrupted at its deadline or by an abort."""

    code = "decode_timeout"


class DeadlineExceeded(Unavailable):
    """A request was not finished in the time it was given."""

    code = "deadline_exceeded"


class WorkerLost(Unavailable):
    """The process of the model died, and what it was doing cannot be taken up again."""

    code = "worker_lost"


class SessionBusy(Unavailable):
    """Another request is running on the session."""

    code = "session_busy"


class SessionReset(Unavailable):
    """The session on which the request ran was reset."""

    code = "session_reset"


class ModelError(SamovarError):
    """The model, or something that belongs to it, cannot be used here."""

    code = "model_error"


class LoadFailed(ModelError):
    """A model file could not be loaded."""

    code = "load_failed"


class MalformedGGUF(LoadFailed):
    """The file is not a GGUF file, is damaged, or says things that cannot be true."""

    code = "malformed_gguf"


class UnsupportedModel(LoadFailed):
    """A valid file of a kind that this build cannot run."""

    code = "unsupported_model"


class OutOfMemory(LoadFailed):
    """The model or its context needs more memory than there is."""

    code = "out_of_memory"


class AdapterRejected(ModelError):
    """A LoRA file is damaged or belongs to another model."""

    code = "adapter_rejected"


class OperationUnsupported(ModelError):
    """This model cannot do what was asked, whatever the arguments."""

    code = "operation_unsupported"


class TemplateError(ModelError):
    """The chat template could not be rendered."""

    code = "template_error"


class TemplateMissing(TemplateError):
    """The model file carries no chat template."""

    code = "template_missing"


class InternalError(SamovarError):
    """Something that should not happen."""


class NativeError(InternalError):
    """llama.cpp refused a call whose arguments had been checked."""

    code = "native_error"


class NoLogits(InternalError):
    """Sampling was asked of a sequence whose last token has no logits."""

    code = "no_logits"


class StateRejected(InternalError):
    """A saved state is damaged, or was made by another model, build or layout."""

    code = "state_rejected"


class Released(InternalError):
    """The model, context or adapter was closed before."""

    code = "released"


def from_code(code: str, message: str) -> SamovarError:
    """The exception that a failure's code stands for; an unknown code is an InternalError."""
    return _by_code(SamovarError).get(code, InternalError)(message)


def _by_code(base: type[SamovarError]) -> dict[str, type[SamovarError]]:
    """Classes of this module by code; where a class has its parent's, the class."""
    found = {base.code: base}
    for one in base.__subclasses__():
        if one.__module__ == __name__:
            found |= _by_code(one)
    return found
