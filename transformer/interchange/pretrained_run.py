"""A run that goes on with a model of another library: what an experiment takes from the
folder that it starts from, and keeps in its own."""

from __future__ import annotations

import json
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from transformer.interchange import export, folder, start, tasks


class PretrainedRun(NamedTuple):
    """model: of the folder that a run starts from or, once it has begun, of its own.
    config: its `config.json`. resumes: whether the run has begun. start: the parameters
    that it starts from, as `Experiment.warm_start`; None where none are asked for."""

    model: tasks.Model
    config: bytes
    resumes: bool
    start: Any

    def change_sizes(self, sizes: Any, start: Any) -> PretrainedRun:
        """With the net of other sizes, such as a classifier's of other classes, whose
        parameters are those of `start`."""
        place, made, *_ = self.model
        model = tasks.Model(place, made, sizes, made.net(sizes))
        values = {**folder.read_token_ids(place), **made.write(sizes)}
        config = json.dumps(values, indent=2, sort_keys=True).encode()
        return self._replace(model=model, config=config, start=start)

    def fields(self) -> dict[str, Any]:
        """Fields of an Experiment: `fingerprint`, `init`, `net`, `warm_start`;
        `extra_files`, which are all of the folder but its weights; and `verbs`, those
        of the model's kind and `export`."""
        place, made, sizes, net = self.model
        files, tokens = folder.companions_of(place), folder.read_token_ids(place)
        exportable = export.Exportable(made, sizes, files, tokens)
        return {
            "fingerprint": f"{made.name(sizes)}, {sizes}",
            "init": partial(made.init, net),
            "net": net,
            "warm_start": self.start,
            "extra_files": {**files, folder.CONFIG: self.config},
            "verbs": {
                **tasks.verbs_of(self.model),
                "export": partial(export.export, exportable),
            },
        }


def read(workdir: Path | None, init_from: Path | None) -> PretrainedRun:
    """The model of a run, its layers scanned where they are equal, which compile in a
    third of the time. workdir, init_from: as in `Run`. ValueError as `folder.find`; and
    as `folder.open_folder` of what the run starts from, so before data are read."""
    place = folder.find(workdir, init_from)
    made, sizes = folder.read_config(place)
    config = folder.config_bytes(place, made, sizes)
    sizes = sizes._replace(scanned=made.layers_repeat(sizes))
    resumes = workdir != init_from and workdir == place
    first = init_from and start.PretrainedStart(init_from, sizes.scanned)
    if first and not resumes:
        first = first._replace(opened=first.open())
    return PretrainedRun(
        model=tasks.Model(place, made, sizes, made.net(sizes)),
        config=config,
        resumes=resumes,
        start=first,
    )
