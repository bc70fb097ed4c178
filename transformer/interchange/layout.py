"""Layouts: how one tensor of a file holds one or several arrays of ours.

A layout is written in letters of `axes.ALPHABET` and lower-case letters of its own, one
group for each axis of the file's tensor:

- `(H K) D`: the first axis is H and K joined, H the slower;
- `D (H K + G K + G K)`: the second axis is three arrays one after another, those of
  `arrays` in their order;
- `(H 3 K) D`: three arrays interleaved, the digit is which.

What one letter means follows from the shapes of our arrays. A layout only permutes,
joins and cuts: `unpack` and `pack` are inverse to the bit, in any dtype.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence
from functools import cache
from typing import NamedTuple

import numpy as np

# An axis is one product of letters, or several, one after another.
Product = tuple[str, ...]
Axis = tuple[Product, ...]


@cache
def parse(layout: str) -> tuple[Axis, ...]:
    """The axes of a layout. ValueError for text that is none."""
    groups = re.findall(r"\(([^()]*)\)|(\S+)", layout)
    axes = tuple(
        tuple(tuple(product.split()) for product in (joined or single).split("+"))
        for joined, single in groups
    )
    atoms = [atom for axis in axes for product in axis for atom in product]
    if not all(re.fullmatch(r"[A-Za-z]|\d+", atom) for atom in atoms):
        raise ValueError(f"layout: expected letters, digits, ( ) and +, got {layout!r}")
    if sum(len(axis) > 1 for axis in axes) + sum(a.isdigit() for a in atoms) > 1:
        raise ValueError(f"layout: expected one + or one digit at most, got {layout!r}")
    return axes


def num_arrays(layout: str) -> int:
    """The number of our arrays that a tensor of this layout holds."""
    axes = parse(layout)
    digits = [int(a) for axis in axes for p in axis for a in p if a.isdigit()]
    return max([len(axis) for axis in axes] + digits, default=1)


class ArrayLayout(NamedTuple):
    """One array of ours: its shape, the layout of its axes (`D H K`; `(y x C) D` where
    one of ours is joined), and the sizes of letters that no shape gives."""

    shape: tuple[int, ...]
    axes: str
    sizes: Mapping[str, int] = {}

    def letter_sizes(self) -> dict[str, int]:
        """The size of each letter. ValueError where shape and letters disagree."""
        sizes, axes = dict(self.sizes), parse(self.axes)
        if len(axes) != len(self.shape):
            raise ValueError(
                f"expected {len(axes)} axes ({self.axes}), got shape {self.shape}"
            )
        for (product,), size in zip(axes, self.shape, strict=True):
            unknown = [letter for letter in product if letter not in sizes]
            known = math.prod(sizes[x] for x in product if x in sizes)
            if len(unknown) == 1 and known and size % known == 0:
                sizes[unknown[0]] = size // known
            elif unknown or known != size:
                given = {letter: sizes.get(letter) for letter in product}
                raise ValueError(
                    f"axes {self.axes}: expected a size that fits {given}, got {size}"
                )
        return sizes


class Placement(NamedTuple):
    """Where a tensor of the file holds one array: along `axis` from `start` to `stop`,
    which in elementary axes has the sizes `elementary` and the letters `letters`;
    `index` along the digit's axis. order: of those axes in ours; shape: ours."""

    axis: int
    start: int
    stop: int
    elementary: tuple[int, ...]
    digit: int | None
    index: int
    order: tuple[int, ...]
    shape: tuple[int, ...]


def _product_sizes(product: Product, sizes: Mapping[str, int]) -> list[int]:
    return [int(a) if a.isdigit() else sizes[a] for a in product]


def shape_of(layout: str, arrays: Sequence[ArrayLayout]) -> tuple[int, ...]:
    """The shape of the file's tensor that holds `arrays`."""
    placements(layout, arrays)
    sizes = [array.letter_sizes() for array in arrays]
    shape = []
    for axis in parse(layout):
        each = sizes if len(axis) > 1 else sizes[:1]
        shape.append(
            sum(
                math.prod(_product_sizes(product, letters))
                for product, letters in zip(axis, each, strict=True)
            )
        )
    for array, letters in zip(arrays, sizes, strict=True):
        for letter in set(letters) & set(sizes[0]) & _shared(layout):
            if letters[letter] != sizes[0][letter]:
                raise ValueError(
                    f"layout {layout}: expected one size of {letter}, got "
                    f"{sizes[0][letter]} and {letters[letter]} ({array.axes})"
                )
    return tuple(shape)


def _shared(layout: str) -> set[str]:
    """Letters of axes that are not cut, which all arrays have in common."""
    return {a for axis in parse(layout) if len(axis) == 1 for a in axis[0]}


def _check_count(layout: str, arrays: Sequence[ArrayLayout]) -> None:
    if len(arrays) != num_arrays(layout):
        raise ValueError(
            f"layout {layout}: expected {num_arrays(layout)} arrays, got {len(arrays)}"
        )


def placements(layout: str, arrays: Sequence[ArrayLayout]) -> list[Placement]:
    """Where the file's tensor holds each of `arrays`."""
    _check_count(layout, arrays)
    cuts = [i for i, axis in enumerate(parse(layout)) if len(axis) > 1]
    cut = cuts[0] if cuts else 0
    found, start = [], 0
    for number, array in enumerate(arrays):
        sizes = array.letter_sizes()
        products = [axis[number if len(axis) > 1 else 0] for axis in parse(layout)]
        atoms = [atom for product in products for atom in product]
        letters = [atom for atom in atoms if not atom.isdigit()]
        ours = [letter for (product,) in parse(array.axes) for letter in product]
        if sorted(letters) != sorted(ours) or len(set(ours)) != len(ours):
            raise ValueError(
                f"layout {layout}: expected the letters of {array.axes}, each once"
            )
        length = math.prod(_product_sizes(products[cut], sizes)) if products else 1
        digit = next((i for i, atom in enumerate(atoms) if atom.isdigit()), None)
        found.append(
            Placement(
                axis=cut,
                start=start if cuts else 0,
                stop=start + length if cuts else length,
                elementary=tuple(
                    size
                    for product in products
                    for size in _product_sizes(product, sizes)
                ),
                digit=digit,
                index=number if digit is not None else 0,
                order=tuple(letters.index(letter) for letter in ours),
                shape=array.shape,
            )
        )
        start += length
    return found


def unpack(tensor: np.ndarray, place: Placement) -> np.ndarray:
    """The array at `place` of the file's tensor; a view where strides allow it."""
    cut = [slice(None)] * tensor.ndim
    if tensor.ndim:
        cut[place.axis] = slice(place.start, place.stop)
    array = tensor[tuple(cut)].reshape(place.elementary)
    if place.digit is not None:
        array = array[(slice(None),) * place.digit + (place.index,)]
    return array.transpose(place.order).reshape(place.shape)


def pack(
    layout: str, arrays: Sequence[ArrayLayout], values: Sequence[np.ndarray]
) -> np.ndarray:
    """The file's tensor of our arrays: the inverse of `unpack` for each."""
    shape, places = shape_of(layout, arrays), placements(layout, arrays)
    parts = []
    for place, value in zip(places, values, strict=True):
        sizes = list(place.elementary)
        if place.digit is not None:
            del sizes[place.digit]
        in_order = [sizes[i] for i in place.order]
        inverse = np.argsort(place.order)
        parts.append(value.reshape(in_order).transpose(inverse))
    if places[0].digit is not None:
        return np.stack(parts, axis=places[0].digit).reshape(shape)
    if len(parts) == 1:
        return parts[0].reshape(shape)
    axis = places[0].axis
    flat = [
        part.reshape([*shape[:axis], place.stop - place.start, *shape[axis + 1 :]])
        for part, place in zip(parts, places, strict=True)
    ]
    return np.concatenate(flat, axis=axis)
