"""What pyproject.toml says of the project: classifiers, and what a source distribution holds."""

import re
import shutil
import subprocess
import tarfile
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
README = (ROOT / "README.md").read_text(encoding="utf-8")
SHOWN = sorted({link.split("#")[0] for link in re.findall(r"\]\(([^)]+)\)", README) if ":" not in link} - {""})


def test_classifiers_are_known() -> None:
    known = pytest.importorskip("trove_classifiers").classifiers
    found = PROJECT["project"]["classifiers"]
    assert {*found} <= known
    assert found == sorted(found)


def test_everything_that_the_readme_links_is_packed() -> None:
    assert "docs/reproduce/test-accuracy.png" in SHOWN
    packed = PROJECT["tool"]["hatch"]["build"]["targets"]["sdist"]["include"]
    for link in SHOWN:
        assert (ROOT / link).is_file(), link
        assert any(link == name or link.startswith(f"{name}/") for name in packed), link


def test_a_source_distribution_holds_them(tmp_path: Path) -> None:
    sdist = pytest.importorskip("hatchling.builders.sdist", reason="hatchling, which builds the project, is not here")
    (archive,) = sdist.SdistBuilder(str(ROOT)).build(directory=str(tmp_path), versions=["standard"])
    with tarfile.open(archive) as packed:
        names = {name.partition("/")[2] for name in packed.getnames()}
    assert {*SHOWN, "README.md", "LICENSE", "docs/examples/best.toml", "fmnist_xp/py.typed"} <= names
    if not shutil.which("git"):
        return
    done = subprocess.run(["git", "-C", ROOT, "ls-files"], capture_output=True, text=True, check=False)
    if done.returncode == 0:  # not unpacked from such an archive
        assert names <= {*done.stdout.splitlines(), "PKG-INFO", ".gitignore"}
