"""Write docs/mutation.md and docs/mutation.json from mutmut's result in mutants/; called by scripts/mutation.

Exits with 1 where the share of killed mutants is below `TARGET` or a survivor has no reason in mutation-reasons.toml.
"""

import difflib
import json
import re
import sys
import tomllib
from collections import Counter
from importlib.metadata import version
from pathlib import Path
from typing import Any

import libcst
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import read_functions_from_index
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

TARGET = 0.95
ROOT = Path(__file__).parents[1]

PAGE = """# Mutation testing

*Written by `scripts/mutation`; the reasons stand in `scripts/mutation-reasons.toml`.*

```
scripts/mutation            # make all mutants and test each
scripts/mutation --report   # write this page anew from the last result
```

[mutmut](https://mutmut.readthedocs.io) {version} changes the code in one place at a time – another operator, number,
word, argument or value – and runs the tests that come by that place. A mutant is killed when one of them fails.

**{killed:,} of {all:,} mutants are killed: {share:.1%}.** {timeout} of these waited without end until the time limit
stopped them. Every mutant counts: those that no test can tell from the code are among the survivors.

| file | mutants | killed | of these stopped | survived | killed / all |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}

What is mutated and tested stands under `[tool.mutmut]` in `pyproject.toml`. Strings are mutated like everything else,
but f-strings, in which nearly all error messages are written, are not, except within their braces. mutmut leaves
decorated functions out: properties, and `_interrupt_noted` in `train/trainer.py`. The tests against PyTorch and the
longest one (`fifty_epochs`) are left out, so that the figure is the same with and without PyTorch.

## Survivors

"""


def mutants() -> list[dict[str, Any]]:
    """Return of each mutant its file, function, status, and the lines before and after."""
    found = []
    for path in sorted(walk_mutatable_files()):
        data = SourceFileMutationData(path=path)
        data.load()
        for key, code in data.exit_code_by_key.items():
            function, class_name = orig_function_and_class_names_from_key(key)
            before, after = changed_lines(key, path)
            found.append(
                {
                    "file": path.as_posix(),
                    "function": f"{class_name}.{function}" if class_name else function,
                    "status": status_by_exit_code[code],
                    "before": before,
                    "after": after,
                }
            )
    return found


def changed_lines(key: str, path: Path) -> tuple[str, str]:
    """Return the line that a mutant changes and what it becomes."""
    functions = read_functions_from_index(key, path)
    assert functions, f"mutants/ holds nothing of {key}"
    before, after = (libcst.Module([function]).code.splitlines() for function in functions)
    lines = list(difflib.unified_diff(before, after, n=0, lineterm=""))[3:]  # past the names and the place
    removed, added = (" ".join(line[1:].strip() for line in lines if line[0] == sign) for sign in "-+")
    return removed, added


def main() -> int:
    """Write both files; return the exit status."""
    if not any((ROOT / "mutants").rglob("*.meta")):
        print("mutation: there are no results in mutants/ yet: run scripts/mutation", file=sys.stderr)
        return 1
    tested = mutants()
    if unfinished := sum(mutant["status"] == "not checked" for mutant in tested):
        print(f"mutation: {unfinished} mutants are not tested yet: run scripts/mutation", file=sys.stderr)
        return 1
    reasons = tomllib.loads((ROOT / "scripts/mutation-reasons.toml").read_text("utf-8"))["reason"]
    survivors = [mutant for mutant in tested if mutant["status"] not in ("killed", "timeout")]
    for mutant in survivors:
        text = f"{mutant['file']} {mutant['function']}: {mutant['before']} -> {mutant['after']}"
        fitting = [reason["why"] for reason in reasons if any(re.search(mask, text) for mask in reason["mutants"])]
        mutant["reason"] = fitting[0] if fitting else None

    counts: dict[str, Counter[str]] = {}
    for mutant in tested:
        counts.setdefault(mutant["file"], Counter())[mutant["status"]] += 1
    total = sum(counts.values(), Counter[str]())
    killed = total["killed"] + total["timeout"]
    share = killed / len(tested)

    (ROOT / "docs/mutation.json").write_text(as_json(counts, total, share, survivors), "utf-8")
    rows = [row(f"`{file}`", count) for file, count in counts.items()]
    page = PAGE.format(
        version=version("mutmut"),
        killed=killed,
        all=len(tested),
        share=share,
        timeout=total["timeout"],
        rows="\n".join([*rows, row("all", total)]),
    )
    (ROOT / "docs/mutation.md").write_text(page + "\n\n".join(sections(survivors)) + "\n", "utf-8")

    print(f"{killed} of {len(tested)} mutants killed: {share:.1%}")
    without = sum(mutant["reason"] is None for mutant in survivors)
    if without:
        print(f"mutation: {without} survivors have no reason: see docs/mutation.md", file=sys.stderr)
    if share < TARGET:
        print(f"mutation: {share:.1%} are killed, {TARGET:.0%} are asked for: add tests", file=sys.stderr)
    return int(share < TARGET or without > 0)


def row(name: str, count: Counter[str]) -> str:
    """Return a row of the table."""
    every = count.total()
    killed = count["killed"] + count["timeout"]
    return f"| {name} | {every} | {killed} | {count['timeout']} | {every - killed} | {killed / every:.1%} |"


def sections(survivors: list[dict[str, Any]]) -> list[str]:
    """Return the survivors in Markdown, by reason."""
    by_reason: dict[str, list[str]] = {}
    for mutant in survivors:
        where = f"{mutant['file'].removeprefix('fmnist_xp/')} {mutant['function']}"
        line = f"- {where}: ``{mutant['after'] or '(removed) ' + mutant['before']}``"
        by_reason.setdefault(mutant["reason"] or "**No reason yet.**", []).append(line)
    return [f"{reason} ({len(lines)})\n\n" + "\n".join(lines) for reason, lines in by_reason.items()]


def as_json(
    counts: dict[str, Counter[str]], total: Counter[str], share: float, survivors: list[dict[str, Any]]
) -> str:
    """Return the result with a line for each file and for each survivor."""
    head = {"tool": f"mutmut {version('mutmut')}", "killed_share": round(share, 4), "all": dict(total)}
    files = ",\n".join(f"  {json.dumps(file)}: {json.dumps(count)}" for file, count in counts.items())
    lines = ",\n".join(f"  {json.dumps(mutant, ensure_ascii=False)}" for mutant in survivors)
    return f'{json.dumps(head)[:-1]},\n"files": {{\n{files}\n}},\n"survivors": [\n{lines}\n]}}\n'


if __name__ == "__main__":
    sys.exit(main())
