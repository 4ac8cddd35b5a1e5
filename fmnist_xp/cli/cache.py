"""The commands `fmnist-xp cache`: what the cache holds, and emptying it."""

from datetime import datetime

from rich.table import Table

from fmnist_xp.cli.console import out


def info() -> None:
    """Print where the cache is, its files, what each is and of which source, and how large it may grow."""
    from fmnist_xp.data.cache import NO_FOLDER, cache_files, cache_folder, cache_size

    folder, most, files = cache_folder(), cache_size(), cache_files()
    if folder is None:
        out.print(f"no cache: {NO_FOLDER}")
        return
    out.print(f"{folder}: {_megabytes(sum(file.size for file in files))} of at most {_megabytes(most)}")
    table = Table("file", "MB", "last used", "what", "source")
    for file in reversed(files):
        used = datetime.fromtimestamp(file.used).strftime("%Y-%m-%d %H:%M")
        table.add_row(str(file.path.relative_to(folder)), f"{file.size / 1e6:.1f}", used, file.kind, file.source)
    if files:
        out.print_whole(table)


def clear() -> None:
    """Remove what this program put into the cache, and nothing else."""
    from fmnist_xp.data.cache import clear_cache

    removed = clear_cache()
    noun = "file" if len(removed) == 1 else "files"
    out.print(f"removed {len(removed)} {noun}, {_megabytes(sum(file.size for file in removed))}")


def _megabytes(size: int) -> str:
    return f"{size / 1e6:,.1f} MB"
