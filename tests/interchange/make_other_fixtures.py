"""Make the fixtures of trajectories, videos and diffusion, as make_fixtures.py does.

    pip install -e '.[reference]' diffusers
    python tests/interchange/make_other_fixtures.py [NAME...]
"""

from __future__ import annotations

import shutil
import sys
from typing import Any

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


MODELS = {f.__name__: f for f in (decision_transformer,)}


def write(name: str) -> None:
    """A folder with the model, and its inputs and outputs by the library's names."""
    torch.manual_seed(0)
    model, inputs, names = MODELS[name]()
    model, folder = make_fixtures.add_noise(model), make_fixtures.FOLDER / name
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
