"""Write docs/mutation.md and docs/mutation.json from mutmut's results in mutants/; called by scripts/mutation.

What files that were not tested lately had before stays. Exits with 1 where the share of killed mutants of a folder is
below `TARGET` or a survivor has no reason in mutation-reasons.toml.
"""

import difflib
import json
import os
import re
import sys
import tomllib
from collections import Counter
from fnmatch import fnmatch
from importlib.metadata import version
from pathlib import Path
from typing import Any

import libcst
from mutation_folders import FOLDERS, ROOT, WORK
from mutmut.configuration import reset_config
from mutmut.mutation.data import SourceFileMutationData
from mutmut.mutation.diff_apply import read_functions_from_index
from mutmut.stats import status_by_exit_code
from mutmut.utils.file_utils import walk_mutatable_files
from mutmut.utils.format_utils import orig_function_and_class_names_from_key

TARGET = 0.95

PAGE = """# Mutation testing

*Written by `scripts/mutation`; the reasons stand in `scripts/mutation-reasons.toml`.*

```
scripts/mutation                 # make all mutants and test each
scripts/mutation nn train        # those of two folders; what is known of the others stays
scripts/mutation --again nn      # test only what survived the last run of the folder
scripts/mutation --report        # write this page anew from the last results
```

[mutmut](https://mutmut.readthedocs.io) {version} changes the code in one place at a time – another operator, number,
word, argument or value – and runs the tests that come by that place. A mutant is killed when one of them fails.

**{killed:,} of {all:,} mutants are killed: {share:.1%}**, and {target:.0%} are asked for in each folder. {timeout} of
these waited without end until the time limit stopped them. Every mutant counts: those that no test can tell from the
code are among the survivors. A folder's numbers are those of its own last run.

| folder | mutants | killed | of these stopped | survived | killed / all | bar |
| --- | ---: | ---: | ---: | ---: | ---: | --- |
{folders}

| file | mutants | killed | of these stopped | survived | killed / all |
| --- | ---: | ---: | ---: | ---: | ---: |
{rows}

{untested}Which tests are run on the mutants of which folder stands in `scripts/mutation_folders.py`. Left out,
under `[tool.mutmut]` in `pyproject.toml`, are the tests against PyTorch, so that the figure is the same with and
without it, the longest one, and those that ask another process. Strings are mutated like everything else, but
f-strings, in which nearly all error messages are written, are not, except within their braces. mutmut leaves
decorated functions out: properties, the commands of `cli/`, and `_interrupt_noted` in `train/trainer.py`. Of what
stands outside of functions, such as tables, there are no mutants either.

## Survivors

"""


def mutants() -> list[dict[str, Any]]:
    """Return file, function, status and both lines of each mutant of the folders that were run."""
    found = []
    for folder in FOLDERS:
        if not (WORK / folder / "mutants").is_dir():
            continue
        os.chdir(WORK / folder)  # where mutmut looks for its settings and results
        reset_config()
        for path in sorted(walk_mutatable_files()):
            data = SourceFileMutationData(path=path)
            data.load()
            if None in data.exit_code_by_key.values():
                print(f"mutation: {path} is not tested to the end and left out", file=sys.stderr)
                continue
            for key, code in data.exit_code_by_key.items():
                function, class_name = orig_function_and_class_names_from_key(key)
                status = status_by_exit_code[code]
                before, after = ("", "") if status in ("killed", "timeout") else changed_lines(key, path)
                found.append(
                    {
                        "file": path.as_posix(),
                        "function": f"{class_name}.{function}" if class_name else function,
                        "status": status,
                        "before": before,
                        "after": after,
                    }
                )
    os.chdir(ROOT)
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
    tested = mutants()
    if not tested:
        print("mutation: mutants/ holds no results: run scripts/mutation first", file=sys.stderr)
        return 1
    kept = json.loads((ROOT / "docs/mutation.json").read_text("utf-8"))
    lately = {mutant["file"] for mutant in tested}
    there = {path.relative_to(ROOT).as_posix() for path in (ROOT / "fmnist_xp").rglob("*.py")}
    earlier = {file: Counter(count) for file, count in kept["files"].items() if file in there - lately}
    survivors = [mutant for mutant in kept["survivors"] if mutant["file"] in earlier]
    survivors += [mutant for mutant in tested if mutant["status"] not in ("killed", "timeout")]
    reasons = tomllib.loads((ROOT / "scripts/mutation-reasons.toml").read_text("utf-8"))["reason"]
    used = set()
    for mutant in survivors:
        text = f"{mutant['file']} {mutant['function']}: {mutant['before']} -> {mutant['after']}"
        fitting = [(why["why"], mask) for why in reasons for mask in why["mutants"] if re.search(mask, text)]
        mutant["reason"] = fitting[0][0] if fitting else None
        used |= {mask for _, mask in fitting}

    counts = earlier
    for mutant in tested:
        counts.setdefault(mutant["file"], Counter())[mutant["status"]] += 1
    counts = dict(sorted(counts.items()))
    folders: dict[str, Counter[str]] = {}
    for file, count in counts.items():
        folders.setdefault(folder_of(file), Counter()).update(count)
    total = sum(counts.values(), Counter[str]())
    below = [folder for folder, count in folders.items() if killed_share(count) < TARGET]
    survivors.sort(key=lambda mutant: mutant["file"])

    (ROOT / "docs/mutation.json").write_text(as_json(counts, total, killed_share(total), survivors), "utf-8")
    bars = {True: "below", False: "reached"}
    # Without functions there is nothing to mutate.
    files = [file for file in there - counts.keys() if "def " in (ROOT / file).read_text("utf-8")]
    untested = sorted({f"`{file}`" if folder_of(file) in folders else folder_of(file) for file in files})
    page = PAGE.format(
        version=version("mutmut"),
        killed=total["killed"] + total["timeout"],
        all=total.total(),
        share=killed_share(total),
        target=TARGET,
        timeout=total["timeout"],
        folders="\n".join(f"{row(name, count)} {bars[name in below]} |" for name, count in folders.items()),
        rows="\n".join([*(row(f"`{file}`", count) for file, count in counts.items()), row("all", total)]),
        untested=f"Not tested yet, or without mutants: {', '.join(untested)}.\n\n" * bool(untested),
    )
    (ROOT / "docs/mutation.md").write_text(page + "\n\n".join(sections(survivors)) + "\n", "utf-8")

    print(f"{total['killed'] + total['timeout']} of {total.total()} mutants killed: {killed_share(total):.1%}")
    without = sum(mutant["reason"] is None for mutant in survivors)
    if without:
        print(f"mutation: {without} survivors have no reason: see docs/mutation.md", file=sys.stderr)
    for folder in below:
        share = killed_share(folders[folder])
        print(f"mutation: {folder}: {share:.1%} are killed, {TARGET:.0%} are asked for: add tests", file=sys.stderr)
    for mask in (mask for why in reasons for mask in why["mutants"] if mask not in used):
        print(f"mutation: no survivor fits the reason {mask!r}: take it out", file=sys.stderr)
    return int(bool(below) or without > 0)


def folder_of(file: str) -> str:
    """Return the name that scripts/mutation knows a file's folder by."""
    masks = ((name, mask) for name, folder in FOLDERS.items() for mask in folder.files)
    return next((name for name, mask in masks if fnmatch(file, mask)), "of no folder")


def killed_share(count: Counter[str]) -> float:
    """Return the share of killed mutants."""
    return (count["killed"] + count["timeout"]) / count.total()


def row(name: str, count: Counter[str]) -> str:
    """Return a row of the table."""
    every = count.total()
    killed = count["killed"] + count["timeout"]
    return f"| {name} | {every} | {killed} | {count['timeout']} | {every - killed} | {killed_share(count):.1%} |"


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
