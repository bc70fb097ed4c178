"""Trajectories, videos and diffusion of other libraries: equal outputs and files.

Fixtures and ratios as in test_decoders.py, made by make_other_fixtures.py; outputs are
named as there, and steps of padding are not compared.
"""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import parity
import pytest
import safetensors.numpy

from experiments import decision_transformer as decision_transformer_
from experiments import dit_flow
from transformer import axes, main
from transformer.data.images import patches
from transformer.interchange import folder, tensor_files
from transformer.models import continuous_control
from transformer.network import masks
from transformer.training.checksum import leaf_paths

FIXTURES = Path(__file__).parent / "fixtures"
# Measured; a test allows three times as much, and three times 1e-6 in any case.
RATIOS: dict[str, dict[str, float]] = {
    "decision_transformer": {
        **{"last_hidden_state": 9.6e-7, "state_preds": 4.1e-7},
        **{"action_preds": 3.4e-7, "return_preds": 5.9e-7},
    },
    # 5.8e-6 at a timestep of 998, of whose angles that is the rounding.
    "dit": {"sample": 1.4e-6},
    "videomae": {"last_hidden_state": 7.1e-7},
    "videomae_classifier": {"logits": 5.9e-7},
    "videomae_first_token": {"logits": 2.3e-7},
}
MESH: Any = {"data": 2, "fsdp": 2, "tensor": 2}


def decision_transformer(apply: Any, reference: Any) -> dict[str, Any]:
    """What our net gives, by transformers' names."""
    segment_BL = jnp.asarray(reference["attention_mask"], jnp.int32)
    steps = masks.single_document(segment_BL.shape[1])._replace(
        segment_BL=segment_BL, position_BL=jnp.asarray(reference["timesteps"])
    )
    returns_BT = reference["returns_to_go"][..., 0]
    inputs = returns_BT, reference["states"], reference["actions"], steps

    def both(net: Any, *inputs: Any) -> Any:
        return net(*inputs), net.features(*inputs)

    predictions, features_BLD = apply(*inputs, method=both)
    return {
        "last_hidden_state": features_BLD,
        "state_preds": predictions.observation_BTP,
        "action_preds": predictions.action_BTP,
        "return_preds": predictions.return_BTP,
    }


def videomae(apply: Any, reference: Any) -> dict[str, Any]:
    """Of the fixture's one output."""
    pixels = reference["pixel_values"].transpose(0, 1, 3, 4, 2)
    raw_BLP = patches.patchify(pixels, (2, 4, 4))
    (name,) = set(reference) - {"pixel_values"}
    return {name: apply(raw_BLP, masks.single_document(raw_BLP.shape[1]))}


def dit(apply: Any, reference: Any) -> dict[str, Any]:
    pixels = reference["hidden_states"].transpose(0, 2, 3, 1)
    raw_BLP = patches.patchify(pixels, (2, 2))
    labels = reference["timestep"], reference["class_labels"]
    out_BLP = apply(raw_BLP, *labels, masks.single_document(raw_BLP.shape[1]))
    sample = patches.unpatchify(np.asarray(out_BLP), (8, 8), (2, 2))
    return {"sample": sample.transpose(0, 3, 1, 2)}


OUTPUTS = {
    "dit": dit,
    "decision_transformer": decision_transformer,
    "videomae": videomae,
}


def outputs(name: str, **changes: Any) -> dict[str, Any]:
    """Of the fixture `name`, with other sizes."""
    opened = folder.open_folder(FIXTURES / name, **changes)
    params, net = opened.read_params(), opened.net

    def apply(*inputs: Any, method: Any = None) -> Any:
        return jax.jit(lambda p: net.apply({"params": p}, *inputs, method=method))(
            params
        )

    kind = next(kind for kind in OUTPUTS if name.startswith(kind))
    return OUTPUTS[kind](apply, np.load(FIXTURES / name / "reference.npz"))


@pytest.mark.parametrize("name", RATIOS)
def test_outputs_are_those_of_the_library(name: str) -> None:
    reference = np.load(FIXTURES / name / "reference.npz")
    ours = outputs(name)
    for key, ratio in RATIOS[name].items():
        expected, values = reference[key], np.asarray(ours[key])
        assert expected.shape == values.shape
        if "attention_mask" in reference:
            per_step = expected.shape[1] // reference["attention_mask"].shape[1]
            real = np.repeat(reference["attention_mask"] > 0, per_step, axis=1)
            expected, values = expected[real], values[real]
        parity.check(name, key, values, expected, ratio)


@pytest.mark.parametrize("scanned", [False, True])
@pytest.mark.parametrize("name", RATIOS)
def test_a_folder_is_written_back_to_the_bit(name, scanned, tmp_path) -> None:
    """Sharded over eight devices, of either stack."""
    opened = folder.open_folder(FIXTURES / name, scanned=scanned)
    params = opened.read_params(axes.make_mesh(**MESH))
    out = tmp_path / "out"
    folder.write_folder(out, opened.architecture, opened.sizes, params)
    stem = opened.architecture.format.stem
    theirs = tensor_files.open_tensors(FIXTURES / name, stem)
    ours = tensor_files.open_tensors(out, stem)
    assert theirs.keys() == ours.keys()
    for key, tensor in theirs.items():
        assert (tensor.dtype, tensor.shape) == (ours[key].dtype, ours[key].shape)
        np.testing.assert_array_equal(tensor.read(), ours[key].read())
    assert folder.open_folder(out).sizes == opened.sizes._replace(scanned=False)


@pytest.mark.parametrize("name", ["decision_transformer", "videomae_classifier"])
def test_scanned_layers_equal_unrolled_ones(name: str) -> None:
    one, other = outputs(name), outputs(name, scanned=True)
    for key, values in one.items():
        np.testing.assert_allclose(values, other[key], atol=1e-5)


REFUSED: dict[str, tuple[str, dict[str, Any]]] = {
    "scores of another kind": (
        "decision_transformer",
        {"scale_attn_by_inverse_layer_idx": True},
    ),
    "heads that do not fill": ("decision_transformer", {"n_head": 5}),
    "an unknown key": ("decision_transformer", {"experts": 4}),
    "the model of pretraining": (
        "videomae",
        {"architectures": ["VideoMAEForPreTraining"]},
    ),
    "blocks of another kind": ("dit", {"norm_type": "ada_norm_single"}),
    "attention to texts": ("dit", {"cross_attention_dim": 16}),
    "latents that do not fill": ("dit", {"sample_size": 9}),
    "tubelets that do not fill": ("videomae", {"num_frames": 5}),
}


@pytest.mark.parametrize("name", REFUSED)
def test_what_is_not_expressed_is_refused_by_name(name: str, tmp_path: Path) -> None:
    fixture, changes = REFUSED[name]
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / fixture, path)
    values = json.loads((path / folder.CONFIG).read_text()) | changes
    (path / folder.CONFIG).write_text(json.dumps(values))
    key = next(iter(changes))
    with pytest.raises(ValueError, match=rf"{key}.*(expected|got)|expected.*{key}"):
        folder.open_folder(path)


def test_embeddings_of_blocks_that_differ_are_refused(tmp_path: Path) -> None:
    """Files have them in each block; DiT has one, and training keeps it so."""
    path = tmp_path / "model"
    shutil.copytree(FIXTURES / "dit", path)
    file = path / "diffusion_pytorch_model.safetensors"
    tensors = safetensors.numpy.load_file(file)
    copy = "transformer_blocks.1.norm1.emb.timestep_embedder.linear_2.bias"
    original = copy.replace("blocks.1", "blocks.0")
    tensors[copy] = tensors[copy] + np.float32(1e-3)
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(ValueError, match=f"{copy}: expected the values of {original}"):
        folder.open_folder(path)
    del tensors[copy]
    safetensors.numpy.save_file(tensors, file)
    with pytest.raises(ValueError, match=f"every tensor, got missing: {copy}"):
        folder.open_folder(path)


def test_shards_are_named_as_their_library_does(tmp_path: Path) -> None:
    opened = folder.open_folder(FIXTURES / "dit")
    made = opened.architecture, opened.sizes, opened.read_params()
    folder.write_folder(tmp_path / "out", *made, max_shard_bytes=30_000)
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names[1] == "diffusion_pytorch_model-00001-of-00002.safetensors"
    assert names[-1] == "diffusion_pytorch_model.safetensors.index.json"
    assert folder.open_folder(tmp_path / "out").sizes == opened.sizes
    (tmp_path / "out" / names[-1]).unlink()
    with pytest.raises(ValueError, match="expected diffusion_pytorch_model.safetens"):
        folder.open_folder(tmp_path / "out")


def test_steps_beyond_an_episode_are_no_number() -> None:
    """JAX would clamp their index to that of the last step, in silence."""
    opened = folder.open_folder(FIXTURES / "decision_transformer")
    params = opened.read_params()

    @jax.jit
    def actions(step: Any) -> jax.Array:
        steps = masks.single_document(1)._replace(position_BL=step[None, None])
        zeros = jnp.zeros((1, 1)), jnp.zeros((1, 1, 5)), jnp.zeros((1, 1, 3))
        predictions: Any = opened.net.apply({"params": params}, *zeros, steps)
        return predictions.action_BTP

    assert np.isfinite(actions(np.int32(10))).all()
    assert (
        np.isnan(actions(np.int32(11))).all() and np.isnan(actions(np.int32(-1))).all()
    )


def test_an_action_does_not_depend_on_itself_or_what_follows() -> None:
    """Nor does what is predicted after it depend on what follows that."""
    opened = folder.open_folder(FIXTURES / "decision_transformer")
    params, generator = opened.read_params(), np.random.default_rng(0)
    returns_BT, action_BTP = generator.random((1, 3)), generator.random((1, 3, 3))
    observation_BTP, steps = generator.random((1, 3, 5)), masks.single_document(3)

    @jax.jit
    def predict(*inputs: Any) -> continuous_control.Predictions:
        return opened.net.apply({"params": params}, *inputs, steps)  # pyright: ignore

    one = predict(returns_BT, observation_BTP, action_BTP)
    changed = action_BTP.copy()
    changed[:, 1] += 1
    other = predict(returns_BT, observation_BTP, changed)
    np.testing.assert_array_equal(one.action_BTP[:, :2], other.action_BTP[:, :2])
    np.testing.assert_array_equal(one.return_BTP[:, :1], other.return_BTP[:, :1])
    assert np.abs(one.return_BTP[:, 1:] - other.return_BTP[:, 1:]).min() > 1e-4
    assert np.abs(one.action_BTP[:, 2] - other.action_BTP[:, 2]).max() > 1e-4
    assert leaf_paths(params)["embedding_VD"].shape == (2, 24)


@pytest.mark.parametrize(
    ("name", "experiment", "why"),
    [
        ("decision_transformer", decision_transformer_, "actions .* are discrete"),
        ("dit", dit_flow, "it denoises the latents of a VAE, and there is no VAE here"),
    ],
)
def test_what_no_experiment_trains_is_refused_with_its_reason(
    name: str, experiment: Any, why: str, tmp_path: Path
) -> None:
    """Where the user looks first; it says what there is for such a folder."""
    with pytest.raises(ValueError, match=why) as caught:
        main.run(
            experiment.experiment, tmp_path / "run", init_from=FIXTURES / name, steps=1
        )
    message = str(caught.value)
    assert "transformer.load" in message and "\n" not in message
    assert not (tmp_path / "run").exists()
