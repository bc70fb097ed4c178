"""A ValueError during training is a fault, not bad input."""

import jax
import pytest
import tiny_experiment

from transformer import axes
from transformer.training import checkpoint, loop


def test_an_error_of_a_step_is_not_reported_as_bad_input(tmp_path):
    """It keeps its traceback; what was saved before stays."""
    experiment = tiny_experiment.experiment()

    def batch(step, rows):
        if step == 3:
            raise ValueError("row of step 3 is bad")
        return experiment.batch(step, rows)

    mesh = axes.mesh(devices=jax.devices()[:1])
    intervals = loop.Intervals(checkpoint=2)
    folder = tmp_path / "new" / "run"
    with pytest.raises(RuntimeError, match="training failed") as failure:
        loop.train(
            experiment._replace(batch=batch), folder, mesh=mesh, intervals=intervals
        )
    assert "row of step 3 is bad" in str(failure.value.__cause__)
    assert checkpoint.steps(folder / loop.CHECKPOINTS) == [2]
