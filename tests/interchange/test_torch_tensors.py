"""A state dict of PyTorch is that of the files, in the same memory."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from transformer.interchange import folder, torch_tensors
from transformer.training.checksum import leaf_paths

torch = pytest.importorskip("torch")
FIXTURES = Path(__file__).parent / "fixtures"


@pytest.mark.parametrize("name", ["llama", "gpt2", "gpt_neox"])
def test_a_state_dict_has_the_tensors_of_the_files(name: str) -> None:
    opened = folder.open_folder(FIXTURES / name)
    model = opened.architecture, opened.sizes
    params = opened.read_params()
    state = torch_tensors.to_torch(*model, params)
    assert state.keys() == opened.tensors.keys()
    for key, tensor in opened.tensors.items():
        np.testing.assert_array_equal(state[key].numpy(), tensor.read())
    back = torch_tensors.from_torch(*model, state)
    for path, leaf in leaf_paths(back).items():
        np.testing.assert_array_equal(leaf, leaf_paths(params)[path])
    narrow = {key: tensor.to(torch.bfloat16) for key, tensor in state.items()}
    rounded = leaf_paths(torch_tensors.from_torch(*model, narrow))
    for path, leaf in leaf_paths(params).items():
        np.testing.assert_allclose(rounded[path], leaf, rtol=2**-8)
    with pytest.raises(ValueError, match="missing"):
        torch_tensors.from_torch(*model, {})


def test_tensors_share_the_memory_of_parameters() -> None:
    opened = folder.open_folder(FIXTURES / "llama")
    params = opened.read_params()
    state = torch_tensors.to_torch(opened.architecture, opened.sizes, params)
    w_q_DHK = params["stack"]["layers_0"]["attention"]["w_q_DHK"]
    q_proj = state["model.layers.0.self_attn.q_proj.weight"]
    assert q_proj.data_ptr() == w_q_DHK.unsafe_buffer_pointer()
