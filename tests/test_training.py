"""A run called as a function: where it may write, and how it tells that it broke."""

import jax
import pytest
import tiny_experiment

from transformer import axes
from transformer.training import checkpoint, loop


def test_a_broken_run_is_no_bad_input(tmp_path):
    """A ValueError among the steps is not told as the user's, in one line; what was
    saved before it stays."""
    experiment = tiny_experiment.experiment()

    def batch(step, rows):
        if step == 3:
            raise ValueError("row of step 3 is bad")
        return experiment.batch(step, rows)

    mesh = axes.mesh(devices=jax.devices()[:1])
    cadence = loop.Cadence(checkpoint=2)
    folder = tmp_path / "new" / "run"
    with pytest.raises(RuntimeError, match="training broke") as broke:
        loop.train(experiment._replace(batch=batch), folder, mesh=mesh, cadence=cadence)
    assert "row of step 3 is bad" in str(broke.value.__cause__)
    assert checkpoint.steps(folder / loop.CHECKPOINTS) == [2]
