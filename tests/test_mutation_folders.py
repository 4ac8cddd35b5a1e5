from fnmatch import fnmatch
from pathlib import Path

import pytest
from mutation_folders import FOLDERS

ROOT = Path(__file__).parents[1]
MODULES = [path.relative_to(ROOT).as_posix() for path in sorted((ROOT / "fmnist_xp").rglob("*.py"))]


@pytest.mark.parametrize("module", MODULES)
def test_every_file_of_the_package_is_mutated_with_one_folder(module: str) -> None:
    holding = [name for name, folder in FOLDERS.items() if any(fnmatch(module, mask) for mask in folder.files)]
    assert len(holding) == 1, holding


@pytest.mark.parametrize("name", FOLDERS)
def test_tests_of_a_folder_are_there(name: str) -> None:
    assert FOLDERS[name].tests
    missing = [place for place in FOLDERS[name].tests if not (ROOT / place).exists()]
    assert missing == []
