import os
from pathlib import Path

import pytest

from bench import cold


@pytest.mark.skipif(not hasattr(os, "posix_fadvise"), reason="this system takes no advice on its disk cache")
def test_cached_contents_of_the_files_below_a_folder_are_dropped(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    for name in ("a/one", "a/b/two"):
        (tmp_path / name).write_bytes(name.encode())
    advised: list[tuple[bytes, int, int, int]] = []
    monkeypatch.setattr(
        os, "posix_fadvise", lambda file, *advice: advised.append((os.pread(file, 99, 0), *advice)), raising=True
    )
    assert cold.make_cold(tmp_path, whole=False) == "sync, then POSIX_FADV_DONTNEED for the contents of each file"
    assert sorted(advised) == [(name, 0, 0, os.POSIX_FADV_DONTNEED) for name in (b"a/b/two", b"a/one")]


@pytest.mark.parametrize("allowed", [True, False])
def test_whole_cache_is_emptied_where_that_is_allowed(
    allowed: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    switch = tmp_path / ("drop_caches" if allowed else "missing/drop_caches")
    monkeypatch.setattr(cold, "DROP_CACHES", switch)
    monkeypatch.delattr(os, "posix_fadvise", raising=False)
    assert cold.make_cold(tmp_path, whole=True) == (f"sync, then 3 written to {switch}" if allowed else None)
    assert switch.exists() == allowed
    if allowed:
        assert switch.read_text() == "3"
