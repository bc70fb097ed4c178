"""Configurations of other libraries, read strictly: each key is understood, known to
be harmless, or refused by name."""

from __future__ import annotations

import sys
from collections.abc import Collection, Mapping
from typing import Any

# Keys that describe files, training or generation, but not the function of the net.
HARMLESS = frozenset(
    """_name_or_path architectures attention_dropout attn_pdrop bos_token_id
    classifier_dropout dtype embd_pdrop eos_token_id hidden_dropout_prob
    attention_probs_dropout_prob id2label label2id initializer_factor
    initializer_range is_encoder_decoder is_decoder add_cross_attention keys_to_ignore
    model_type output_attentions output_hidden_states pad_token_id problem_type
    resid_pdrop return_dict sep_token_id task_specific_params tf_legacy_loss
    torch_dtype transformers_version use_cache gradient_checkpointing
    chunk_size_feed_forward
    """.split()
)
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
        """A whole number of at least `least`, at most 2^31 - 1."""
        value = self.get(key, default)
        if type(value) is not int or not least <= value <= 2**31 - 1:
            raise self.error(key, f"a whole number of at least {least}")
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
        for key in ("quantization_config", "auto_map"):
            if self.values.get(key) is not None and key not in self._read:
                raise ValueError(
                    f"{self.where}: expected no {key} (quantized weights, or code of "
                    "the folder's own), got one"
                )
        known = self._read | HARMLESS | set(harmless)
        unknown = sorted(k for k, v in self.values.items() if k not in known)
        if unknown:
            raise ValueError(
                f"{self.where}: expected keys that are understood, got {unknown[0]} = "
                f"{str(self.values[unknown[0]])[:60]}"
                + (f" and {len(unknown) - 1} more" if len(unknown) > 1 else "")
            )
