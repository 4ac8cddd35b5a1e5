"""BLAS as a user's process has it: what backends do with its threads is tested here."""

from collections.abc import Iterator
from typing import Any

import pytest


@pytest.fixture(autouse=True)
def _blas_of_its_own(blas_of_worker: Any) -> Iterator[None]:
    if blas_of_worker:
        blas_of_worker.release()
    yield
    if blas_of_worker:
        blas_of_worker.hold()
