"""A model of another library: use it, and train a language model further.

    python -m experiments.pretrained generate --init_from=FOLDER --prompt="It is"
    python -m experiments.pretrained generate --init_from=FOLDER --chat --prompt="Hello"
    python -m experiments.pretrained evaluate --init_from=FOLDER --text=austen
    python -m experiments.pretrained --init_from=FOLDER --text=my_novel.txt
    python -m experiments.pretrained export --folder=OTHER_FOLDER
    python -m experiments.pretrained export --folder=OTHER_FOLDER --format=gguf

FOLDER is one of Hugging Face: config.json, safetensors and tokenizer.json, or a GGUF
file, of an architecture in `transformer/interchange/architecture.py`; other kinds of
model offer the verbs of `transformer/interchange/tasks.py`. A run folder has a copy of
all but the weights, so it can be gone once a run has begun.
"""

from __future__ import annotations

from functools import partial
from typing import Any

from experiments import language_model
from transformer import checks, main
from transformer.data.sources import text as text_source
from transformer.generation import text_model
from transformer.interchange import chat, export, pretrained_run, tasks, tokenizer
from transformer.models import decoder
from transformer.training import optimizers
from transformer.training.declaration import declare
from transformer.training.experiment import Experiment, Optimizer, Run


@declare(imports=True, steps=50, batch_size=4, learning_rate=5e-5, weight_decay=0.0)
def experiment(
    run: Run,
    optimizer: Optimizer = optimizers.adamw,
    *,
    text: checks.Source = "austen",
    text_column: checks.Source = text_source.COLUMN,
    sequence_length: checks.SequenceLength = 256,
) -> Experiment:
    """A model of another library; a decoder is trained to predict the next token.

    Args:
        text: a shipped text, a TFDS name, or a path, as of language_model.
        text_column: of a table, its column of texts.
        sequence_length: tokens of a row, and of a prompt with its new tokens.
    """
    pretrained = pretrained_run.read(run.workdir, run.init_from)
    place, net = pretrained.model.folder, pretrained.model.net
    # A masked language model would see the token that it is to predict.
    if not isinstance(net, decoder.Decoder):
        return Experiment.without_training(run, **pretrained.fields())
    text_tokenizer = tokenizer.read_tokenizer(place)
    # What `declare` adds to every experiment is added to this one.
    own = ("freeze", "ema_decay", "state_dtype", "gradient_dtype", "init_from")
    settings: Any = {n: v for n, v in run._asdict().items() if n not in own}
    trained = language_model.experiment(
        lambda **sizes: net,
        optimizer,
        lambda kind, documents, **sizes: text_tokenizer,
        text=text,
        text_column=text_column,
        sequence_length=sequence_length,
        **settings,
    )
    generator = text_model.from_net(
        net,
        text_tokenizer,
        sequence_length=sequence_length,
        compute_dtype=run.compute_dtype,
    )
    generate = partial(chat.generate, place, generator)
    facts = decoder.summary(net)
    own_fields = pretrained.fields()
    return trained._replace(**own_fields, generate=generate, derived=facts)


if __name__ == "__main__":
    main.main(experiment, export=export.export, **tasks.all_verbs())
