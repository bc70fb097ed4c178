"""A run in a bucket of Cloud Storage, by the libraries of Cloud Storage: TensorStore
writes the arrays of checkpoints, gcsfs all else."""

import commands
import gcs_emulator


def test_a_run_is_restored_from_a_bucket_on_other_meshes(tmp_path):
    """The checksum of each leaf is that with which it was saved, or it would be skipped
    as corrupt."""
    place = f"--workdir=gs://{gcs_emulator.BUCKET}/runs/a"

    def child(number, *argv, devices):
        output = tmp_path / f"{number}.txt"
        output.touch()
        made = commands.Child(output, *argv, devices=devices, env=env)
        assert made.status() == 0, made.text
        return made.text

    with gcs_emulator.serve() as env:
        saved = child(1, "train", place, "--mesh=fsdp:8", "--steps=3", devices=8)
        more = ("--mesh=data:2,fsdp:2", "--steps=5")
        restored = child(2, "train", place, *more, devices=4)
    assert "finished; see gs://bucket/runs/a" in saved
    assert "resuming from step 3" in restored and "corrupt" not in restored
    assert "finished; see gs://bucket/runs/a" in restored
