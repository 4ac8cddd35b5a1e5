"""The commands `fmnist-xp cache`: what the cache holds, and emptying it."""

from datetime import datetime

from fmnist_xp.cli import options
from fmnist_xp.cli.console import new_table, out, print_json


def info(as_json: options.Json = False) -> None:
    """Print where the cache is, its files, what each is and of which source, and how large it may grow."""
    from fmnist_xp.data.cache import NO_FOLDER, cache_files, cache_folder, cache_size

    folder, most, files = cache_folder(), cache_size(), cache_files()
    files = list(reversed(files))
    if as_json:
        print_json({"folder": folder, "bytes": sum(file.size for file in files), "max_bytes": most, "files": files})
        return
    if folder is None:
        out.print(f"no cache: {NO_FOLDER}")
        return
    out.print(f"{folder}: {_megabytes(sum(file.size for file in files))} of at most {_megabytes(most)}")
    table = new_table("MB", "last used", "file, what it is, its source", right=("MB",))
    for file in files:
        used = datetime.fromtimestamp(file.used).strftime("%Y-%m-%d")
        told = f"{file.path.relative_to(folder)}\n{file.kind}: {file.source}"
        table.add_row(f"{file.size / 1e6:,.1f}", used, told)
    if files:
        out.print(table)


def clear() -> None:
    """Remove what this program put into the cache, and nothing else."""
    from fmnist_xp.data.cache import clear_cache

    removed = clear_cache()
    noun = "file" if len(removed) == 1 else "files"
    out.print(f"removed {len(removed)} {noun}, {_megabytes(sum(file.size for file in removed))}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
