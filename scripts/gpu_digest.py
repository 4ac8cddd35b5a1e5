"""A summary of a part of the GPU round in a few lines, from its log or from the JSON file that the log names."""

import json
import re
from pathlib import Path
from typing import Any

SHOWN = 6
"""Lines of the log of a part that failed."""
WIDTH = 250
RATE = 1e-12  # flops/s in TFLOP/s


def digest(name: str, log: str, failed: bool) -> list[str]:
    """Return what to show of the part `name`, by its `log`; where it failed, also the end of the log."""
    lines = [line.rstrip() for line in log.splitlines() if line.strip()]
    found: list[str] = []
    try:
        found = _choose(name, lines)
    except (OSError, KeyError, TypeError, ValueError, AttributeError) as error:
        found = [f"its figures cannot be read: {type(error).__name__}: {error}"]
    if failed:
        end = lines[-SHOWN:]
        found = [line for line in found if line not in end] + end
    return [line[:WIDTH] for line in found]


def _choose(name: str, lines: list[str]) -> list[str]:
    kind = name.partition("-")[0]
    if kind in _SUMMARIES:
        paths = [Path(line) for line in lines if line.endswith(".json")]
        return _SUMMARIES[kind](json.loads(paths[-1].read_text(encoding="utf-8"))["results"]) if paths else []
    if kind == "devices":
        return [" ".join(re.sub("[│|]", " ", line).split()) for line in lines if re.search("CUDA|CuPy|cuda:", line)]
    if kind == "tests":
        failures = [line for line in lines if line.startswith(("FAILED", "ERROR"))]
        more = [f"and {len(failures) - SHOWN} more"] if len(failures) > SHOWN else []
        return [*failures[:SHOWN], *more, *lines[-1:]]
    return lines[-7:] if kind == "fit" else lines[-1:]


def _probe(results: dict[str, Any]) -> list[str]:
    shown = [f"copy {results['copy_bytes_per_second'] / 1e9:,.0f} GB/s"]
    for precision, found in results["precisions"].items():
        epochs = []
        for name, epoch in found["epochs"].items():
            steps = [
                call for call in epoch["calls"] if ": " not in call["call"]
            ]  # others are of several steps at once
            device, host = (sum(step[key] for step in steps) for key in ("device_us", "host_us"))
            epochs.append(
                f"{name}: {epoch['epoch_us']:,.0f} µs an epoch; {len(steps)} steps one by one, "
                f"device {device:,.0f} µs, host {host:,.0f} µs"
            )
        rate = found["gemm_flops_per_second"] * RATE
        shown.append(f"{precision}: {rate:,.0f} TFLOP/s; {'; '.join(epochs)}")
    return shown


def _throughput(results: dict[str, Any]) -> list[str]:
    shown = []
    for name, found in results["experiments"].items():
        epoch = found["epoch_seconds"]["median"]
        line = f"{name}: {1e6 * epoch:,.0f} µs an epoch, floor {1e6 * found['floor_seconds']:,.0f} µs"
        if training := found.get("training"):
            line += f"; {training['epochs']:,} epochs in {training['seconds']['median']:.3f} s"
        shown.append(line)
    return shown


def _peers(results: dict[str, Any]) -> list[str]:
    shown = []
    for name, found in results.items():
        medians = sorted((summary["median"], engine) for engine, summary in found["engines"].items())
        shown.append(f"{name}, µs: " + " · ".join(f"{engine} {1e6 * seconds:,.0f}" for seconds, engine in medians))
        shown += [f"{name}: {engine} left out, {reason}" for engine, reason in found["left_out"].items()]
    return shown


_SUMMARIES = {"probe": _probe, "throughput": _throughput, "fused": _throughput, "peers": _peers}
