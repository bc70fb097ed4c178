"""`language_model_adamw` with the MLP of Llama 2 70B (Touvron et al. 2023, arXiv
2307.09288), of 3.5 times the width and gated, for reference plans.

    PYTHONPATH=tests/planning python -m language_model_70b plan --topology=v5p:8x8x8
"""

from functools import partial

import language_model_adamw

from transformer import main
from transformer.models import decoder, defaults
from transformer.network import mlp
from transformer.training import declaration

gated = partial(
    mlp.GatedMLP,
    hidden_features=28_672,
    weight_init=defaults.fan_in_init(),
    output_init=defaults.ZERO,
)
experiment = declaration.fill(
    language_model_adamw.experiment,
    model=partial(decoder.language_model, make_mlp=gated),
)

if __name__ == "__main__":
    main.main(experiment)
