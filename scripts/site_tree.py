"""A hook of MkDocs: the site has the repository's own tree.

`README.md`, `docs/…` and `bench/README.md` have their places in both, so a link between two of them is right in both.
"""

from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files, InclusionLevel

ROOT = Path(__file__).resolve().parents[1]
BESIDE_DOCS = (
    "README.md",
    "CHANGELOG.md",
    "CONTRIBUTING.md",
    ".pre-commit-config.yaml",
    "bench/README.md",
    "bench/results/*.png",
)


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Return the theme's files and the repository's, these by their names from its root."""
    others = [file for file in files if file.src_dir != config.docs_dir]
    paths = [f"docs/{file.src_uri}" for file in files if file.src_dir == config.docs_dir]
    for pattern in BESIDE_DOCS:
        paths += sorted(path.relative_to(ROOT).as_posix() for path in ROOT.glob(pattern))
    place = {"src_dir": str(ROOT), "dest_dir": config.site_dir, "use_directory_urls": config.use_directory_urls}
    return Files(others + [File(path, **place, inclusion=InclusionLevel.INCLUDED) for path in paths])
