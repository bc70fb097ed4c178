"""A corpus to shards as an Apache Beam pipeline: the local runner, Dataflow, Flink,
Spark.

Beam schedules the functions of the in-process path, one element a unit and one a shard;
what passes between them lies in the folder `work`, which all workers must see. So the
shards are the same bytes, memory does not grow with the corpus on any runner, and
another start goes on from the runs that are there. Workers need this package
(`--setup_file`, or a container of one's own).
"""

from __future__ import annotations

import re
import time
from collections.abc import Iterable, Sequence
from typing import Any

from transformer.data.preparation import jobs
from transformer.data.preparation.corpus import Unit
from transformer.data.preparation.jobs import Job
from transformer.data.preparation.runs import Run
from transformer.data.text.shard_index import Shard

COUNTER = "prepare", "tokens"
LIBRARY = "expected the library apache_beam (pip install 'transformer[beam]'), got none"


def _encode(unit: Unit, job: Job) -> Run:
    from apache_beam.metrics import Metrics  # pyright: ignore

    run, tokens = jobs.encode(job, unit)
    Metrics.counter(*COUNTER).inc(tokens)
    return run


def _shards(_: None, job: Job, runs: Iterable[Run]) -> list[jobs.ShardJob]:
    return jobs.missing_shards(job, runs)


def _write(wanted: jobs.ShardJob, job: Job, runs: Iterable[Run]) -> Shard:
    return jobs.write_shard(job, runs, wanted)


def _finish(_: None, job: Job, runs: Iterable[Run], new: Iterable[Shard]) -> None:
    jobs.write_index(job, runs, new)


def build(beam: Any, pipeline: Any, job: Job) -> None:
    """Add the steps of the job to a pipeline."""
    # The steps need no list of all files.
    light = job._replace(units=())
    found = (
        pipeline
        | "units" >> beam.Create(job.units)
        | "distribute units" >> beam.Reshuffle()
        | "encode" >> beam.Map(_encode, light)
    )
    found = beam.pvalue.AsList(found)
    start = pipeline | "start" >> beam.Create([None])
    made = (
        start
        | "list shards" >> beam.FlatMap(_shards, light, found)
        | "distribute shards" >> beam.Reshuffle()
        | "shuffle" >> beam.Map(_write, light, found)
    )
    made = beam.pvalue.AsList(made)
    _ = start | "index" >> beam.Map(_finish, light, found, made)


def _runner(name: str) -> Any:
    """The runner of that name. The local one is that of Python: `DirectRunner` would
    first download and start another program."""
    if name != "DirectRunner":
        return name
    from apache_beam.runners.portability.fn_api_runner import fn_runner  # pyright: ignore

    return fn_runner.FnApiRunner()


def _refusal(error: Exception) -> str | None:
    """The message of a ValueError in a worker, in one line; None for other errors."""
    found = re.search(r"ValueError: (.*?)(?: \[while running|$)", str(error), re.S)
    return " ".join(found[1].split()) if found else None


def empty_pipeline(runner: str, options: Sequence[str]) -> Any:
    """A pipeline without steps, for the runner of that name. options: of Beam, as on a
    command line. ValueError, in one line, without the library, and for a runner or
    options that it does not know."""
    try:
        import apache_beam as beam  # pyright: ignore
        from apache_beam.options.pipeline_options import PipelineOptions  # pyright: ignore
    except ImportError as error:
        raise ValueError(f"--runner={runner}: {LIBRARY}: {error}") from None
    try:
        return beam.Pipeline(_runner(runner), options=PipelineOptions([*options]))
    except ValueError as error:
        got = " ".join(str(error).split())
        raise ValueError(f"--runner={runner}: expected a runner, got {got}") from None


def execute(job: Job, pipeline: Any) -> jobs.Result:
    """Run the steps of the job in an `empty_pipeline` and wait. ValueError, in one
    line, for what the readers refuse."""
    import apache_beam as beam  # pyright: ignore
    from apache_beam.metrics import MetricsFilter  # pyright: ignore

    start = time.monotonic()
    try:
        build(beam, pipeline, job)
        result = pipeline.run()
        result.wait_until_finish()
    except Exception as error:
        cause = _refusal(error)
        if cause is None:
            raise
        raise ValueError(cause) from None
    seconds = time.monotonic() - start
    counts = result.metrics().query(MetricsFilter().with_name(COUNTER[1]))["counters"]
    return jobs.Result(sum(count.result for count in counts), seconds)
