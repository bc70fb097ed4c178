"""Layouts cut and permute, and nothing else: equal to einops, and to the bit back."""

import numpy as np
import pytest

from transformer.interchange import layout
from transformer.interchange.layout import ArrayLayout

D, H, G, K, F = 6, 4, 2, 3, 5
Q = ArrayLayout((D, H, K), "D H K")
KEY = ArrayLayout((D, G, K), "D G K")
VALUE = ArrayLayout((D, G, K), "D G K")
CASES = {
    "linear": ("(H K) D", [Q]),
    "joined": ("D (H K + G K + G K)", [Q, KEY, VALUE]),
    "joined rows": ("(H K + G K + G K) D", [Q, KEY, VALUE]),
    "interleaved": ("(H 3 K) D", [Q, Q, Q]),
    "patches": (
        "D C y x",
        [ArrayLayout((2 * 3 * 3, D), "(y x C) D", {"y": 3, "x": 3})],
    ),
    "rotated": ("(H p k) D", [ArrayLayout((D, H, 4), "D H (k p)", {"p": 2})]),
    "vector": ("D", [ArrayLayout((D,), "D")]),
    "scalar": ("", [ArrayLayout((), "")]),
    "gated": ("(F + F) D", [ArrayLayout((D, F), "D F")] * 2),
}


def numbers(shape: tuple[int, ...]) -> np.ndarray:
    return np.arange(np.prod(shape, dtype=int), dtype=np.int32).reshape(shape)


@pytest.mark.parametrize("name", CASES)
def test_unpacked_arrays_pack_to_the_same_tensor(name: str) -> None:
    text, arrays = CASES[name]
    tensor = numbers(layout.shape_of(text, arrays))
    places = layout.placements(text, arrays)
    values = [layout.unpack(tensor, place) for place in places]
    assert [v.shape for v in values] == [a.shape for a in arrays]
    assert sum(v.size for v in values) == tensor.size
    np.testing.assert_array_equal(layout.pack(text, arrays, values), tensor)


def test_arrays_are_where_numpy_finds_them() -> None:
    """By hand, in the words of PyTorch: Linear (out, in), Conv1D (in, out), NeoX's
    interleaved query, key and value, and Conv2d (out, channels, y, x)."""

    def unpacked(name: str) -> list[np.ndarray]:
        text, arrays = CASES[name]
        tensor = numbers(layout.shape_of(text, arrays))
        return [
            tensor,
            *(layout.unpack(tensor, p) for p in layout.placements(*CASES[name])),
        ]

    tensor, q = unpacked("linear")
    np.testing.assert_array_equal(q, tensor.T.reshape(D, H, K))
    tensor, q, k, v = unpacked("joined")
    np.testing.assert_array_equal(q, tensor[:, : H * K].reshape(D, H, K))
    np.testing.assert_array_equal(v, tensor[:, -G * K :].reshape(D, G, K))
    tensor, q, k, v = unpacked("interleaved")
    np.testing.assert_array_equal(
        k, tensor.reshape(H, 3, K, D)[:, 1].transpose(2, 0, 1)
    )
    tensor, w = unpacked("patches")
    np.testing.assert_array_equal(w, tensor.transpose(2, 3, 1, 0).reshape(-1, D))


@pytest.mark.parametrize(
    ("text", "arrays", "message"),
    [
        ("(H K) D", [Q, Q], "expected 1 arrays, got 2"),
        ("(H K) F", [Q], "expected the letters of D H K"),
        ("D (H K + G K) (H K + G K)", [Q, KEY], "one [+] or one digit"),
        ("(H K), D", [Q], "expected letters, digits"),
        ("D C y x", [ArrayLayout((18, D), "(y x C) D")], "expected a size that fits"),
        (
            "D (F + F)",
            [ArrayLayout((D, F), "D F"), ArrayLayout((D + 1, F), "D F")],
            "one size of D",
        ),
    ],
)
def test_layouts_that_do_not_fit_are_refused(text, arrays, message) -> None:
    with pytest.raises(ValueError, match=message):
        layout.shape_of(text, arrays)
        layout.placements(text, arrays)
