"""The docs name what there is: pages made from the code are fresh, links and commands exist."""

import re
from pathlib import Path

import pytest
from click.testing import CliRunner

import hvsa_cvat
from tools import reference_docs

ROOT = Path(hvsa_cvat.__file__).parents[1]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]
PAGES += sorted((ROOT / "docs").glob("*.md"))
TEXT = {page: page.read_text() for page in PAGES}


def test_the_pages_made_from_the_code_are_fresh() -> None:
    result = CliRunner().invoke(reference_docs.main, ["--check"])
    assert result.exit_code == 0, result.output


def test_every_variable_that_is_described_is_read() -> None:
    source = "".join(path.read_text() for path in (ROOT / "hvsa_cvat").rglob("*.py"))
    for names in reference_docs._ENVIRONMENT:
        for name in names.split(", "):
            stem = name.removesuffix("_FILE").removesuffix("_PROXY")
            assert stem in source or stem in ("HTTPS", "HTTP", "ALL", "NO"), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_to_files(page: Path) -> None:
    for goal in re.findall(r"\]\(([^)\s]+)\)", TEXT[page]):
        if "://" not in goal and not goal.startswith("#"):
            assert (page.parent / goal.partition("#")[0]).exists(), goal


def test_the_targets_of_make_that_pages_name_exist() -> None:
    targets = set(re.findall(r"^([a-z-]+):", (ROOT / "Makefile").read_text(), re.MULTILINE))
    for page, text in TEXT.items():
        named = set(re.findall(r"(?:^|`)make ([a-z-]+)", text, re.MULTILINE))
        assert named <= targets, page.name


def test_the_modules_that_pages_start_exist() -> None:
    for page, text in TEXT.items():
        for name in re.findall(r"-m ((?:benchmarks|tools)[.\w]*)", text):
            path = ROOT.joinpath(*name.rstrip(".").split("."))
            assert path.with_suffix(".py").exists() or (path / "__main__.py").exists(), (
                page.name,
                name,
            )


def test_the_layout_names_every_module() -> None:
    text = TEXT[ROOT / "docs" / "architecture.md"]
    for path in sorted((ROOT / "hvsa_cvat").rglob("*.py")):
        if path.name not in ("__init__.py", "__main__.py"):
            assert path.name in text, path.relative_to(ROOT)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_lines_are_at_most_120_characters_long(page: Path) -> None:
    # a row of a table and a picture cannot be broken
    lines = [line for line in TEXT[page].splitlines() if not line.startswith(("|", "!["))]
    assert [line for line in lines if len(line) > 120] == []
