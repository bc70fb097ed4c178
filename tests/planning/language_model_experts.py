"""`language_model_adamw` with a mixture of 16 experts of the dense MLP's size in each
block, two for each token, for reference plans.

    PYTHONPATH=tests/planning python -m language_model_experts plan --topology=v5e:16x16

Without the losses of the router, which cost nothing beside the experts.
"""

from typing import Any

import language_model_adamw

from transformer import main
from transformer.models import decoder, moe
from transformer.training import declaration


def model(*, width: int, **sizes: Any) -> Any:
    make_mlp = moe.expert_mlp(
        width=width,
        experts=16,
        experts_per_token=2,
        expert_width=4 * width,
        capacity_factor=1.25,
    )
    return decoder.language_model(width=width, make_mlp=make_mlp, **sizes)


experiment = declaration.fill(language_model_adamw.experiment, model=model)

if __name__ == "__main__":
    main.main(experiment)
