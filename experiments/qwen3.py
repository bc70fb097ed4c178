"""A language model of Qwen 3's blocks, from scratch, that other libraries load.

    python -m experiments.qwen3
    python -m experiments.qwen3 export --folder=FOLDER

`AutoModelForCausalLM` and `AutoTokenizer` of transformers load FOLDER. The data, the
optimizer and the flags are those of `language_model`, whose own net has no equal there.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from experiments import language_model
from transformer import main
from transformer.generation import text_model
from transformer.interchange import export, from_net
from transformer.training.declaration import derive
from transformer.training.experiment import Experiment


@derive(language_model.experiment, model=from_net.language_model)
def experiment(**rest: Any) -> Experiment:
    """A decoder language model of a text, as `interchange.from_net.language_model`; the
    exported one has as many positions as a row has tokens."""
    made = language_model.experiment(**rest)
    model: Any = {"net": made.net, "tokenizer": made.tokenizer}
    verb = partial(from_net.export_net, **model, length=made.tokens_per_row)
    return made._replace(verbs={"export": verb})


if __name__ == "__main__":
    main.main(experiment, generate=text_model.generate, export=export.export)
