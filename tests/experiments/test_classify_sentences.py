"""Classification of sentences, and the page that explains it."""

from __future__ import annotations

import re
from functools import partial
from pathlib import Path

import jax
import pytest
import short_training

from experiments import classify_sentences
from transformer import storage
from transformer.models import encoder

ROOT = Path(__file__).resolve().parents[2]
LINES = [
    f"{text} {number}\t{label}"
    for number in range(40)
    for text, label in (("good and lovely", "positive"), ("bad and ugly", "negative"))
]


@pytest.fixture
def reviews(tmp_path: Path) -> Path:
    path = tmp_path / "reviews.tsv"
    path.write_text("\n".join(LINES) + "\n")
    return path


def test_a_file_of_labeled_text_is_learned_and_reported(reviews: Path) -> None:
    experiment = classify_sentences.experiment(
        partial(encoder.text_classifier, depth=1),
        source=str(reviews),
        batch_size=16,
        steps=16,
        dtype="float32",
    )
    assert experiment.data.labels == ("negative", "positive")
    trained = short_training.train(experiment)
    assert trained.ratio(3) < 0.5
    files = experiment.report(trained.params, jax.random.key(0))
    assert files["results.json"] == {"accuracy": 1.0, "accuracy/char_ngrams": 1.0}
    assert files["mistakes.txt"] == ""


def test_other_data_is_encoded_by_the_tokenizer_of_the_run(
    reviews: Path, tmp_path: Path
) -> None:
    """A tokenizer of its own would give the ids another meaning, and where it has as
    many tokens nothing would say so."""
    make = partial(classify_sentences.experiment, steps=2, batch_size=2)
    run = make(source=str(reviews))
    other = tmp_path / "other.tsv"
    other.write_text("\n".join(LINES).replace("ugly", "awkward"))
    assert make(source=str(other)).tokenizer.hash != run.tokenizer.hash
    storage.commit_files(tmp_path / "run", run.extra_files)
    again = make(source=str(other), workdir=tmp_path / "run")
    assert again.tokenizer.hash == run.tokenizer.hash


def test_the_page_explains_each_line_of_the_file() -> None:
    """The code blocks of the section together are the file of at most 50 lines."""
    file = ROOT / "experiments" / "classify_sentences.py"
    page = (ROOT / "CONTRIBUTING.md").read_text()
    section = page.split("## Add an experiment in 50 lines\n")[1].split("\n## ")[0]
    blocks = re.findall(r"```python\n(.*?)```", section, re.S)
    code = file.read_text()
    assert code.count("\n") <= 50

    def lines(text: str) -> list[str]:
        return [line for line in text.splitlines() if line]

    assert lines("".join(blocks)) == lines(code)
