"""The configuration: config.toml, the environment and flags, checked and merged.

Source: design.md section 9. Flags beat the environment, the environment beats config.toml,
that beats the defaults. Whatever is wrong ends in one line: the file, the key, what was expected.
"""

from __future__ import annotations

import contextlib
import difflib
import json
import os
import re
import secrets
import tomllib
from collections.abc import Iterable, Mapping
from io import StringIO
from pathlib import Path
from typing import Annotated, Any, Literal, NoReturn, get_args, get_origin, get_type_hints

import msgspec
from dotenv.parser import parse_stream
from msgspec import Meta, Struct

from .proxies import networks


class ConfigError(Exception):
    """The configuration can't be used. The text is one line for the operator."""


def _meta(expected: str, **bounds: Any) -> Meta:
    return Meta(extra={"expected": expected}, **bounds)


Port = Annotated[int, _meta("a whole number from 0 to 65535", ge=0, le=65535)]
Seconds = Annotated[float, _meta("seconds, a number above 0 and up to 1e9", gt=0, le=1e9)]
Count = Annotated[int, _meta("a whole number from 1 to 1e9", ge=1, le=10**9)]
Threads = Annotated[int, _meta("a whole number from 1 to 1024", ge=1, le=1024)]
Batch = Annotated[int, _meta("a whole number from 1 to 65536", ge=1, le=65536)]
Bytes = Annotated[int, _meta("bytes, a whole number from 4096 to 2**30", ge=4096, le=2**30)]
Rate = Annotated[float, _meta("requests a second, a number from 0 to 1e9", ge=0, le=1e9)]
Cost = Annotated[int, _meta("a whole number from 4 to 31", ge=4, le=31)]
Host = Annotated[str, _meta("a host name or an address", pattern=r"^[^\s/]+$")]
Uri = Annotated[
    str,
    _meta(
        '"sqlite:///FILE" (relative), "sqlite:////FILE" (absolute) or "mongodb://HOST/DATABASE"',
        pattern=r"^(sqlite:///[^?:]*[^?:/]|sqlite:///[A-Za-z]:[^?:]*[^?:/]|mongodb(\+srv)?://.+)$",
    ),
]
Origin = Annotated[str, Meta(pattern=r"^([a-z][a-z0-9+.-]*://[^/\sA-Z]+|null)$")]
Module = Annotated[str, Meta(pattern=r"^[^\W\d]\w*(\.[^\W\d]\w*)*$")]


class Server(Struct, frozen=True, forbid_unknown_fields=True):
    """Where it listens, and how long a drain may take."""

    host: Host = "127.0.0.1"
    port: Port = 3000
    drain_timeout: Seconds = 30
    allowed_origins: Annotated[
        list[Origin], _meta('a list of origins such as "https://example.org", lower case, no path')
    ] = []
    trusted_proxies: Annotated[list[str], _meta("a list of addresses or networks")] = []
    ping_interval: Seconds = 20


class Store(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the journal is kept."""

    uri: Uri = "sqlite:///inorder.db"
    lease: Seconds = 10

    def __repr__(self) -> str:
        return f"Store(uri={masked_uri(self.uri)!r}, lease={self.lease!r})"


class Auth(Struct, frozen=True, forbid_unknown_fields=True):
    """Who may come in, and for how long."""

    registration: Literal["open", "closed", "auto"] = "auto"
    token_ttl: Seconds = 604800
    bcrypt_cost: Cost = 12
    hello_timeout: Seconds = 10


class Session(Struct, frozen=True, forbid_unknown_fields=True):
    """What a session may hold, and what happens when its connection goes."""

    queue: Count = 1000
    unacked: Count = 10000
    on_disconnect: Literal["finish", "hold", "cancel"] = "finish"
    session_ttl: Seconds = 86400
    max_interrupts: Count = 3
    slow_client_timeout: Seconds = 30


class Limits(Struct, frozen=True, forbid_unknown_fields=True):
    """Bounds on frames, outcomes, rates and connections."""

    message_bytes: Bytes = 262144
    outcome_bytes: Bytes = 262144
    batch: Batch = 256
    rate: Rate = 0
    connections: Count = 10000
    connections_per_user: Count = 20


class Handlers(Struct, frozen=True, forbid_unknown_fields=True):
    """Where the methods come from."""

    modules: Annotated[
        list[Module], _meta('a list of module names such as "ledger" or "package.module"')
    ] = []
    builtin: bool = True
    threads: Threads = 32


class Log(Struct, frozen=True, forbid_unknown_fields=True):
    """What is logged, and in which form."""

    level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = "INFO"
    format: Literal["auto", "text", "json"] = "auto"


class Secrets(Struct, frozen=True):
    """What comes from the environment only. Never shown."""

    session: str | None = None
    metrics_token: str | None = None

    def __repr__(self) -> str:
        return "Secrets(***)"


class Config(Struct, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """A checked configuration. ``folder`` is what relative paths start from, ``file`` the
    config.toml that was read, if one was."""

    server: Server = Server()
    store: Store = Store()
    auth: Auth = Auth()
    session: Session = Session()
    limits: Limits = Limits()
    handlers: Handlers = Handlers()
    log: Log = Log()
    secrets: Secrets = Secrets()
    folder: Path
    file: Path | None = None


SECTIONS: dict[str, type[Struct]] = {
    "server": Server,
    "store": Store,
    "auth": Auth,
    "session": Session,
    "limits": Limits,
    "handlers": Handlers,
    "log": Log,
}
_TYPES = {
    (section, key): kind
    for section, struct in SECTIONS.items()
    for key, kind in get_type_hints(struct, include_extras=True).items()
}
_FLAGS = {
    "host": ("server", "host"),
    "port": ("server", "port"),
    "store": ("store", "uri"),
    "handlers": ("handlers", "modules"),
    "log_level": ("log", "level"),
    "log_format": ("log", "format"),
}
_ENVIRONMENT = {
    "HOST": ("server", "host"),
    "PORT": ("server", "port"),
    "MONGODB_URI": ("store", "uri"),
}
_SECRETS = {"SESSION_SECRET": "session", "INORDER_METRICS_TOKEN": "metrics_token"}


def load(path: Path | None, env: Mapping[str, str], flags: Mapping[str, object]) -> Config:
    """The configuration from all its sources.

    ``path`` None means ./config.toml where there is one. ``flags`` are named as serve's
    options (host, port, store, handlers, log_level, log_format); None and () mean not given.
    Raises :class:`ConfigError`.
    """
    here = Path.cwd()
    if path is None and (here / "config.toml").exists():
        path = Path("config.toml")
    file = None if path is None else path.absolute()
    folder = here if file is None else file.parent
    values: dict[str, dict[str, object]] = {section: {} for section in SECTIONS}
    if path is not None:
        _take_file(values, path)
    # The first one that knows a name has the word.
    names = (*_ENVIRONMENT, *_SECRETS)
    dotenvs = dict.fromkeys((folder / ".env", here / ".env"))
    layers = [("the environment", env), *((str(name), _read_dotenv(name)) for name in dotenvs)]
    given = {
        name: next(((origin, layer[name]) for origin, layer in layers if layer.get(name)), None)
        for name in names
    }
    for name, (section, key) in _ENVIRONMENT.items():
        if (found := given[name]) is not None:
            where = f"{found[0]}: {name}"
            values[section][key] = _checked(section, key, found[1], where, strict=False)
    for flag, value in flags.items():
        if value is not None and value != ():
            section, key = _FLAGS[flag]
            value = list(value) if isinstance(value, tuple) else value
            where = f"--{flag.replace('_', '-')}"
            values[section][key] = _checked(section, key, value, where, strict=False)
    hidden = {field: found[1] for name, field in _SECRETS.items() if (found := given[name])}
    return Config(
        **{name: struct(**values[name]) for name, struct in SECTIONS.items()},  # type: ignore[arg-type]
        secrets=Secrets(**hidden),
        folder=folder,
        file=file,
    )


def sqlite_path(config: Config) -> Path:
    """The database file, absolute. Only for a ``sqlite:`` store."""
    return config.folder / config.store.uri.removeprefix("sqlite:///")


_USER_PASSWORD = re.compile(r"^([a-z+]+://[^:@]*):.*@")
_SECRET_OPTION = re.compile(r"(?i)([?&;][^=&;]*(?:password|token|secret|properties)[^=&;]*=)[^&;]*")


def masked_uri(uri: str) -> str:
    """The URI without its password; rather too much is hidden than too little."""
    return _SECRET_OPTION.sub(r"\1***", _USER_PASSWORD.sub(r"\1:***@", uri))


def masked(config: Config) -> dict[str, dict[str, Any]]:
    """The sections as plain values, fit to be shown."""
    shown: dict[str, dict[str, Any]] = {
        section: msgspec.to_builtins(getattr(config, section)) for section in SECTIONS
    }
    shown["store"]["uri"] = masked_uri(config.store.uri)
    return shown


# ---- the secret that signs tokens

SHORTEST_SECRET = 16
"""Characters that a secret must have at least."""


def secret_file(config: Config) -> Path | None:
    """Where the secret is kept that nobody gave; None where one was given.

    Raises :class:`ConfigError` for one that is too short, or is missing with MongoDB.
    """
    given = config.secrets.session
    if given is not None:
        if len(given) < SHORTEST_SECRET:
            raise ConfigError(f"SESSION_SECRET: expected at least {SHORTEST_SECRET} characters")
        return None
    if not config.store.uri.startswith("sqlite:"):
        raise ConfigError(
            "SESSION_SECRET: expected in the environment or .env, since all nodes on MongoDB "
            f"share it (at least {SHORTEST_SECRET} characters)"
        )
    database = sqlite_path(config)
    return database.with_name(database.name + ".secret")


def secret(config: Config) -> bytes:
    """The secret; made and kept (mode 600) where none was given. Raises :class:`ConfigError`."""
    file = secret_file(config)
    if file is None:
        assert config.secrets.session is not None
        return config.secrets.session.encode()
    try:
        try:
            kept = file.read_bytes()
        except FileNotFoundError:
            _make(file)
            kept = file.read_bytes()
    except OSError as exc:
        raise ConfigError(
            f"{file}: no secret can be kept there (or set SESSION_SECRET): {exc.strerror or exc}"
        ) from None
    if len(kept.strip()) < SHORTEST_SECRET:
        raise ConfigError(f"{file}: too short for a secret; delete it and a new one is made")
    return kept.strip()


def _make(file: Path) -> None:
    """Whoever comes first wins, and nobody ever reads half a secret."""
    fresh = file.with_name(f"{file.name}.{secrets.token_hex(8)}")
    handle = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    try:
        with os.fdopen(handle, "wb") as out:
            out.write(secrets.token_urlsafe(48).encode() + b"\n")
            out.flush()
            os.fsync(out.fileno())
        with contextlib.suppress(FileExistsError):
            os.link(fresh, file)
    finally:
        fresh.unlink()


# ---- config.toml and .env


def _take_file(values: dict[str, dict[str, object]], path: Path) -> None:
    for section, keys in _read_toml(path).items():
        if section not in SECTIONS:
            if homes := [f"[{home}]" for home, key in _TYPES if key == section]:
                _fail(f"{path}: {section}: belongs into a section: {' or '.join(homes)}")
            _fail(f"{path}: [{section}]: unknown section{_nearest(section, SECTIONS, '[{}]')}")
        if not isinstance(keys, dict):
            _fail(f"{path}: {section}: expected a section, got {_shown(keys)}")
        for key, value in keys.items():
            where = f"{path}: [{section}] {key}"
            if (section, key) not in _TYPES:
                _fail(f"{where}: unknown key{_suggestion(section, key)}")
            values[section][key] = _checked(section, key, value, where, strict=True)


def _read_toml(path: Path) -> dict[str, Any]:
    try:
        return tomllib.loads(path.read_text(encoding="utf-8-sig"))
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or exc}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected UTF-8 text") from None
    except tomllib.TOMLDecodeError as exc:
        raise ConfigError(f"{path}: not TOML: {' '.join(str(exc).split())}") from None


def _read_dotenv(path: Path) -> dict[str, str]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except OSError as exc:
        raise ConfigError(f"{path}: {exc.strerror or exc}") from None
    except UnicodeDecodeError:
        raise ConfigError(f"{path}: expected UTF-8 text") from None
    found: dict[str, str] = {}
    for binding in parse_stream(StringIO(text)):
        if binding.error:
            _fail(f"{path}: line {binding.original.line}: expected NAME=value")
        if binding.key is not None and binding.value is not None:
            found[binding.key] = binding.value
    return found


# ---- one value, and what to say of it


def _checked(section: str, key: str, value: object, where: str, *, strict: bool) -> object:
    kind = _TYPES[section, key]
    try:
        checked: object = msgspec.convert(value, kind, strict=strict)
        if key == "trusted_proxies":
            networks(msgspec.convert(checked, list[str]))
        return checked
    except (msgspec.ValidationError, ValueError):
        # A URI may hold a password, so a wrong one is not repeated.
        got = "" if key == "uri" else f", got {_shown(value)}"
        raise ConfigError(f"{where}: expected {_expected(kind)}{got}") from None


def _expected(kind: Any) -> str:
    if get_origin(kind) is Annotated:
        return str(kind.__metadata__[0].extra["expected"])
    if get_origin(kind) is Literal:
        return "one of " + ", ".join(json.dumps(value) for value in get_args(kind))
    return "true or false"


def _shown(value: object) -> str:
    text = json.dumps(value, ensure_ascii=False, default=str)
    return text if len(text) <= 60 else text[:57] + "..."


def _nearest(name: str, known: Iterable[str], form: str) -> str:
    found = difflib.get_close_matches(name, known, n=1)
    return f", did you mean {form.format(found[0])}?" if found else ""


def _suggestion(section: str, key: str) -> str:
    own = [k for s, k in _TYPES if s == section]
    for home, other in _TYPES:
        if other == key:
            return f", it belongs into [{home}]"
    if nearest := _nearest(key, own, "{}"):
        return nearest
    elsewhere = {k: s for s, k in _TYPES}
    if found := difflib.get_close_matches(key, elsewhere, n=1):
        return f", did you mean {found[0]} in [{elsewhere[found[0]]}]?"
    return f", expected one of {', '.join(own)}"


def _fail(text: str) -> NoReturn:
    raise ConfigError(text)
