"""Make the fixtures of trajectories, videos and diffusion, as make_fixtures.py does.

pip install -e '.[reference]'
python tests/interchange/make_other_fixtures.py [NAME...]
"""

from __future__ import annotations

import shutil
import sys
from typing import Any

import diffusers  # pyright: ignore[reportMissingImports]
import make_fixtures
import numpy as np
import torch  # pyright: ignore[reportMissingImports]
import transformers  # pyright: ignore[reportMissingImports]

ROWS = 2


def decision_transformer() -> Any:
    """Rows of 4 steps, of which the first is padding in the second row."""
    config = transformers.DecisionTransformerConfig(
        state_dim=5,
        act_dim=3,
        max_ep_len=11,
        hidden_size=24,
        vocab_size=2,
        n_positions=16,
        n_layer=2,
        n_head=4,
        n_inner=40,
    )
    model = transformers.DecisionTransformerModel(config)
    rng = np.random.default_rng(3)
    inputs = {
        "states": rng.standard_normal((ROWS, 4, 5)),
        "actions": rng.uniform(-1, 1, (ROWS, 4, 3)),
        "returns_to_go": rng.standard_normal((ROWS, 4, 1)),
    }
    inputs = {key: value.astype(np.float32) for key, value in inputs.items()}
    inputs["timesteps"] = np.array([[3, 4, 5, 6], [0, 0, 1, 2]])
    inputs["attention_mask"] = np.array([[1, 1, 1, 1], [0, 1, 1, 1]])
    names = "last_hidden_state", "state_preds", "action_preds", "return_preds"
    return model, inputs, names


VIDEO = {
    **{"image_size": 8, "patch_size": 4, "num_frames": 4, "tubelet_size": 2},
    **{"hidden_size": 24, "intermediate_size": 40, "num_hidden_layers": 2},
    **{"num_attention_heads": 4, "layer_norm_eps": 1e-6},
}


def _videomae(name: str, output: str, **options: Any) -> Any:
    """Videos of 4 frames of 8 x 8 pixels."""
    config = transformers.VideoMAEConfig(**VIDEO, **options)
    rng = np.random.default_rng(3)
    pixels = rng.standard_normal((ROWS, 4, 3, 8, 8)).astype(np.float32)
    return getattr(transformers, name)(config), {"pixel_values": pixels}, (output,)


def videomae() -> Any:
    return _videomae("VideoMAEModel", "last_hidden_state", use_mean_pooling=False)


def videomae_classifier() -> Any:
    return _videomae("VideoMAEForVideoClassification", "logits", num_labels=5)


def videomae_first_token() -> Any:
    """A classifier of the first tubelet's features, without biases of its queries."""
    return _videomae(
        "VideoMAEForVideoClassification",
        "logits",
        num_labels=3,
        use_mean_pooling=False,
        qv_bias=False,
    )


def dit() -> Any:
    """Latents of 8 x 8 pixels, the second row of the null label; the embedding of
    timestep and class is one, as in the published files."""
    model = diffusers.DiTTransformer2DModel(
        num_attention_heads=2,
        attention_head_dim=6,
        in_channels=3,
        out_channels=6,
        num_layers=2,
        sample_size=8,
        patch_size=2,
        num_embeds_ada_norm=7,
    )
    rng = np.random.default_rng(3)
    inputs = {
        "hidden_states": rng.standard_normal((ROWS, 3, 8, 8)).astype(np.float32),
        "timestep": np.array([3, 151]),
        "class_labels": np.array([5, 7]),
    }
    return model, inputs, ("sample",)


MAKERS = (
    *(decision_transformer, dit),
    *(videomae, videomae_classifier, videomae_first_token),
)
MODELS = {f.__name__: f for f in MAKERS}


def write(name: str) -> None:
    """A folder with the model, and its inputs and outputs by the library's names."""
    torch.manual_seed(0)
    model, inputs, names = MODELS[name]()
    model, folder = make_fixtures.add_noise(model), make_fixtures.FOLDER / name
    if name == "dit":
        first, *others = (block.norm1.emb for block in model.transformer_blocks)
        for other in others:
            other.load_state_dict(first.state_dict())
    shutil.rmtree(folder, ignore_errors=True)
    model.save_pretrained(folder)
    tensors = {key: torch.tensor(value) for key, value in inputs.items()}
    with torch.no_grad():
        outputs = model(**tensors)
    values = {key: outputs[key].numpy() for key in names}
    np.savez_compressed(folder / "reference.npz", **inputs, **values)


if __name__ == "__main__":
    for chosen in sys.argv[1:] or MODELS:
        write(chosen)
