"""Configuration: what beats what, and one line for whatever is wrong."""

from __future__ import annotations

import os
import stat
import tomllib
from pathlib import Path

import msgspec
import pytest

from inorder_server.config import (
    SECTIONS,
    Config,
    ConfigError,
    Secrets,
    load,
    masked,
    masked_uri,
    secret,
    secret_file,
    sqlite_path,
)

ROOT = Path(__file__).parents[2]


@pytest.fixture(autouse=True)
def _elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)


def write(text: str, path: Path = Path("config.toml")) -> Path:
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return path


def trouble(text: str) -> str:
    """The error for this config.toml, without its name."""
    write(text)
    with pytest.raises(ConfigError) as caught:
        load(None, {}, {})
    line = str(caught.value)
    assert "\n" not in line
    assert line.startswith("config.toml: ")
    return line.removeprefix("config.toml: ")


# ---- what is read, and what beats what


def test_without_a_file_there_are_the_defaults(tmp_path: Path) -> None:
    config = load(None, {}, {})
    assert config == Config(folder=tmp_path)
    assert (config.server.host, config.server.port) == ("127.0.0.1", 3000)


def test_the_file_that_comes_with_it_has_every_key_with_its_default(tmp_path: Path) -> None:
    text = (ROOT / "config.toml").read_text()
    write(text)
    config = load(None, {}, {})
    assert config == Config(folder=tmp_path, file=tmp_path / "config.toml")
    defaults = {name: msgspec.to_builtins(struct()) for name, struct in SECTIONS.items()}
    assert tomllib.loads(text) == defaults


def test_flags_beat_environment_beats_file_beats_defaults() -> None:
    write('[server]\nhost = "file"\nport = 1\ndrain_timeout = 5\n[handlers]\nmodules = ["file"]')
    environment = {"HOST": "env", "PORT": "2", "UNRELATED": "x"}
    flags = {"port": 3, "host": None, "handlers": (), "log_level": None}
    config = load(None, environment, flags)
    assert (config.server.host, config.server.port) == ("env", 3)
    assert config.server.drain_timeout == 5
    assert config.handlers.modules == ["file"]


def test_every_flag_of_serve_has_its_key() -> None:
    config = load(
        None,
        {},
        {
            "host": "::1",
            "port": 0,
            "store": "sqlite:///other.db",
            "handlers": ("a", "b.c"),
            "log_level": "ERROR",
            "log_format": "json",
        },
    )
    assert (config.server.host, config.server.port) == ("::1", 0)
    assert config.store.uri == "sqlite:///other.db"
    assert config.handlers.modules == ["a", "b.c"]
    assert (config.log.level, config.log.format) == ("ERROR", "json")


def test_environment() -> None:
    config = load(
        None,
        {
            "MONGODB_URI": "mongodb://h/inorder",
            "SESSION_SECRET": "s" * 16,
            "INORDER_METRICS_TOKEN": "m",
            "PORT": "",
        },
        {},
    )
    assert config.store.uri == "mongodb://h/inorder"
    assert config.secrets == Secrets(session="s" * 16, metrics_token="m")
    assert config.server.port == 3000


def test_dotenv_beside_the_file_beats_the_one_here_and_the_environment_beats_both(
    tmp_path: Path,
) -> None:
    write("[server]\nport = 1", Path("etc/config.toml"))
    write("PORT=2\nexport SESSION_SECRET='beside $the \"file'\nEMPTY\n# no\n", Path("etc/.env"))
    write("PORT=3\nSESSION_SECRET=here-here-here-here\nHOST=here", Path(".env"))
    config = load(Path("etc/config.toml"), {}, {})
    assert config.server.port == 2
    assert config.server.host == "here"
    assert config.secrets.session == 'beside $the "file'
    assert config.folder == tmp_path / "etc"
    assert config.file == tmp_path / "etc/config.toml"
    assert load(Path("etc/config.toml"), {"PORT": "4"}, {}).server.port == 4


def test_a_byte_order_mark_is_no_error() -> None:
    Path("config.toml").write_bytes(b"\xef\xbb\xbf[server]\nport = 1\n")
    assert load(None, {}, {}).server.port == 1


# ---- what is wrong, in one line


@pytest.mark.parametrize(
    ("text", "line"),
    [
        ("[server]\nprt = 1", "[server] prt: unknown key, did you mean port?"),
        ("[server]\nqueue = 1", "[server] queue: unknown key, it belongs into [session]"),
        (
            "[server]\nsession_tt = 1",
            "[server] session_tt: unknown key, did you mean session_ttl in [session]?",
        ),
        ("[log]\nxyzzy = 1", "[log] xyzzy: unknown key, expected one of level, format"),
        ("[sever]\nport = 1", "[sever]: unknown section, did you mean [server]?"),
        ("[xyzzy]\nport = 1", "[xyzzy]: unknown section"),
        ("port = 1", "port: belongs into a section: [server]"),
        ("server = 1", "server: expected a section, got 1"),
        (
            '[server]\nport = "80"',
            '[server] port: expected a whole number from 0 to 65535, got "80"',
        ),
        (
            "[server]\nport = 65536",
            "[server] port: expected a whole number from 0 to 65535, got 65536",
        ),
        (
            "[server]\nport = true",
            "[server] port: expected a whole number from 0 to 65535, got true",
        ),
        ('[server]\nhost = ""', '[server] host: expected a host name or an address, got ""'),
        (
            "[log]\nlevel = 'debug'",
            '[log] level: expected one of "DEBUG", "INFO", "WARNING", "ERROR", got "debug"',
        ),
        ("[handlers]\nbuiltin = 1", "[handlers] builtin: expected true or false, got 1"),
        (
            "[handlers]\nmodules = ['a b']",
            '[handlers] modules: expected a list of module names such as "ledger" or '
            '"package.module", got ["a b"]',
        ),
        (
            "[server]\nallowed_origins = ['https://example.org/']",
            '[server] allowed_origins: expected a list of origins such as "https://example.org", '
            'lower case, no path, got ["https://example.org/"]',
        ),
        *(
            (
                f"[server]\ntrusted_proxies = {given}",
                f"[server] trusted_proxies: expected a list of addresses or networks, got {shown}",
            )
            for given, shown in (
                ("['proxy.example.org']", '["proxy.example.org"]'),
                ("['10.0.0.1/8']", '["10.0.0.1/8"]'),
                ("'10.0.0.1'", '"10.0.0.1"'),
            )
        ),
        (
            "[store]\nlease = 1979-05-27",
            '[store] lease: expected seconds, a number above 0 and up to 1e9, got "1979-05-27"',
        ),
        (
            "[limits]\nbatch = '" + "x" * 100 + "'",
            '[limits] batch: expected a whole number from 1 to 65536, got "' + "x" * 56 + "...",
        ),
    ],
)
def test_one_line_says_the_key_and_what_was_expected(text: str, line: str) -> None:
    assert trouble(text) == line


@pytest.mark.parametrize(
    ("section", "key", "value"),
    [
        ("server", "drain_timeout", "0"),
        ("server", "drain_timeout", "inf"),
        ("server", "drain_timeout", "nan"),
        ("server", "ping_interval", "-1"),
        ("auth", "bcrypt_cost", "3"),
        ("auth", "bcrypt_cost", "32"),
        ("auth", "registration", '"maybe"'),
        ("session", "queue", "0"),
        ("session", "queue", "1.5"),
        ("session", "on_disconnect", "1"),
        ("limits", "message_bytes", "4095"),
        ("limits", "outcome_bytes", "4095"),
        ("limits", "batch", "0"),
        ("limits", "rate", "-0.1"),
        ("handlers", "threads", "0"),
        ("handlers", "modules", '"ledger"'),
    ],
)
def test_bounds(section: str, key: str, value: str) -> None:
    assert trouble(f"[{section}]\n{key} = {value}").startswith(f"[{section}] {key}: expected ")


@pytest.mark.parametrize(
    "uri",
    [
        "inorder.db",
        "sqlite://",
        "sqlite:///",
        "sqlite:///:memory:",
        "sqlite:///a.db?mode=ro",
        "sqlite:///a/",
        "mongodb://",
        "postgres://u:hunter2@h",
    ],
)
def test_a_wrong_store_is_named_without_repeating_it(uri: str) -> None:
    line = trouble(f'[store]\nuri = "{uri}"')
    assert line == (
        '[store] uri: expected "sqlite:///FILE" (relative), "sqlite:////FILE" (absolute) or '
        '"mongodb://HOST/DATABASE"'
    )


def test_toml_that_is_none() -> None:
    assert trouble("[server\n").startswith("not TOML: ")
    assert "line 1" in trouble("[server\n")
    Path("config.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(ConfigError, match=r"^config.toml: expected UTF-8 text$"):
        load(None, {}, {})


def test_a_file_that_is_not_there_or_is_none(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^nowhere.toml: No such file or directory$"):
        load(Path("nowhere.toml"), {}, {})
    with pytest.raises(ConfigError, match=r": Is a directory$"):
        load(tmp_path, {}, {})


def test_wrong_values_in_environment_flags_and_dotenv_say_where() -> None:
    with pytest.raises(ConfigError, match=r'^the environment: PORT: expected .*, got "x"$'):
        load(None, {"PORT": "x"}, {})
    with pytest.raises(ConfigError, match=r"^--port: expected .*, got 70000$"):
        load(None, {}, {"port": 70000})
    with pytest.raises(ConfigError, match=r"^--log-format: expected one of"):
        load(None, {}, {"log_format": "xml"})
    write("PORT=y", Path(".env"))
    with pytest.raises(ConfigError, match=r'/\.env: PORT: expected .*, got "y"$'):
        load(None, {}, {})


def test_a_dotenv_that_is_none() -> None:
    write("PORT=1\n=x\n", Path(".env"))
    with pytest.raises(ConfigError, match=r"/\.env: line 2: expected NAME=value$"):
        load(None, {}, {})
    Path(".env").write_bytes(b"A=\xff")
    with pytest.raises(ConfigError, match=r"/\.env: expected UTF-8 text$"):
        load(None, {}, {})
    Path(".env").unlink()
    Path(".env").mkdir()
    with pytest.raises(ConfigError, match=r"/\.env: Is a directory$"):
        load(None, {}, {})


# ---- paths


def test_paths_are_relative_to_the_file(tmp_path: Path) -> None:
    write('[store]\nuri = "sqlite:///data/x.db"', Path("etc/config.toml"))
    assert sqlite_path(load(Path("etc/config.toml"), {}, {})) == tmp_path / "etc/data/x.db"
    assert sqlite_path(load(None, {}, {"store": "sqlite:////var/x.db"})) == Path("/var/x.db")


# ---- secrets


def test_a_secret_is_made_once_and_only_its_owner_reads_it(tmp_path: Path) -> None:
    config = load(None, {}, {})
    file = tmp_path / "inorder.db.secret"
    assert secret_file(config) == file
    assert not file.exists()
    made = secret(config)
    assert len(made) >= 64
    assert secret(config) == made == file.read_bytes().strip()
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert os.listdir() == ["inorder.db.secret"]


def test_two_that_make_it_at_once_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    config = load(None, {}, {})
    link = os.link

    def somebody_was_faster(source: Path, target: Path) -> None:
        target.write_bytes(b"of the other process")
        link(source, target)

    monkeypatch.setattr(os, "link", somebody_was_faster)
    assert secret(config) == b"of the other process"
    assert os.listdir() == ["inorder.db.secret"]


def test_a_given_secret_is_taken_and_nothing_kept() -> None:
    config = load(None, {"SESSION_SECRET": "sixteen letters!"}, {})
    assert secret_file(config) is None
    assert secret(config) == b"sixteen letters!"
    assert os.listdir() == []


def test_secrets_that_are_too_short_missing_or_not_to_be_kept(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^SESSION_SECRET: expected at least 16 characters$"):
        secret(load(None, {"SESSION_SECRET": "short"}, {}))
    with pytest.raises(ConfigError, match=r"^SESSION_SECRET: expected in the environment or \.env"):
        secret(load(None, {"MONGODB_URI": "mongodb://h/x"}, {}))
    (tmp_path / "inorder.db.secret").write_bytes(b"half")
    with pytest.raises(ConfigError, match=r"inorder\.db\.secret: too short for a secret"):
        secret(load(None, {}, {}))
    with pytest.raises(ConfigError, match=r"SESSION_SECRET\): No such file or directory$"):
        secret(load(None, {}, {"store": "sqlite:///no/such/folder/x.db"}))


@pytest.mark.parametrize(
    ("uri", "shown"),
    [
        ("sqlite:///inorder.db", "sqlite:///inorder.db"),
        ("mongodb://host/x", "mongodb://host/x"),
        ("mongodb://host:27017/x", "mongodb://host:27017/x"),
        ("mongodb://user@host/x", "mongodb://user@host/x"),
        ("mongodb://user:hunter2@host/x?w=1", "mongodb://user:***@host/x?w=1"),
        ("mongodb+srv://us/er:hun:t@er2@host", "mongodb+srv://us/er:***@host"),
        (
            "mongodb://h/x?tlsCertificateKeyFilePassword=hunter2&w=1",
            "mongodb://h/x?tlsCertificateKeyFilePassword=***&w=1",
        ),
        (
            "mongodb://h/x?w=1&authMechanismProperties=AWS_SESSION_TOKEN:hunter2",
            "mongodb://h/x?w=1&authMechanismProperties=***",
        ),
    ],
)
def test_masked_uri(uri: str, shown: str) -> None:
    assert masked_uri(uri) == shown


def test_nothing_that_shows_a_configuration_shows_a_secret() -> None:
    config = load(
        None,
        {
            "MONGODB_URI": "mongodb://u:hunter2@h/x",
            "SESSION_SECRET": "hunter2hunter2hunter2",
            "INORDER_METRICS_TOKEN": "hunter2",
        },
        {},
    )
    assert masked(config)["store"] == {"uri": "mongodb://u:***@h/x", "lease": 10}
    for text in (repr(config), str(config), f"{masked(config)}"):
        assert "hunter2" not in text
