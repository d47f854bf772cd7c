"""Who may come in. None of these servers ever loads a model."""

from __future__ import annotations

import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from samovar.config import CacheConfig, ServerConfig, WorkerConfig, is_loopback
from samovar.errors import InvalidRequest
from samovar.server.keys import read_keys
from samovar.server.rates import Account, Bucket
from samovar.server.served import ServedModel
from tests.server.conftest import mini
from tests.server.serving import PATIENCE, serving

USER, ADMIN, FEW, POOR, GOER = (
    f"sk-{name}-0123456789" for name in ("user", "admin", "few", "poor", "goer")
)

KEYS = f"""
[[keys]]
name = "user"
key = "{USER}"

[[keys]]
name = "admin"
key = "{ADMIN}"
scopes = ["admin"]

[[keys]]
name = "few"
key = "{FEW}"
tenant = "a team"
requests_per_minute = 2

[[keys]]
name = "poor"
key = "{POOR}"
tokens_per_minute = 10

[[keys]]
name = "goer"
key = "{GOER}"
tokens_per_minute = 10
"""


def write_keys(path: Path, text: str = KEYS) -> Path:
    path.write_text(text, encoding="utf-8")
    path.chmod(0o600)
    return path


def bearer(key: str) -> dict[str, str]:
    return {"Authorization": f"Bearer {key}"}


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server that wants keys."""
    folder = tmp_path_factory.mktemp("keys")
    config = ServerConfig(port=0, keys_file=write_keys(folder / "keys.toml"))
    with serving([mini(folder / "kv")], config) as url:
        yield url


@pytest.mark.parametrize(
    ("key", "path", "status"),
    [
        (None, "/v1/models", 401),
        ("sk-somebody-else-000", "/v1/models", 401),
        (USER, "/v1/models", 200),
        (USER, "/api/tags", 200),
        (USER, "/ready", 200),
        (USER, "/metrics", 403),
        (USER, "/sessions", 403),
        (USER, "/cache/info", 403),
        (ADMIN, "/metrics", 200),
        (ADMIN, "/ready", 200),
        (ADMIN, "/v1/models", 403),
        (None, "/health", 200),
        (None, "/openapi.json", 200),
        (None, "/metrics", 401),
        (None, "/nothing", 401),
    ],
)
def test_keys_and_scopes(guarded: str, key: str | None, path: str, status: int) -> None:
    for headers in ({}, {"anthropic-version": "2023-06-01"}):
        sent = headers | (bearer(key) if key else {})
        assert httpx.get(guarded + path, headers=sent, timeout=PATIENCE).status_code == status
        if key:
            sent = headers | {"x-api-key": key}
            assert httpx.get(guarded + path, headers=sent, timeout=PATIENCE).status_code == status


def test_who_has_no_key_is_told_before_anything_is_read(guarded: str) -> None:
    response = httpx.post(f"{guarded}/v1/messages", content=b"no JSON", timeout=PATIENCE)
    assert response.status_code == 401
    assert response.headers["www-authenticate"] == "Bearer"
    assert response.json()["error"]["type"] == "authentication_error"
    assert (
        httpx.post(
            f"{guarded}/api/delete", headers=bearer(USER), json={}, timeout=PATIENCE
        ).status_code
        == 403
    )


def test_requests_per_minute(guarded: str) -> None:
    for _ in range(2):
        sent = httpx.post(
            f"{guarded}/v1/completions", headers=bearer(FEW), json={}, timeout=PATIENCE
        )
        assert sent.status_code == 400
        assert sent.headers["x-ratelimit-limit-requests"] == "2"
    assert sent.headers["x-ratelimit-remaining-requests"] == "0"
    for path in ("/v1/completions", "/v1/messages", "/api/chat"):
        refused = httpx.post(guarded + path, headers=bearer(FEW), json={}, timeout=PATIENCE)
        assert refused.status_code == 429
        assert 1 <= int(refused.headers["retry-after"]) <= 30
    assert (
        httpx.get(f"{guarded}/v1/models", headers=bearer(FEW), timeout=PATIENCE).status_code == 200
    )


def test_tokens_per_minute(guarded: str) -> None:
    body = {"model": "samovar-mini", "prompt": "a b c d e f g h i", "max_tokens": 8}
    first = httpx.post(f"{guarded}/v1/completions", headers=bearer(POOR), json=body, timeout=60)
    assert first.status_code == 200
    second = httpx.post(f"{guarded}/v1/completions", headers=bearer(POOR), json=body, timeout=60)
    assert second.status_code == 429


def test_who_leaves_pays_for_what_was_generated(guarded: str) -> None:
    url, who = f"{guarded}/v1/completions", bearer(GOER)
    body = {
        "model": "samovar-mini",
        "prompt": "a b c d e f g h i",
        "stream": True,
        "ignore_eos": True,
    }
    with httpx.stream("POST", url, headers=who, json=body, timeout=60) as response:
        assert response.status_code == 200
        for _ in zip(range(60), response.iter_lines(), strict=False):
            pass
    deadline = time.monotonic() + PATIENCE
    while httpx.post(url, headers=who, json={}, timeout=PATIENCE).status_code != 429:
        assert time.monotonic() < deadline


def test_a_bucket_fills_with_time() -> None:
    now = [0.0]
    bucket = Bucket(60, lambda: now[0])
    bucket.take(70)
    assert bucket.wait(1) == 11
    now[0] += 11
    assert bucket.wait(1) == 0
    now[0] += 1000
    assert bucket.level == 60


def test_an_account_counts_what_it_lets_in() -> None:
    now = [0.0]
    account = Account(2, 100, lambda: now[0])
    assert [account.admit() for _ in range(3)] == [0, 0, 30]
    now[0] += 60
    account.spend(300)
    assert account.admit() == pytest.approx(60 * 201 / 100)


# ---- the file ------------------------------------------------------------------------------------


def test_a_file_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(InvalidRequest, match="cannot read"):
        read_keys(tmp_path / "none")


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("", "keys"),
        ("keys = []", "there is none"),
        ("[[keys]]\nname = 'a'", "needs either key or sha256"),
        ("[[keys]]\nname = 'a'\nkey = 'short'", "fewer than 16"),
        ("[[keys]]\nname = 'a'\ntenant = ''\nkey = '0123456789abcdef'", "a tenant with a name"),
        ("[[keys]]\nname = 'a'\nsha256 = 'beef'", "64 hex digits"),
        ("[[keys]]\nname = ''\nkey = '0123456789abcdef'", "needs a name"),
        ("[[keys]]\nname = 'a'\nkey = '0123456789abcdef'\nscopes = ['all']", "inference and admin"),
        ("[[keys]]\nname = 'a'\nkey = '0123456789abcdef'\nscope = 'admin'", "scope"),
        ("[[keys]]\nname = 'a'\nkey = '0123456789abcdef'\nrequests_per_minute = 0", "1 or more"),
        ("[[keys]]\nname = 'a'\nkey = '0123456789abcdef'\nkey", "no TOML"),
    ],
)
def test_files_of_keys_that_are_none(tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(InvalidRequest, match=problem) as raised:
        read_keys(write_keys(tmp_path / "keys.toml", text))
    assert "0123456789abcdef" not in str(raised.value)


def test_a_file_that_all_can_read_is_refused(tmp_path: Path) -> None:
    path = write_keys(tmp_path / "keys.toml")
    path.chmod(0o644)
    with pytest.raises(InvalidRequest, match="chmod 600"):
        read_keys(path)
    path.chmod(0o640)
    assert read_keys(path).find(USER.encode()) is not None


def test_the_same_key_twice_is_refused(tmp_path: Path) -> None:
    twice = f"[[keys]]\nname = 'a'\nkey = '{USER}'\n[[keys]]\nname = 'b'\nkey = '{USER}'\n"
    with pytest.raises(InvalidRequest, match="b has the key of a"):
        read_keys(write_keys(tmp_path / "keys.toml", twice))


def test_digests_stand_for_keys(tmp_path: Path) -> None:
    text = (
        "[[keys]]\nname = 'a'\n"
        "sha256 = '9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08'\n"
    )
    keys = read_keys(write_keys(tmp_path / "keys.toml", text))
    found = keys.find(b"test")
    assert found is not None
    assert found.tenant == "a"
    assert keys.find(b"other") is None


# ---- names and pages -----------------------------------------------------------------------------


def _serving(config: ServerConfig) -> object:
    return serving([ServedModel("m", "samovar-mini", WorkerConfig(), CacheConfig())], config)


@pytest.mark.parametrize(
    ("host", "status"),
    [
        ("localhost", 200),
        ("LOCALHOST:8080", 200),
        ("127.0.0.1:1", 200),
        ("[::1]:8080", 200),
        ("samovar.localhost", 200),
        ("my.host", 200),
        ("evil.example", 403),
        ("127.0.0.1.evil.example", 403),
        ("localhost.evil.example:8080", 403),
    ],
)
def test_a_name_that_leads_here_is_not_enough(host: str, status: int) -> None:
    with _serving(ServerConfig(port=0, allowed_hosts=("My.Host",))) as url:  # type: ignore[attr-defined]
        for path in ("/v1/models", "/api/tags"):
            response = httpx.get(url + path, headers={"Host": host}, timeout=PATIENCE)
            assert response.status_code == status, response.text


def test_other_pages_may_not_ask_unless_they_are_named() -> None:
    page = {"Origin": "https://page.example"}
    with _serving(ServerConfig(port=0)) as url:  # type: ignore[attr-defined]
        refused = httpx.post(f"{url}/v1/completions", json={}, headers=page, timeout=PATIENCE)
        assert refused.status_code == 403
        assert "access-control-allow-origin" not in refused.headers
        for origin in ("null", "http://[", "http://]:1"):
            sent = httpx.post(
                f"{url}/v1/completions", json={}, headers={"Origin": origin}, timeout=PATIENCE
            )
            assert sent.status_code == 403, origin
        own = {"Origin": url}
        assert (
            httpx.post(f"{url}/v1/completions", json={}, headers=own, timeout=PATIENCE).status_code
            == 400
        )
        asked = httpx.options(
            f"{url}/v1/completions", headers=page | {"Access-Control-Request-Method": "POST"}
        )
        assert asked.status_code == 405
    with _serving(ServerConfig(port=0, cors_origins=(page["Origin"],))) as url:  # type: ignore[attr-defined]
        asked = httpx.options(
            f"{url}/v1/completions",
            headers=page
            | {
                "Access-Control-Request-Method": "POST",
                "Access-Control-Request-Headers": "authorization,anthropic-version",
            },
        )
        assert asked.status_code == 200
        assert asked.headers["access-control-allow-origin"] == page["Origin"]
        sent = httpx.post(f"{url}/v1/completions", json={}, headers=page, timeout=PATIENCE)
        assert sent.status_code == 400
        assert sent.headers["access-control-allow-origin"] == page["Origin"]
        other = {"Origin": "https://other.example"}
        assert (
            httpx.post(
                f"{url}/v1/completions", json={}, headers=other, timeout=PATIENCE
            ).status_code
            == 403
        )


@pytest.mark.parametrize(
    ("host", "is_so"),
    [
        ("127.0.0.1", True),
        ("127.9.9.9", True),
        ("::1", True),
        ("localhost", True),
        ("localhost.", True),
        ("a.localhost", True),
        ("0.0.0.0", False),
        ("::", False),
        ("192.168.0.1", False),
        ("localhost.example", False),
        ("", False),
    ],
)
def test_what_is_this_machine(host: str, is_so: bool) -> None:  # noqa: FBT001
    assert is_loopback(host) == is_so
    if not is_so:
        with pytest.raises(InvalidRequest, match="API keys"):
            ServerConfig(host=host)
        assert ServerConfig(host=host, has_no_auth=True).host == host
