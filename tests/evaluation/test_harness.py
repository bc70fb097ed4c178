"""Tasks of lm-evaluation-harness have the scores of our own logits."""

from __future__ import annotations

import importlib.util
import json
from pathlib import Path

import pretrained_folder
import pytest

from transformer import language_scores
from transformer.evaluation import harness, log_likelihood

missing = pytest.mark.skipif(
    importlib.util.find_spec("lm_eval") is None,
    reason="needs the package lm-eval: pip install lm-eval",
)
TASK = """task: local_choice
dataset_path: json
dataset_kwargs:
  data_files:
    test: {path}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list:
  - metric: acc
    aggregation: mean
    higher_is_better: true
"""
ROWS = [
    {"question": "the hen", "choices": [" runs", " eats", " he"], "answer": 1},
    {"question": "a cat", "choices": ["s", " is", " a"], "answer": 0},
    {"question": "it", "choices": [" is", "s", " he"], "answer": 2},
]


@pytest.fixture(scope="module")
def requests(tmp_path_factory: pytest.TempPathFactory) -> harness.Requests:
    path = tmp_path_factory.mktemp("model") / "llama"
    return harness.Requests(pretrained_folder.language_model(path))


def test_options_are_understood_or_refused() -> None:
    parse = harness.parse_options
    assert parse({"until": "\n"}) == (("\n",), 256, (("temperature", 0.0),))
    assert parse({"max_gen_toks": 3, "do_sample": False}).new_tokens == 3
    sampled = parse({"do_sample": True, "top_p": 0.9})
    assert dict(sampled.sampling) == {"temperature": 1.0, "top_p": 0.9}
    assert dict(parse({"temperature": 0.5}).sampling) == {"temperature": 0.5}
    with pytest.raises(ValueError, match="got num_beams"):
        parse({"num_beams": 4})
    with pytest.raises(ValueError, match="until: expected text, got an empty string"):
        parse({"until": [""]})


def test_a_line_has_each_number_and_its_error() -> None:
    metrics = {"alias": "t", "acc,none": 0.5, "acc_stderr,none": 0.1, "sample_len": 4}
    metrics |= {"perplexity,none": 9.0, "perplexity_stderr,none": "N/A"}
    assert language_scores.result_lines({"t": metrics}) == [
        "t: acc,none 0.5000 ± 0.1000",
        "t: perplexity,none 9.0000",
    ]


def test_a_long_text_is_the_sum_of_its_windows(requests) -> None:
    """Each token once; a context that does not fit is cut, and counted."""
    model, text = requests.model, "the hen and the cat " * 9
    ids = model.tokenizer.encode(text).tolist()
    assert len(ids) > 2 * model.length
    windows = log_likelihood.rolling_windows(ids, model.length, model.prefix)
    expected = sum(s.log_likelihood for s in requests.score(windows))
    short, long = requests.rolling_log_likelihoods(["a", text])
    assert long == pytest.approx(expected) and short > long
    assert requests.clipped == 0
    (cut,) = requests.log_likelihoods([(text, "dog")])
    (again,) = requests.log_likelihoods([(text[-100:], "dog")])
    assert cut == pytest.approx(again) and requests.clipped == 2


def test_completions_end_at_a_string(requests) -> None:
    (whole,) = requests.completions([("the hen", {"max_gen_toks": 16})])
    until = {"until": [whole[2]], "max_gen_toks": 16}
    expected = whole[: whole.index(whole[2])]
    assert requests.completions([("the hen", until)]) == [expected]
    with pytest.raises(ValueError, match="max_gen_toks: expected less than 64"):
        requests.completions([("the hen", {})])


TEMPLATE = """{% for one in messages %}<|turn|>{{ one.role }} {{ one.content }}{% \
endfor %}{% if add_generation_prompt %}<|turn|>{% endif %}"""


def test_messages_are_written_by_the_template_of_the_folder(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match="expected chat_template.jinja, or chat_templ"):
        language_scores.chat_writer(tmp_path)
    (tmp_path / "chat_template.jinja").write_text(TEMPLATE)
    write = language_scores.chat_writer(tmp_path)
    messages = [{"role": "user", "content": "the hen"}]
    assert write(messages, True) == "<|turn|>user the hen<|turn|>"
    assert write(messages, False) == "<|turn|>user the hen"


def test_a_missing_package_is_named(monkeypatch) -> None:
    def fail(name: str) -> None:
        raise ImportError(name)

    monkeypatch.setattr(harness.importlib, "import_module", fail)
    with pytest.raises(ValueError, match="expected the package lm-eval, got none; pip"):
        language_scores.lm_eval(Path("x"), tasks="arc_easy")


def test_a_file_that_cannot_be_written_is_refused_before_the_tasks(tmp_path) -> None:
    for file in (tmp_path, tmp_path / "none" / "scores.json"):
        with pytest.raises(ValueError, match="--output: expected a file in a folder"):
            language_scores.lm_eval(tmp_path, tasks="arc_easy", output=file)


@missing
@pytest.mark.filterwarnings("default")
def test_a_task_of_a_local_file_has_the_accuracy_by_hand(
    requests, tmp_path, monkeypatch
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "cache"))
    path = tmp_path / "test.jsonl"
    path.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    (tmp_path / "task.yaml").write_text(TASK.format(path=path))
    found = harness.evaluate(requests, ["local_choice"], include_path=str(tmp_path))
    right = 0
    for row in ROWS:
        pairs = [(row["question"], choice) for choice in row["choices"]]
        sums = [value for value, _ in requests.log_likelihoods(pairs)]
        right += sums.index(max(sums)) == row["answer"]
    assert found["local_choice"]["acc,none"] == pytest.approx(right / len(ROWS))

    def chat(messages, reply: bool) -> str:
        assert reply and [one["role"] for one in messages] == ["user"]
        return f"<|turn|>{messages[0]['content']}<|turn|>"

    options = {"include_path": str(tmp_path), "chat": chat}
    found = harness.evaluate(requests, ["local_choice"], **options)
    right = 0
    for row in ROWS:
        context = chat([{"role": "user", "content": row["question"]}], True)
        pairs = [(context, choice) for choice in row["choices"]]
        sums = [value for value, _ in requests.log_likelihoods(pairs)]
        right += sums.index(max(sums)) == row["answer"]
    assert found["local_choice"]["acc,none"] == pytest.approx(right / len(ROWS))
    with pytest.raises(ValueError, match="--tasks: expected names of tasks"):
        harness.evaluate(requests, ["no_such_task"], include_path=str(tmp_path))
