"""hvsa.toml, the environment and options: what wins, and what is refused."""

import sys
from pathlib import Path

import pytest

from hvsa_cvat.agent.options import EnrollOptions, network_size
from hvsa_cvat.agent.settings import (
    AgentSettings,
    load_settings,
    read_secret,
)
from hvsa_cvat.config import Strategy
from hvsa_cvat.database import Place
from hvsa_cvat.database.postgres_server import PostgresServer
from hvsa_cvat.errors import ConfigError

ENVIRONMENT = {"CVAT_HOST": "https://cvat.example.com", "CVAT_ACCESS_TOKEN": "t0p-s3cret"}


def written(folder: Path, text: str) -> Path:
    path = folder / "hvsa.toml"
    path.write_text(text)
    return path


def load(folder: Path, text: str) -> AgentSettings:
    return load_settings(written(folder, text), ENVIRONMENT)


def test_the_environment_is_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    settings = load_settings(None, ENVIRONMENT)
    assert settings.address.url == "https://cvat.example.com"
    assert settings.address.organization is None
    assert settings.workspace == Path("hvsa-workspace")
    assert settings.interval == 30
    assert settings.enroll_options(None, {}) == EnrollOptions()
    assert "t0p-s3cret" not in repr(settings)


def test_options_come_over_projects_over_defaults(tmp_path: Path) -> None:
    settings = load(
        tmp_path,
        """
        workspace = "memory"
        [server]
        url = "https://other.example.com"
        organization = "acme"
        [defaults]
        budget = "8%"
        rounds = 2
        checkpoint = "start.safetensors"
        [projects.7]
        budget = "4%"
        annotators = ["ann"]
        """,
    )
    assert settings.address.url == "https://cvat.example.com"  # the environment's
    assert settings.address.organization == "acme"
    assert settings.workspace == tmp_path / "memory"
    one, seven = (
        settings.enroll_options(1, {}),
        settings.enroll_options(7, {"rounds": 5, "gap_percent": None}),
    )
    assert (one.budget, one.rounds, one.annotators) == ("8%", 2, ())
    assert (seven.budget, seven.rounds, seven.annotators) == ("4%", 5, ("ann",))
    assert seven.gap_percent == 5.0
    assert one.checkpoint == tmp_path / "start.safetensors"


@pytest.mark.parametrize(
    ("text", "patterns"),
    [
        ("[server", ("hvsa.toml", "TOML")),
        ("[server]\nhost = 1", ("hvsa.toml", "server.host")),
        ("[defaults]\nbudgets = 1", ("budgets", "budget", "known are")),
        ("[defaults]\nrounds = 0", ("rounds", "greater than or equal to 1")),
        ("[projects.kitchen]\nrounds = 1", ("projects.kitchen", "number")),
        ("[projects.7]\nshape = 'masks'", ("shape", "known are")),
        ("[server]\ntoken = 'abc'", ("token", "environment", "CVAT_ACCESS_TOKEN")),
        ("[server]\nca = 'ca.pem'", ("ca.pem", "No such file")),
        ("password = 'abc'", ("password", "environment")),
        ("workers = 0", ("workers", "greater than or equal to 1")),
        ("workers = 'many'", ("workers", "valid integer")),
        ("[compute]\ngpus_per_task = 2", ("gpus_per_task", 'need engine = "ray"', "torchrun")),
        (
            '[compute]\nengine = "ray"\ngpus_per_task = 1.5',
            ("gpus_per_task", "a share below 1, or a whole number"),
        ),
    ],
)
def test_what_is_wrong_is_named(tmp_path: Path, text: str, patterns: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError) as error:
        load(tmp_path, text)
    for pattern in patterns:
        assert pattern in str(error.value)
    assert "abc" not in str(error.value)


def test_a_server_must_be_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"--server https://"):
        load_settings(None, {})
    with pytest.raises(ConfigError, match=r"nowhere\.toml"):
        load_settings(tmp_path / "nowhere.toml", ENVIRONMENT)


def test_the_loop_gets_its_settings_from_the_frames() -> None:
    config = EnrollOptions().run_config((240, 320), "cpu")
    assert (config.granularity, config.size) == ("rectangle:40", (256, 320))
    assert config.budgets == pytest.approx((0.05 / 3, 0.1 / 3, 0.05))
    assert config.strategy is Strategy.ACTIVE
    longer = EnrollOptions(budget="2%,5%,8%,10%").run_config((240, 320), "cpu")
    assert longer.granularity == "rectangle:40,rectangle:40,frame"
    assert longer.strategy is Strategy.UNIFORM
    early = EnrollOptions(budget="1%,2%,4%,10%").run_config((240, 320), "cpu")
    assert early.granularity == "rectangle:40,rectangle:40,rectangle:40,frame"
    paper = EnrollOptions(budget="2%,5%,10%", method="paper").run_config((240, 320), "cpu")
    assert (paper.granularity, paper.strategy) == ("rectangle:40", Strategy.ACTIVE)
    large = EnrollOptions(granularity="frame", strategy=Strategy.UNIFORM).run_config(
        (1080, 1920), "cuda"
    )
    assert (large.granularity, large.size) == ("frame", (448, 800))
    with pytest.raises(ConfigError, match="uniform"):
        EnrollOptions(strategy=Strategy.UNIFORM).run_config((240, 320), "cpu")


@pytest.mark.parametrize("frames", [(1, 1), (10, 2000), (480, 360), (32, 32)])
def test_the_network_gets_multiples_of_its_stride(frames: tuple[int, int]) -> None:
    for device in ("cpu", "cuda"):
        height, width = network_size(frames, device)
        assert height % 32 == width % 32 == 0
        assert min(height, width) >= 32


def test_secrets_may_lie_in_files(tmp_path: Path) -> None:
    (tmp_path / "token").write_text("fr0m-a-file\n")
    (tmp_path / "password").write_text(" with spaces ")
    environment = {
        "CVAT_HOST": "https://cvat.example.com",
        "CVAT_ACCESS_TOKEN_FILE": str(tmp_path / "token"),
        "CVAT_USER": "hvsa",
        "CVAT_PASSWORD_FILE": str(tmp_path / "password"),
    }
    credentials = load_settings(written(tmp_path, ""), environment).credentials
    assert (credentials.token, credentials.password) == ("fr0m-a-file", " with spaces ")
    assert read_secret("NOTHING", {"NOTHING": "", "NOTHING_FILE": ""}) is None


@pytest.mark.parametrize(
    ("content", "pattern"),
    [
        (None, "cannot read .*No such file"),
        (b"", "in one line"),
        (b"\ns3cret", "in one line"),
        (b"s3cret\ns3cret", "in one line"),
        (b"s3cret\xff", "it is no text"),
    ],
)
def test_files_that_hold_no_secret(tmp_path: Path, content: bytes | None, pattern: str) -> None:
    file = tmp_path / "file"
    if content is not None:
        file.write_bytes(content)
    with pytest.raises(ConfigError, match=pattern) as raised:
        read_secret("TOKEN", {"TOKEN_FILE": str(file)})
    assert "TOKEN_FILE" in str(raised.value)
    assert "s3cret" not in str(raised.value)


def test_a_secret_comes_from_one_place(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="both set") as raised:
        read_secret("TOKEN", {"TOKEN": "s3cret", "TOKEN_FILE": str(tmp_path)})
    assert "s3cret" not in str(raised.value)


def test_files_with_a_byte_order_mark_are_read(tmp_path: Path) -> None:
    for encoding in ("utf-8-sig", "utf-16"):
        path = tmp_path / "hvsa.toml"
        path.write_bytes('workspace = "w"\n'.encode(encoding))
        assert load_settings(path, ENVIRONMENT).workspace == tmp_path / "w"
        token = tmp_path / "token"
        token.write_bytes("t0p-s3cret\r\n".encode(encoding))
        assert read_secret("S", {"S_FILE": str(token)}) == "t0p-s3cret"
    assert read_secret("S", {"S": "\ufefft0p-s3cret\r\n"}) == "t0p-s3cret"


def test_the_home_folder_in_every_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    home = tmp_path / "home"
    home.mkdir()
    monkeypatch.setenv("HOME", str(home))
    settings = load(
        tmp_path,
        'workspace = "~/ws"\n[defaults]\ncheckpoint = "~/a.safetensors"\nflow_weights = "~/f.pth"',
    )
    assert settings.workspace == home / "ws"
    assert settings.enroll_options(None, {}).checkpoint == home / "a.safetensors"
    assert settings.enroll_options(None, {}).flow_weights == home / "f.pth"
    (home / "token").write_text("t0p-s3cret\n")
    assert read_secret("S", {"S_FILE": "~/token"}) == "t0p-s3cret"
    with pytest.raises(ConfigError, match=r"home/ca.pem holds no certificates"):
        load(tmp_path, '[server]\nca = "~/ca.pem"')


def test_lists_of_names_may_be_text(tmp_path: Path) -> None:
    settings = load(tmp_path, '[defaults]\nbackground = "sky, road"\nannotators = "ann"')
    assert settings.enroll_options(None, {}).background == ("sky", "road")
    assert settings.enroll_options(None, {}).annotators == ("ann",)


def test_a_database_is_named_in_the_file_or_the_environment(tmp_path: Path) -> None:
    path = written(tmp_path, 'database = "postgresql://hvsa@db/hvsa"\nworkspace = "w"')
    settings = load_settings(path, ENVIRONMENT)
    assert settings.database == "postgresql+psycopg://hvsa@db/hvsa"
    assert settings.place == Place(tmp_path / "w", settings.database)
    other = {**ENVIRONMENT, "HVSA_DATABASE": "postgresql+psycopg://hvsa@elsewhere:5433/b"}
    assert load_settings(path, other).database == other["HVSA_DATABASE"]
    assert load_settings(written(tmp_path, ""), ENVIRONMENT).database is None


@pytest.mark.parametrize(
    ("address", "told"),
    [
        ("mysql://hvsa@db/hvsa", "mysql is not supported; write postgresql"),
        ("postgresql://hvsa:s3cret@db/hvsa", "holds a password; remove it there, and set PGPASS"),
        ("postgresql://hvsa@db/hvsa?password=s3cret", "holds a password"),
        ("postgresql://hvsa@db/hvsa?sslpassword=s3cret", "holds a password"),
        ("postgresql://hvsa@db", "names no database"),
        ("db", "no address of a database"),
        ("postgresql://db:port/hvsa", "no address of a database"),
    ],
)
def test_an_address_that_cannot_be_is_one_line(tmp_path: Path, address: str, told: str) -> None:
    with pytest.raises(ConfigError, match=told) as caught:
        load(tmp_path, f'database = "{address}"')
    assert "s3cret" not in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_workspace_in_files_is_not_forgotten_for_a_database(tmp_path: Path) -> None:
    (tmp_path / "hvsa-workspace").mkdir()
    (tmp_path / "hvsa-workspace" / "workspace.db").write_bytes(b"x")
    with pytest.raises(ConfigError, match="holds a workspace in SQLite files"):
        load(tmp_path, 'database = "postgresql://hvsa@db/hvsa"')


def test_the_driver_of_the_database_may_be_missing(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "psycopg", None)
    with pytest.raises(ConfigError, match=r"pip install 'hvsa-cvat\[cluster\]'"):
        PostgresServer("postgresql+psycopg://hvsa@db/hvsa")
