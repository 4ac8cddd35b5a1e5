"""Take the results of a GPU round over from its archive, for `scripts/gpu-check --collect ARCHIVE`.

Benchmarks and the probe go to bench/results, each parity record and its picture to a folder of docs/parity; then
bench/README.md and the GPU's section of docs/parity.md are written anew from what lies there.
"""

import json
import re
import sys
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from bench import report
from fmnist_xp.backend import PRECISIONS
from fmnist_xp.files import replacing, write_text
from fmnist_xp.report.parity import parity_markdown

ROOT = Path(__file__).parents[1]
PLACES = {
    r"bench/results/([\w-]+\.(?:json|png))": "bench/results/{}",
    r"parity/([\w-]+)/(parity\.json|curves-\w+\.png)": "docs/parity/cuda-{}/{}",
}
"""What is taken over, and where to; all else stays in the archive."""
WAYS = {
    "": ("", "the GPU"),
    "eager": ("With --no-graphs: ", "the GPU without CUDA graphs"),
    "fused": ("With --engine fused: ", "the GPU's fused engine"),
}
"""How the folder of a parity record ends, and what is said of it before its text and below its picture."""
SECTION = "## Last measured: GPU\n"
HEAD = """
Written by `scripts/gpu-check --collect`. The round calls `fmnist-xp parity --device cuda` once for each precision, by
default with CUDA graphs, and once more with `--no-graphs`, and with `--engine fused` where that has the precision:
what follows each picture is the `parity.md` of one call, and a test holds it to the record beside the picture.
"""


class CollectError(Exception):
    """Nothing can be taken over; the message is a line for the user."""


def collect(archive: Path, root: Path) -> Iterator[str]:
    """Take over what `archive` holds to below `root`; yield a line on each file. Refuses all before it writes any."""
    files = read(archive)
    check(files)
    found: dict[Path, bytes] = {}
    for name, data in files.items():
        for pattern, place in PLACES.items():
            if match := re.fullmatch(pattern, name):
                path = root / place.format(*match.groups())
                found[path] = data
    if not found:
        raise CollectError(f"{archive} holds no results: none of its parts came to an end")
    for path, data in sorted(found.items()):
        yield f"{_write(path, data)} {path.relative_to(root)}"
    yield f"wrote {report.write(root / 'bench' / 'results').relative_to(root)}"
    if any(path.name == "parity.json" for path in found):
        yield f"wrote {write_parity_page(root / 'docs' / 'parity.md').relative_to(root)}"
    parts = json.loads(files["round.json"])["parts"]
    if missing := [f"{part['name']} ({part['status']})" for part in parts if part["status"] != "ok"]:
        yield f"not all came to a good end: {', '.join(missing)}"


def read(archive: Path) -> dict[str, bytes]:
    """Return the files of a round's archive by their paths in it."""
    try:
        with tarfile.open(archive) as tar:
            files = {
                member.name.removeprefix("gpu-check/"): content.read()
                for member in tar
                if (content := tar.extractfile(member))
            }
    except (OSError, EOFError, tarfile.TarError) as error:
        raise CollectError(f"{archive} cannot be read: {error}") from error
    if "round.json" not in files:
        raise CollectError(f"{archive} is not the archive of a round of scripts/gpu-check")
    return files


def check(files: dict[str, bytes]) -> None:
    """Raise `CollectError` where the results are none to keep: of small sizes, or of synthetic images."""
    if json.loads(files["round.json"])["quick"]:
        raise CollectError("the round was --quick, at small sizes: there are no results to take over")
    for name, data in files.items():
        if re.fullmatch(r"(bench|parity)/.*\.json", name):
            record = json.loads(data)
            dataset = record.get("dataset") or record["settings"].get("data", {})
            if dataset.get("name") == "synthetic":
                raise CollectError(f"{name} is of synthetic images: repeat the round with FMNIST_XP_DATA")


def _write(path: Path, data: bytes) -> str:
    """Write a file, and return what became of the one before it."""
    before = path.read_bytes() if path.is_file() else None
    if before == data:
        return "unchanged"
    with replacing(path) as temporary:
        temporary.write_bytes(data)
    if before is None:
        return "wrote"
    date = json.loads(before).get("date") if path.suffix == ".json" else None
    return f"replaced the one of {date}:" if date else "replaced"


def write_parity_page(page: Path) -> Path:
    """Write the GPU's section of docs/parity.md from the records beside it, and return the page."""
    text = page.read_text(encoding="utf-8")
    before, title, after = text.partition(SECTION)
    if not title:
        raise CollectError(f"{page} has no section {SECTION.strip()!r}")
    rest = after[after.index("\n## ") :] if "\n## " in after else ""
    parts = [before, title, HEAD, *gpu_sections(page.parent / "parity")]
    write_text(page, "".join(parts) + rest)
    return page


def gpu_sections(folder: Path) -> Iterator[str]:
    """Yield the pictures and tables of each of the GPU's records below `folder`: as it is called, eager, fused."""

    def place(path: Path) -> Sequence[Any]:
        precision, _, more = path.parent.name.removeprefix("cuda-").partition("-")
        return more, [*PRECISIONS].index(precision)

    for path in sorted(folder.glob("cuda-*/parity.json"), key=place):
        record = json.loads(path.read_text(encoding="utf-8"))
        begin, gpu = WAYS.get(str(place(path)[0]), WAYS[""])
        for pair in record["pairs"]:
            what = f"Training losses in {pair['precision']} on the CPU and on {gpu}, and their differences"
            yield f"\n![{what}](parity/{path.parent.name}/curves-{pair['precision']}.png)\n"
        yield f"\n{begin}{parity_markdown(record).strip()}\n"


def main() -> int:
    """Take the archive over and return the exit status."""
    try:
        for line in collect(Path(sys.argv[1]), ROOT):
            print(line)
    except (CollectError, OSError, ValueError) as error:
        print(f"gpu-check: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
