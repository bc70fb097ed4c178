"""Make the fixture of images as processors of transformers prepare them.

pip install -e '.[reference]' pillow && python tests/interchange/make_input_fixtures.py

Without torchvision, so that Pillow resizes. `preprocessing.json` has the files that the
processors write, `preprocessing.npz` an image and what each makes of it.
"""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import transformers  # pyright: ignore[reportMissingImports]

FOLDER = Path(__file__).parent / "fixtures"
SQUARE = {"height": 12, "width": 12}
PROCESSORS = {
    "vit": transformers.ViTImageProcessor(size=SQUARE),
    "siglip": transformers.SiglipImageProcessor(size=SQUARE),
    "clip": transformers.CLIPImageProcessor(
        size={"shortest_edge": 14}, crop_size=SQUARE
    ),
    "dinov2": transformers.BitImageProcessor(
        size={"shortest_edge": 17}, crop_size=SQUARE, do_normalize=False
    ),
}


def main() -> None:
    rng = np.random.default_rng(3)
    smooth = np.cumsum(rng.normal(0, 12, (29, 37, 3)), axis=1) + 128
    image = smooth.clip(0, 255).astype(np.uint8)
    arrays, files = {"image": image}, {}
    for name, processor in PROCESSORS.items():
        found = processor(image, return_tensors="np", input_data_format="channels_last")
        arrays[name] = np.asarray(found["pixel_values"])[0]
        files[name] = json.loads(processor.to_json_string())
    np.savez_compressed(FOLDER / "preprocessing.npz", **arrays)
    text = json.dumps(files, indent=1, sort_keys=True)
    (FOLDER / "preprocessing.json").write_text(text)


if __name__ == "__main__":
    main()
