"""The documentation site: built without a warning, whole, from here alone, and readable on a phone."""

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from script_helpers import ROOT

from fmnist_xp import public


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of the built site."""
    for package in ("material", "mkdocstrings_handlers"):
        pytest.importorskip(package, reason='the site is made with the extra docs: pip install "fmnist-xp[docs]"')
    folder = tmp_path_factory.mktemp("site") / "site"
    built = subprocess.run(
        [sys.executable, "-m", "mkdocs", "build", "--strict", "--site-dir", folder],
        cwd=ROOT,
        env=os.environ | {"NO_MKDOCS_2_WARNING": "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert built.returncode == 0, built.stderr
    assert "WARNING" not in built.stderr
    return folder


def pages(site: Path) -> list[Path]:
    return sorted(site.rglob("*.html"))


def test_every_page_of_the_repository_is_in_the_site(site: Path) -> None:
    names = [path.relative_to(ROOT) for path in [*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")]]
    for name in [*names, Path("bench/README.md"), Path("docs/reference/command.md"), Path("docs/notebook.md")]:
        page = name.with_name("index.html") if name.name == "README.md" else name.with_suffix(".html")
        assert (site / page).is_file(), name


def test_every_public_name_has_its_entry(site: Path) -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in (site / "docs" / "reference").glob("*.html"))
    entries = {identifier.rpartition(".")[2] for identifier in re.findall(r'<h\d id="fmnist_xp\.([\w.]+)"', text)}
    assert {name for name in public.__all__ if name != "__version__"} - entries == set()


def test_reference_of_the_command_has_all_of_help(site: Path) -> None:
    import typer

    from fmnist_xp.cli.app import app

    text = (site / "docs" / "reference" / "command.html").read_text(encoding="utf-8")
    command = typer.main.get_command(app)
    for name, part in command.commands.items():  # type: ignore[attr-defined]
        assert f"fmnist-xp {name}<" in text
        for parameter in part.params:
            assert all(option in text for option in parameter.opts if option.startswith("--"))


def test_pages_load_nothing_from_elsewhere(site: Path) -> None:
    loaded = re.compile(r"<(?:script|img|link|iframe)\b[^>]*\b(?:src|href)=[\"']?(?:https?:)?//[^\s\"'>]+")
    for page in pages(site):
        assert not loaded.findall(page.read_text(encoding="utf-8")), page


def test_pages_fit_a_phone_and_a_desk(site: Path, chromium: Any) -> None:
    window = chromium.new_page()
    asked: list[str] = []
    window.on("request", lambda request: asked.append(request.url))
    wrong = []
    for page in pages(site):
        name = page.relative_to(site).as_posix()
        window.goto(page.as_uri())
        for width in (1280, 390):
            window.set_viewport_size({"width": width, "height": 844})
            if window.evaluate("document.documentElement.scrollWidth") > width:
                wrong.append(f"{name} is wider than {width} pixels")
        missing = window.evaluate("[...document.images].filter(image => !image.naturalWidth).map(image => image.src)")
        wrong += [f"{name} lacks {source}" for source in missing]
    window.close()
    assert not wrong
    assert {url.partition(":")[0] for url in asked} <= {"file", "data"}
