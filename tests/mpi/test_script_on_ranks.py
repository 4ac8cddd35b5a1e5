"""The script of docs/ranks.md, as it stands there but for the number of epochs."""

import re
from pathlib import Path

from mpi_helpers import ROOT, environment, needs_mpi, run_ranks


@needs_mpi
def test_script_of_the_page_trains_on_the_rows_of_all_ranks(tmp_path: Path, idx_folder: Path) -> None:
    page = (ROOT / "docs" / "ranks.md").read_text(encoding="utf-8")
    ((script, command),) = re.findall(r"```python\n# train.py\n(.*?)```\n\n```\n(mpiexec .*?)\n```", page, re.DOTALL)
    assert command == "mpiexec -n 4 python -m mpi4py train.py"
    path = tmp_path / "train.py"
    path.write_text(script.replace("epochs=300", "epochs=2"), encoding="utf-8")
    done = run_ranks(4, "-m", "mpi4py", path, env=environment(FMNIST_XP_DATA=str(idx_folder)))
    assert (done.returncode, done.stderr) == (0, "")
    logged, metrics = done.stdout.splitlines()
    assert logged.startswith("epoch: 0, ")
    assert metrics.startswith("Metrics(accuracy=")
