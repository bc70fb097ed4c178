"""Configurations of other libraries, read strictly: each key is understood, known to
be harmless, or refused by name."""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from typing import Any

# Keys that describe files, training, generation or other tasks, but not the function of
# the net; of every configuration of transformers 4 and 5, and of what converts them.
HARMLESS = frozenset(
    """_attn_implementation _attn_implementation_autoset _commit_hash _name_or_path
    _num_labels add_cross_attention architectures attention_dropout
    attention_probs_dropout_prob attn_implementation attn_pdrop bad_words_ids
    begin_suppress_tokens bos_token_id cache_implementation chunk_size_feed_forward
    classifier_dropout cls_token_id cross_attention_hidden_size
    decoder_start_token_id diversity_penalty do_sample dtype early_stopping embd_pdrop
    encoder_no_repeat_ngram_size eos_token_id exponential_decay_length_penalty
    finetuning_task forced_bos_token_id forced_eos_token_id gradient_checkpointing
    hidden_dropout_prob id2label initializer_factor initializer_range is_decoder
    is_encoder_decoder is_llama_config keys_to_ignore label2id length_penalty
    mask_token_id max_length min_length model_type no_repeat_ngram_size num_beam_groups
    num_beams num_return_sequences output_attentions output_hidden_states output_past
    output_scores pad_token_id prefix problem_type remove_invalid_values
    repetition_penalty resid_pdrop return_dict return_dict_in_generate sep_token_id
    suppress_tokens task_specific_params temperature tf_legacy_loss tokenizer_class
    top_k top_p torch_dtype torchscript transformers.js_config transformers_version
    typical_p unk_token_id unsloth_fixed unsloth_version use_bfloat16 use_cache
    """.split()
)
# Keys that configurations have at a value that changes nothing; others are refused.
NEUTRAL: Mapping[str, Any] = {
    "auto_map": None,
    "pruned_heads": {},
    "quantization_config": None,
    "rope_interleaved": False,
    "tie_encoder_decoder": False,
    "use_mrope": False,
}
# Why a key is refused, and what to do.
REFUSED = {
    "quantization_config": "quantized weights; dequantize them first",
    "auto_map": "code of the folder's own, which is not run; where the model is "
    "transformers' own class, remove the key",
}
MAX_LAYERS = 10_000
_MISSING = object()


class Reader:
    """A configuration whose keys are asked for one by one; `finish` refuses the rest.

    Errors are one line: the key, what was expected, what was given.
    """

    def __init__(self, values: Mapping[str, Any], where: str = "config.json") -> None:
        self.values, self.where = dict(values), where
        self._read: set[str] = set()

    def get(self, key: str, default: Any = _MISSING) -> Any:
        """The value of a key; `default`, where it is absent or null."""
        self._read.add(key)
        value = self.values.get(key)
        if value is not None:
            return value
        if default is _MISSING:
            raise ValueError(f"{self.where}: expected {key}, got none")
        return default

    def whole(self, key: str, default: Any = _MISSING, *, least: int = 1) -> int:
        """A whole number of at least `least`, at most 2^31 - 1, of layers
        `MAX_LAYERS`: nets are made layer by layer."""
        value = self.get(key, default)
        most = MAX_LAYERS if re.search(r"_layers?$", key) else 2**31 - 1
        if type(value) is not int or not least <= value <= most:
            bound = f", at most {most}" if most == MAX_LAYERS else ""
            raise self.error(key, f"a whole number of at least {least}{bound}")
        return value

    def number(self, key: str, default: Any = _MISSING) -> float:
        """A finite number."""
        value = self.get(key, default)
        is_number = type(value) in (int, float) and abs(value) <= sys.float_info.max
        if not is_number:
            raise self.error(key, "a number")
        return float(value)

    def positive(self, key: str, default: Any = _MISSING) -> float:
        """A finite number of more than 0."""
        value = self.number(key, default)
        if value <= 0:
            raise self.error(key, "a number of more than 0")
        return value

    def positive_or_none(self, key: str, default: float) -> float | None:
        """As `positive`, or None where the key is null; `default` where absent."""
        if key in self.values and self.values[key] is None:
            return self.get(key, None)
        return self.positive(key, default)

    def flag(self, key: str, default: Any = _MISSING) -> bool:
        """True or false."""
        value = self.get(key, default)
        if type(value) is not bool:
            raise self.error(key, "true or false")
        return value

    def choice(
        self, key: str, choices: Mapping[str, Any], default: Any = _MISSING
    ) -> Any:
        """What `choices` has for the value of a key."""
        value = self.get(key, default)
        if not isinstance(value, str) or value not in choices:
            raise self.error(key, f"one of {', '.join(choices)}")
        return choices[value]

    def only(self, key: str, *values: Any) -> None:
        """Refuse a key with a value that the net does not express; absent is fine."""
        self._read.add(key)
        value = self.values.get(key)
        if value is not None and value not in values:
            raise self.error(key, " or ".join(map(repr, values)))

    def error(self, key: str, expected: str) -> ValueError:
        """The error for a key of another value."""
        text = repr(self.values.get(key))
        return ValueError(f"{self.where}: {key}: expected {expected}, got {text[:60]}")

    def finish(self, harmless: Collection[str] = ()) -> None:
        """ValueError for keys that nobody asked for and that are not harmless."""
        for key, reason in REFUSED.items():
            if self.values.get(key) is not None and key not in self._read:
                raise ValueError(f"{self.where}: expected no {key} ({reason}), got one")
        for key in NEUTRAL.keys() - self._read:
            self.only(key, NEUTRAL[key])
        known = self._read | HARMLESS | set(harmless)
        unknown = sorted(k for k, v in self.values.items() if k not in known)
        if unknown:
            raise ValueError(
                f"{self.where}: expected keys that are understood, got {unknown[0]} = "
                f"{str(self.values[unknown[0]])[:60]}"
                + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            )
