"""What the System page says of where things are kept."""

from __future__ import annotations

from pathlib import Path

from hvsa_cvat.agent.settings import load_local_settings
from hvsa_cvat.dashboard.facts import system_facts
from tests.lead import Filled
from tests.test_dashboard import browsing, page


def test_the_place_of_the_workspace_is_told(filled: Filled) -> None:
    with browsing(filled) as client:
        text = page(client, "/system")
    assert f"<dt>workspace</dt><dd>{filled.workspace}</dd>" in text
    assert "<dt>database</dt><dd>SQLite in the workspace, " in text
    assert "bucket" not in text


def test_database_and_bucket_are_named_without_secrets(tmp_path: Path) -> None:
    environment = {
        "CVAT_HOST": "https://cvat.example.com",
        "HVSA_DATABASE": "postgresql://ann@db.example.com/hvsa",
        "PGPASSWORD": "a secret",
        "HVSA_ARTEFACTS": "s3://videos/hvsa",
        "AWS_SECRET_ACCESS_KEY": "a secret",
    }
    facts = system_facts(load_local_settings(None, environment, workspace=tmp_path))
    assert facts.storage == (
        ("workspace, a cache of the bucket", str(tmp_path)),
        ("database", "postgresql+psycopg://ann@db.example.com/hvsa"),
        ("bucket for the files of sessions", "s3://videos/hvsa"),
    )
    assert facts.disk is not None
