"""Several runs side by side: a table, curves, and means over seeds."""

from __future__ import annotations

import io
import json
import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from transformer import checks, storage
from transformer.training import metrics

COST = "cost.json"
NUMBER = (int, float)
COST_FIELDS = {"step": int, "tokens_per_step": NUMBER, "flop_per_step": NUMBER}
AXES = ("step", "tokens", "seconds", "FLOP")


def find_runs(root: Path) -> list[Path]:
    """The run folders below `root` that have metrics, sorted."""
    return sorted(file.parent for file in root.rglob(metrics.FILE) if _is_run(file))


def runs_at(places: Sequence[Path]) -> list[Path]:
    """The run folders that are named: a place that is none stands for those below it.
    Files, as `runs/sweep/*` has them, are left out and told."""
    files = [place for place in places if place.is_file()]
    if files:
        print(f"left out, files: {' '.join(map(str, files))}", flush=True)
    found = []
    for place in places:
        if place not in files:
            inside = [] if (place / metrics.FILE).exists() else find_runs(place)
            found += inside or [place]
    return found


def _is_run(file: Path) -> bool:
    # legs/N holds the metrics of an earlier leg of the run above it.
    return (file.parent / "run.json").exists()


def seeds_table(folders: Sequence[Path | str]) -> str:
    """Mean and standard deviation over seeds of each last evaluation metric, a column
    for each group of runs that differ in their seed alone; empty without such a group.
    Of runs of one seed the last counts, because equal ones would hide the spread.
    """
    by_seed: dict[str, dict[Any, dict[str, Any]]] = {}
    for folder in map(checks.parse_path, folders):
        flags = metrics.read_flags(folder)
        seed, last = flags.pop("seed", None), metrics.last_values(folder)
        by_seed.setdefault(json.dumps(flags, sort_keys=True), {})[seed] = last
    groups = {key: [*runs.values()] for key, runs in by_seed.items() if len(runs) > 1}
    if not groups:
        return ""
    varied = _differing_names([json.loads(key) for key in groups])
    names = [
        ", ".join(f"--{k}={json.loads(key)[k]}" for k in varied) or "all runs"
        for key in groups
    ]
    evaluated = dict.fromkeys(
        name for runs in groups.values() for name in runs[0] if "train/" not in name
    )
    rows = [["", *names], ["seeds", *(str(len(runs)) for runs in groups.values())]]
    for metric in evaluated:
        rows.append([metric, *(_mean(runs, metric) for runs in groups.values())])
    return metrics.align(rows)


def _differing_names(flags: list[dict[str, Any]]) -> list[str]:
    names = dict.fromkeys(name for each in flags for name in each)
    return [n for n in names if len({json.dumps(f.get(n)) for f in flags}) > 1]


def _mean(runs: list[dict[str, Any]], metric: str) -> str:
    values = [run[metric] for run in runs if metric in run]
    if len(values) < 2:
        return ""
    return f"{statistics.fmean(values):.4g} ± {statistics.stdev(values):.2g}"


def curves(
    folder: Path, metric: str = "loss"
) -> dict[str, dict[str, tuple[list[float], list[float]]]]:
    """Curves of `metric`: kind of record -> axis, of `AXES` -> (x, y).

    Tokens and FLOP need the run's cost.json. Seconds are since the first record, pauses
    between two starts included.
    """
    records = metrics.read(folder)
    costs = _costs(folder)
    found: dict[str, dict[str, tuple[list[float], list[float]]]] = {}
    for record in (r for r in records if metric in r):
        places: dict[str, float] = {"step": record["step"]}
        places["seconds"] = record["time"] - records[0]["time"]
        if costs:
            places["tokens"] = _total(costs, record["step"], "tokens_per_step")
            places["FLOP"] = _total(costs, record["step"], "flop_per_step")
        for axis, place in places.items():
            xs, ys = found.setdefault(record["kind"], {}).setdefault(axis, ([], []))
            xs.append(place)
            ys.append(record[metric])
    return found


def _costs(folder: Path) -> list[dict[str, float]]:
    file = folder / COST
    found = storage.read_json(file, {"starts": list})["starts"] if file.exists() else []
    for entry in found:
        storage.check_fields(f"{file}: starts", entry, COST_FIELDS)
    return found


def _total(costs: list[dict[str, float]], step: int, name: str) -> float:
    """Of all steps up to `step`; each entry counts from its first step to the next."""
    ends = [each["step"] for each in costs[1:]] + [float("inf")]
    return sum(
        max(0.0, min(step, end) - each["step"]) * each[name]
        for each, end in zip(costs, ends, strict=True)
    )


def write_cost(folder: Path, step: int, tokens: float, flop: float) -> None:
    """Record what a step costs from `step` on, where it differs from before."""
    starts = [each for each in _costs(folder) if each["step"] < step]
    entry = {"step": step, "tokens_per_step": tokens, "flop_per_step": flop}
    if starts and {**starts[-1], "step": step} == entry:
        return
    content = json.dumps({"starts": [*starts, entry]})
    storage.commit(folder / COST, content.encode())


def _places_of(
    step: int, by_axis: dict[str, tuple[list[float], list[float]]]
) -> dict[str, float]:
    """Axis -> x of the last point of a curve up to `step`."""
    before = sum(each <= step for each in by_axis.get("step", ([], []))[0])
    return {axis: xs[before - 1] for axis, (xs, _) in by_axis.items() if before}


def plot(folders: Sequence[Path | str], file: Path, metric: str = "loss") -> None:
    """Curves of `metric` of each run over each of `AXES`, as a PNG; a dotted line where
    a leg of a run begins."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 7), layout="constrained")
    FigureCanvasAgg(figure)
    panels: dict[str, Any] = dict(zip(AXES, figure.subplots(2, 2).ravel(), strict=True))
    for place, folder in enumerate(map(checks.parse_path, folders)):
        found, color = curves(folder, metric), f"C{place % 10}"
        for kind, by_axis in found.items():
            style = "-" if kind == "train" else "o--"
            alpha = 0.5 if kind == "train" else 1.0
            label = f"{folder} {kind}"
            for axis, points in by_axis.items():
                panels[axis].plot(*points, style, color=color, alpha=alpha, label=label)
        for step in metrics.leg_starts(folder):
            for axis, begin in _places_of(step, found.get("train", {})).items():
                panels[axis].axvline(begin, color=color, linestyle=":")
    for axis, panel in panels.items():
        panel.set(xlabel=axis, ylabel=metric)
        panel.grid(alpha=0.3)
    panels["step"].legend(fontsize=7)
    picture = io.BytesIO()
    figure.savefig(picture, dpi=120)
    storage.commit(file, picture.getvalue())
