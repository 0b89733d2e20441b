"""Who may import whom. The order and its reasons: each layer knows only the ones below it."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

import hvsa_cvat

ROOT = Path(hvsa_cvat.__file__).parent
MODULES = {
    ".".join(("hvsa_cvat", *path.relative_to(ROOT).with_suffix("").parts)): path
    for path in sorted(ROOT.rglob("*.py"))
}

LAYERS = (
    {"errors"},
    {"types"},
    {
        "config",
        "budgets",
        "rates",
        "targets",
        "ports",
        "files",
        "database",
        "objects",
        "threads",
        "class_lists",
        "lookalikes",
        "name_lists",
        "plain_text",
    },
    {"video", "annotation"},
    {"metrics"},
    {"selection", "segmentation", "propagation"},
    {"session", "report", "cvat"},
    {"simulation", "agent", "serving", "datasets"},
    {"enrolled"},
    {"dashboard", "export"},
    {"cli", "__main__"},
)
"""From the bottom to the top; a module may import its own layer and those below."""


def part(module: str) -> str:
    """`hvsa_cvat.video.flow` -> `video`; the package itself has no parts but its version."""
    return module.split(".")[1] if "." in module else ""


def imported(path: Path) -> Iterator[str]:
    """The modules that a file names in its imports, wherever they stand."""
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path} imports relatively"
            yield node.module or ""
            below = [f"{node.module}.{alias.name}" for alias in node.names]
            yield from (name for name in below if name in MODULES)


def level(module: str) -> int:
    return next(i for i, layer in enumerate(LAYERS) if part(module) in layer)


def users(package: str) -> set[str]:
    """The modules that import a package from outside."""
    return {
        module
        for module, path in MODULES.items()
        if any(name.split(".")[0] == package for name in imported(path))
    }


def prints(path: Path) -> bool:
    return any(
        isinstance(node, ast.Name) and node.id == "print"
        for node in ast.walk(ast.parse(path.read_text()))
    )


def test_every_module_has_its_layer() -> None:
    parts = {part(module) for module in MODULES} - {"__init__"}
    assert parts == set().union(*LAYERS)


@pytest.mark.parametrize("module", [m for m in MODULES if m != "hvsa_cvat.__init__"])
def test_imports_run_one_way(module: str) -> None:
    ours = [name for name in imported(MODULES[module]) if name.startswith("hvsa_cvat.")]
    wrong = [name for name in ours if level(name) > level(module)]
    assert wrong == []


def test_parts_beside_each_other_stay_apart() -> None:
    apart = (
        {"video", "annotation"},
        {"selection", "segmentation", "propagation"},
        {"session", "report", "cvat"},
        {"simulation", "agent", "serving", "datasets"},
        {"dashboard", "export"},
    )
    for module, path in MODULES.items():
        for name in imported(path):
            for parts in apart:
                if name.startswith("hvsa_cvat.") and {part(module), part(name)} <= parts:
                    assert part(module) == part(name), f"{module} imports {name}"


def test_only_the_command_line_talks_to_people() -> None:
    assert {part(module) for module in users("click") | users("rich")} == {"cli"}
    assert [module for module, path in MODULES.items() if prints(path)] == []


def test_torch_stays_where_networks_run() -> None:
    names_a_device = {
        "hvsa_cvat.agent.doctor",
        "hvsa_cvat.agent.ray_team",  # joins processes that train together
        "hvsa_cvat.agent.start_network",
        "hvsa_cvat.selection.diversity",
        "hvsa_cvat.serving.model",
        "hvsa_cvat.session.context",
        "hvsa_cvat.session.demand",
        "hvsa_cvat.session.machine",
        "hvsa_cvat.session.predict",
    }
    for package in ("torch", "torchvision", "timm", "safetensors"):
        for module in users(package) - {"hvsa_cvat.video.flow_estimators"}:
            networks = part(module) == "segmentation"
            assert networks or (package == "torch" and module in names_a_device), module


def test_only_the_adapter_knows_the_server() -> None:
    assert {part(module) for module in users("cvat_sdk")} == {"cvat", "serving"}


def test_the_adapter_knows_nothing_of_networks_and_rounds() -> None:
    core = {"errors", "types", "config", "ports", "files", "database", "threads"}
    core |= {"lookalikes", "name_lists", "plain_text"}
    below = core | {"annotation", "video", "cvat"}
    for module, path in MODULES.items():
        if part(module) == "cvat":
            ours = {part(name) for name in imported(path) if name.startswith("hvsa_cvat.")}
            assert ours <= below, module
