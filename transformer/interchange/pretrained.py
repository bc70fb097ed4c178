"""A pretrained model for a notebook: `model = transformer.load(folder)`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import numpy as np

from transformer import axes
from transformer.generation import text_model
from transformer.interchange import (
    chat_template,
    generation_settings,
    gguf_folder,
    speech,
    tasks,
    text_to_text,
    tokenizer_conversion,
)
from transformer.interchange import tokenizer as tokenizer_
from transformer.interchange.architecture import Architecture
from transformer.interchange.folder import open_folder, read_config
from transformer.models import decoder
from transformer.models.shared_encoder_decoder import SharedEncoderDecoder
from transformer.network.precision import DecodeDtype


class PretrainedModel(NamedTuple):
    """A folder of another library: net.apply({"params": params}, ...).

    sizes: what its configuration says. tokenizer: None where it has none, and for
    encoders, whose tokenizers mark no end of a text.
    """

    folder: Path
    architecture: Architecture
    sizes: Any
    net: Any
    params: Any
    tokenizer: Any

    def generate(
        self,
        prompt: str,
        *,
        new_tokens: int = 100,
        seed: int = 0,
        decode_dtype: DecodeDtype | None = None,
        **sampling: Any,
    ) -> str:
        """The prompt and its continuation; by an encoder-decoder, the text that follows
        from it. decode_dtype and sampling: as the flags of the verb `generate`; by
        default greedy. ValueError for a folder without tokenizer."""
        if isinstance(self.net, SharedEncoderDecoder):
            if decode_dtype is not None:
                name = self.architecture.name(self.sizes)
                raise ValueError(f"decode_dtype: expected a decoder, got {name}")
            made = text_to_text.read(gguf_folder.resolve(self.folder), self.sizes)
            options = _sampling(new_tokens, seed, sampling)
            texts = [prompt]
            return text_to_text.generate_texts(
                self.net, self.params, made, texts, **options
            )[0]
        model = self._text_model(prompt, new_tokens)
        return self._complete(model, prompt, new_tokens, seed, decode_dtype, sampling)

    def chat(
        self,
        messages: Sequence[Mapping[str, str]],
        *,
        new_tokens: int = 100,
        seed: int = 0,
        decode_dtype: DecodeDtype | None = None,
        **sampling: Any,
    ) -> str:
        """The reply to messages, each with a `role` (system, user, assistant) and a
        `content`, by the chat template of the folder. decode_dtype, sampling: as of
        `generate`. ValueError as `chat_template.render_chat`."""
        self._text_model("", new_tokens)
        prompt = chat_template.render_chat(self.folder, messages)
        model = self._text_model(prompt, new_tokens)._replace(refused=(), starts=())
        options = new_tokens, seed, decode_dtype, sampling
        return self._complete(model, prompt, *options)[len(prompt) :]

    def _text_model(self, prompt: str, new_tokens: int) -> text_model.TextModel:
        if not isinstance(self.net, decoder.Decoder):
            name = type(self.net).__name__
            raise ValueError(f"{self.folder}: expected a decoder, got {name}")
        if self.tokenizer is None:
            raise ValueError(f"{self.folder}: expected a tokenizer.json, got none")
        tokens = *self.tokenizer.starts, *self.tokenizer.encode(prompt)
        length = len(tokens) + new_tokens
        return text_model.from_net(
            self.net, self.tokenizer, sequence_length=length, compute_dtype="float32"
        )

    def _complete(
        self,
        model: text_model.TextModel,
        prompt: str,
        new_tokens: int,
        seed: int,
        decode_dtype: DecodeDtype | None,
        sampling: Mapping[str, Any],
    ) -> str:
        if decode_dtype is not None:
            model = text_model.narrow(model, self.params, decode_dtype)
        # Says what is not followed.
        generation_settings.read(gguf_folder.resolve(self.folder))
        options = _sampling(new_tokens, seed, sampling)
        return text_model.complete(model, self.params, [prompt], **options)[0]

    def embed(
        self,
        texts: Sequence[str],
        *,
        pooling: str | None = None,
        normalize: bool = False,
    ) -> np.ndarray:
        """Vectors [N, D] of texts, as the verb `embed` makes them. ValueError for a
        model that is no text encoder."""
        model = self._model("embed")
        how = {"normalize": normalize}
        return tasks.vectors_of(model, self.params, texts, pooling, **how)[1]

    def classify(
        self,
        inputs: Sequence[str | Path],
        *,
        labels: Sequence[str] = (),
    ) -> list[dict[str, float]]:
        """Probabilities of the classes, by their names, of each of the texts, or of the
        image files. labels: the classes as texts, for CLIP and SigLIP. ValueError for
        other models, and where `labels` do not fit the model."""
        model = self._model("classify")
        names, found = tasks.probabilities(model, self.params, inputs, labels)
        return [dict(zip(names, map(float, row), strict=True)) for row in found]

    def transcribe(
        self,
        *files: Path | str,
        language: str | None = None,
        task: speech.SpeechTask = "transcribe",
    ) -> list[speech.Transcript]:
        """The texts of sound files, as the verb `transcribe` makes them. ValueError for
        a model that is no Whisper."""
        self._model("transcribe")
        return speech.transcribe(
            self.folder,
            self.net,
            self.sizes,
            self.params,
            files,
            language=language,
            task=task,
        )

    def _model(self, verb: str) -> tasks.Model:
        """The model without parameters; ValueError where it does not offer `verb`."""
        model = tasks.Model(self.folder, self.architecture, self.sizes, self.net)
        if not tasks.TASKS[verb].applies(model):
            raise ValueError(f"{self.folder}: {model.name} does not {verb}")
        return model


def _sampling(new_tokens: int, seed: int, flags: Mapping[str, Any]) -> dict[str, Any]:
    choose = text_model.sampler_from_flags(**{"temperature": 0.0, **flags})
    return {"choose": choose, "new_tokens": new_tokens, "key": jax.random.key(seed)}


def load(folder: Path) -> PretrainedModel:
    """The model in `folder`, in float32 on all devices; layers are scanned where they
    are equal. Raises ValueError as `folder.open_folder`."""
    made, sizes = read_config(folder)
    sizes = sizes._replace(scanned=made.layers_repeat(sizes))
    opened = open_folder(folder, scanned=sizes.scanned)
    place = gguf_folder.resolve(folder)
    reads = isinstance(opened.net, decoder.Decoder) and tokenizer_conversion.can_read(
        place
    )
    tokenizer = tokenizer_.read_tokenizer(folder) if reads else None
    params = opened.read_params(axes.make_mesh())
    return PretrainedModel(folder, made, sizes, opened.net, params, tokenizer)
