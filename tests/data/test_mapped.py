import mmap
import os
import struct
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fmnist_xp.data import Dataset, Pixels, is_published, load_fashion_mnist, pixels
from fmnist_xp.data.mapped import forget, is_mapped, map_bytes, pieces

SIZE = 16 << 20
CONTENT = np.random.default_rng(0).integers(0, 256, SIZE, dtype=np.uint8).tobytes()
SMAPS = Path("/proc/self/smaps")
AROUND = 2 << 20
"""What may come with a page that is touched, and go with one that is forgotten: a huge page."""
needs_smaps = pytest.mark.skipif(not SMAPS.is_file(), reason="this system does not say which pages are in memory")


@pytest.fixture
def path(tmp_path: Path) -> Path:
    path = tmp_path / "content"
    path.write_bytes(CONTENT)
    return path


def mapped(path: Path, offset: int, shape: tuple[int, ...]) -> np.ndarray:
    with path.open("rb") as file:
        return map_bytes(file, offset, shape)


def resident(path: Path) -> int:
    """Return how many bytes of a mapped file are this process's memory at present."""
    found, inside = 0, False
    for line in SMAPS.read_text().splitlines():
        name = line.split()[0]
        if not name.endswith(":"):
            inside = line.endswith(str(path))
        elif name == "Rss:" and inside:
            found += int(line.split()[1]) * 1024
    return found


@pytest.mark.parametrize("offset", [0, 16, 4096, 70_001])
def test_the_array_is_the_bytes_of_the_file(path: Path, offset: int) -> None:
    array = mapped(path, offset, (50, 28, 28))
    assert (array.dtype, array.shape) == (np.uint8, (50, 28, 28))
    assert array.flags.c_contiguous
    assert not array.flags.writeable
    assert array.tobytes() == CONTENT[offset : offset + 50 * 784]


def test_the_last_byte_can_be_mapped_but_none_beyond(path: Path) -> None:
    assert mapped(path, SIZE - 2, (2,)).tobytes() == CONTENT[-2:]
    with pytest.raises(ValueError, match="greater than file size"):
        mapped(path, SIZE - 2, (3,))


def test_a_file_replaced_by_renaming_keeps_its_bytes(path: Path) -> None:
    array = mapped(path, 0, (SIZE,))
    other = path.with_name("other")
    other.write_bytes(bytes(10))
    other.replace(path)
    forget(array)
    assert array.tobytes() == CONTENT
    path.unlink()
    forget(array)
    assert array.tobytes() == CONTENT


def test_views_of_a_mapped_file_are_mapped(path: Path) -> None:
    array = mapped(path, 16, (50, 28, 28))
    views = array, array[3:7], array[::-2], array.reshape(50, 784), array.view(np.int8), Pixels(array).bytes(slice(9))
    assert all(map(is_mapped, views))
    for copy in (array.copy(), array[[1, 2]], np.zeros(3), np.frombuffer(b"abc", np.uint8), np.array(1)):
        assert not is_mapped(copy)
        forget(copy)


def test_numpys_own_mappings_count_where_they_are_read_only(path: Path) -> None:
    for mode in ("r", "c", "r+"):
        array = np.memmap(path, np.uint8, mode, 5000, (50, 28, 28))
        for view in (array, np.asarray(array)[2:]):
            assert is_mapped(view) == (mode == "r")


@pytest.mark.parametrize("mode", ["c", "r+"])
def test_what_was_written_is_not_forgotten(path: Path, mode: str) -> None:
    array = np.memmap(path, np.uint8, mode, 0, (SIZE,))  # type: ignore[call-overload]
    array[:] = 7
    seen = np.asarray(array)
    seen.flags.writeable = False
    forget(seen)
    forget(array)
    assert (array == 7).all()


def test_nothing_is_lost_on_a_system_without_madvise(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delattr(mmap, "MADV_DONTNEED", raising=False)
    array = mapped(path, 0, (SIZE,))
    forget(array)
    assert array.tobytes() == CONTENT


@needs_smaps
def test_forgotten_pages_leave_memory_and_come_again(path: Path) -> None:
    array = mapped(path, 16, ((SIZE - 16) // 784, 28, 28))
    assert resident(path) == 0
    assert array.tobytes() == CONTENT[16 : 16 + array.nbytes]
    assert resident(path) == SIZE
    forget(array[:0])
    assert resident(path) == SIZE
    half = len(array) // 2
    forget(array[:half])
    assert abs(resident(path) - SIZE / 2) <= AROUND
    forget(array[half:][::-1])
    assert resident(path) == 0
    assert array.tobytes() == CONTENT[16 : 16 + array.nbytes]


@needs_smaps
@pytest.mark.parametrize("rows", [7, 640, 9_000, 30_000])
def test_pieces_leave_nothing_behind(path: Path, rows: int) -> None:
    array = mapped(path, 16, (20_000, 784))
    seen = bytearray()
    for piece in pieces(array, rows):
        assert len(piece) == rows or len(seen) + piece.nbytes == array.nbytes
        seen += piece.tobytes()
        if rows > 100 or len(seen) % (100 * 784) == 0:  # asking takes longer than reading
            assert resident(path) <= piece.nbytes + 2 * AROUND
    assert seen == CONTENT[16 : 16 + array.nbytes]
    assert resident(path) == 0


@needs_smaps
def test_a_part_in_the_middle_of_a_mapping_that_begins_elsewhere(path: Path) -> None:
    """NumPy maps from the page before the offset."""
    array = np.memmap(path, np.uint8, "r", 3 * mmap.PAGESIZE + 5, (SIZE // 2,))
    assert array.tobytes() == CONTENT[3 * mmap.PAGESIZE + 5 :][: SIZE // 2]
    before = resident(path)
    forget(array[1 << 20 : 1 << 20])
    assert resident(path) == before
    forget(array[3 << 20 : 4 << 20])
    assert 1 << 20 <= before - resident(path) <= (1 << 20) + 2 * AROUND
    forget(array)
    assert resident(path) == 0


@needs_smaps
def test_what_is_mapped_is_not_read_before_it_is_needed(path: Path) -> None:
    array = mapped(path, 16, (20_000, 28, 28))
    dataset = Dataset(array, np.zeros(len(array), np.uint8), "custom", "here")
    for seed in (None, 0):
        X, _ = pixels(dataset, seed)
        assert X[5:].shape == (19_995, 784)
        assert np.shares_memory(X.images, array)
    assert not is_published(dataset, dataset)
    assert resident(path) == 0
    folder = path.parent
    for prefix in ("train", "t10k"):
        (folder / f"{prefix}-images-idx3-ubyte").write_bytes(
            struct.pack(">IIII", 0x0803, 9000, 28, 28) + bytes(7056000)
        )
        (folder / f"{prefix}-labels-idx1-ubyte").write_bytes(struct.pack(">II", 0x0801, 9000) + bytes(9000))
    train, _ = load_fashion_mnist(folder)
    assert resident(folder / "train-images-idx3-ubyte") == 0
    assert not train.images.any()
    assert resident(folder / "train-images-idx3-ubyte") >= 7056000


LOAD = """
import hashlib, sys
from pathlib import Path
from fmnist_xp.data import describe, is_published, load_fashion_mnist, pixels

def peak():
    status = Path("/proc/self/status").read_text()
    return int(status.partition("VmHWM:")[2].split()[0]) * 1024

load_fashion_mnist(sys.argv[1])[0].sha256
before = peak()
train, test = load_fashion_mnist(sys.argv[2])
found = train.sha256
info, _ = describe(train, test)
X, y = pixels(train, 0)
block = X[:1000]
assert float(block[999, 3]) == -1
assert not is_published(train, test)
print(peak() - before, found, info.class_counts[0], info.pixel_mean)
"""


@needs_smaps
def test_a_large_data_set_is_loaded_and_hashed_in_little_memory(tmp_path: Path) -> None:
    """392 MB of zeros, which take no disk."""
    sizes = {"small": 1000, "large": 500_000}
    for folder, n in sizes.items():
        (tmp_path / folder).mkdir()
        for prefix, count in (("train", n), ("t10k", 10)):
            with (tmp_path / folder / f"{prefix}-images-idx3-ubyte").open("wb") as file:
                file.write(struct.pack(">IIII", 0x0803, count, 28, 28))
                file.truncate(16 + count * 784)
            labels = struct.pack(">II", 0x0801, count) + bytes(count)
            (tmp_path / folder / f"{prefix}-labels-idx1-ubyte").write_bytes(labels)
    answer = subprocess.run(
        [sys.executable, "-c", LOAD, tmp_path / "small", tmp_path / "large"],
        capture_output=True,
        text=True,
        check=True,
        env=os.environ | {"FMNIST_XP_CACHE": str(tmp_path / "cache")},
    )
    added, found, zeros, mean = answer.stdout.split()
    assert int(added) < 100_000_000
    # printf of 392,500,000 zero bytes, through sha256sum
    assert found == ZEROS
    assert (int(zeros), float(mean)) == (500_000, 0.0)
    assert not (tmp_path / "cache").exists()


ZEROS = "590bf45572a0e6e6f7b19c039ddedb00894bf506e0c995c9cea23068299478b1"
