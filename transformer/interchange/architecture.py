"""What an architecture of another library is: a configuration, a net and a table."""

from __future__ import annotations

import importlib
from collections.abc import Callable, Collection, Mapping, Sequence
from typing import Any, NamedTuple

import flax.linen as nn

from transformer.interchange import tensor_files
from transformer.interchange.config import Reader
from transformer.interchange.table import Table
from transformer.network.moe import routing

# The module that has `ARCHITECTURE` for a model type; imported when it is asked for.
MODULES = {
    # Encoders.
    "bert": "bert",
    "clip": "clip",
    "clip_text_model": "clip_tower",
    "clip_vision_model": "clip_tower",
    "dinov2": "vit",
    "dinov2_with_registers": "vit",
    "distilbert": "distilbert",
    "modernbert": "modernbert",
    "roberta": "bert",
    "siglip": "clip",
    "siglip_text_model": "clip_tower",
    "siglip_vision_model": "clip_tower",
    "vit": "vit",
    "xlm-roberta": "bert",
    # Decoders.
    "gemma": "gemma",
    "gemma2": "gemma",
    "gemma3": "gemma",
    "gemma3_text": "gemma",
    "gpt2": "gpt2",
    "gpt_neox": "gpt_neox",
    "llama": "llama",
    "mistral": "llama",
    "olmo2": "llama",
    "phi3": "llama",
    "qwen2": "llama",
    "qwen3": "llama",
    # Trajectories and videos.
    "decision_transformer": "decision_transformer",
    "videomae": "videomae",
    # Of diffusers, by class.
    "DiTTransformer2DModel": "dit",
    "Transformer2DModel": "dit",
    # Mixtures of experts.
    "gpt_oss": "gpt_oss",
    "glm4_moe": "glm_moe",
    "mixtral": "mixtures",
    "qwen2_moe": "mixtures",
    "qwen3_moe": "mixtures",
    # Encoder-decoders.
    "marian": "marian",
    "t5": "t5",
    "whisper": "whisper",
}


class FolderFormat(NamedTuple):
    """How a library names what is in a folder. stem: of the weights' files.
    common_keys: whether `config.json` has the token ids and the dtype."""

    stem: str = tensor_files.STEM
    common_keys: bool = True


class Architecture(NamedTuple):
    """read(Reader) -> sizes, a record with a field `scanned`; write(sizes) ->
    config.json, which `read` reads back equal. net(sizes) -> a Linen module; init(net,
    key) -> its parameters; table(sizes) -> the tensors of a file. name: the class of
    transformers, such as LlamaForCausalLM. layers_repeat(sizes): whether a
    `ScannedStack` can hold them. format: of the library's folders. notes(sizes): a
    line for each thing in which the net is less than the configuration says, or than
    what transformers makes of the folder. fit(sizes, names): the sizes that the names
    of a file's tensors say, of what no configuration does; None where there is no such
    thing. mixture(sizes, dispatch): the net with another dispatch of its mixtures of
    experts; None where it has none."""

    read: Callable[[Reader], Any]
    write: Callable[[Any], Mapping[str, Any]]
    net: Callable[[Any], nn.Module]
    init: Callable[[Any, Any], Any]
    table: Callable[[Any], Table]
    name: Callable[[Any], str]
    layers_repeat: Callable[[Any], bool] = lambda sizes: True
    format: FolderFormat = FolderFormat()
    notes: Callable[[Any], Sequence[str]] = lambda sizes: ()
    fit: Callable[[Any, Collection[str]], Any] | None = None
    mixture: Callable[[Any, routing.Dispatch], nn.Module] | None = None


def find_of(config: Mapping[str, Any], where: str) -> Architecture:
    """The architecture of a configuration, by the key of its library."""
    return find(config.get("model_type", config.get("_class_name")), where)


def find(model_type: Any, where: str) -> Architecture:
    """The architecture of a configuration's `model_type`, or `_class_name` where it is
    of diffusers. ValueError for others."""
    if not isinstance(model_type, str) or model_type not in MODULES:
        # Without those of one encoder (clip_text_model): a line has few names.
        names = sorted(name for name in MODULES if not name.endswith("_model"))
        raise ValueError(
            f"{where}: model_type: expected one of {', '.join(names)}, got "
            f"{str(model_type)[:60]!r}"
        )
    package = f"{__package__}.architectures"
    return importlib.import_module(f"{package}.{MODULES[model_type]}").ARCHITECTURE
