"""A small BERT in numpy, for sentence embeddings without torch: the MiniLM family of sentence-transformers.

The numbers are those of sentence-transformers, but for the last digit of a float32.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import orjson

from asynccache.errors import ConfigError, EmbeddingError
from asynccache.semantic.embedders._threads import InThread
from asynccache.semantic.vectors import Vector

try:
    import numpy as np
    from numpy.typing import NDArray
    from safetensors import safe_open
    from threadpoolctl import ThreadpoolController
    from tokenizers import Tokenizer
except ImportError as error:
    raise ConfigError(f"a local embedding model needs the extra asynccache[semantic]: {error}") from error

if TYPE_CHECKING:
    from typing import TypeAlias

    Floats: TypeAlias = NDArray[np.float32]

_TOKENS = 2048  # in one pass, padding included: more would only need more memory


class LocalEmbedder(InThread):
    """Embeds with a model in a folder, as sentence-transformers keeps it.

    folder: has config.json, tokenizer.json and model.safetensors of a BERT; and sentence_bert_config.json and
            1_Pooling/config.json, where its tokens are not to be cut at 256 and averaged.

    Texts are cut at `max_seq_length` tokens, as sentence-transformers does. The first call loads the model; it raises
    EmbeddingError when the folder has none.
    """

    def __init__(self, folder: str) -> None:
        super().__init__()
        self.folder = Path(folder)
        self._model: _Bert | None = None
        self._threads: Any = None

    def __repr__(self) -> str:
        return f"LocalEmbedder({str(self.folder)!r})"

    def _encode(self, texts: list[str]) -> Sequence[Vector]:
        if self._model is None:
            try:
                self._model = _Bert(self.folder)
            except Exception as error:  # files, JSON, tensors: whatever is wrong with them, there is no model
                raise EmbeddingError(f"no model that can be used in {self.folder}: {error!r}") from error
            self._threads = ThreadpoolController()
        # More would wait for each other, spinning, where the cores are not theirs alone: for a hundred times as long.
        with self._threads.limit(limits=1, user_api="blas"):
            return self._model.encode(texts)


class _Bert:
    def __init__(self, folder: Path) -> None:
        config = orjson.loads((folder / "config.json").read_bytes())
        if config["model_type"] != "bert" or config.get("hidden_act", "gelu") != "gelu":
            raise ValueError(f"a BERT with gelu is wanted, not {config['model_type']} with {config.get('hidden_act')}")
        limits = _optional(folder / "sentence_bert_config.json")
        pooling = _optional(folder / "1_Pooling" / "config.json")
        self._first = bool(pooling.get("pooling_mode_cls_token"))
        if not self._first and not pooling.get("pooling_mode_mean_tokens", True):
            raise ValueError("tokens are pooled in a way that is not known here")
        self._tokenizer = Tokenizer.from_file(str(folder / "tokenizer.json"))
        self._tokenizer.no_padding()
        self._tokenizer.enable_truncation(limits.get("max_seq_length") or 256)
        self._heads: int = config["num_attention_heads"]
        self._epsilon = np.float32(config["layer_norm_eps"])
        with safe_open(folder / "model.safetensors", framework="numpy") as tensors:
            names = set(tensors.keys())
            prefix = "" if "embeddings.word_embeddings.weight" in names else "bert."

            def read(name: str) -> Floats:
                tensor: Floats = tensors.get_tensor(prefix + name).astype(np.float32)
                return tensor

            self._words = read("embeddings.word_embeddings.weight")
            # Every text is the first of its pair.
            types = read("embeddings.token_type_embeddings.weight")[0]
            self._places = read("embeddings.position_embeddings.weight") + types
            self._norm = read("embeddings.LayerNorm.weight"), read("embeddings.LayerNorm.bias")
            layers = range(config["num_hidden_layers"])
            self._layers = [_Layer(lambda name, n=n: read(f"encoder.layer.{n}.{name}")) for n in layers]

    def encode(self, texts: list[str]) -> list[Vector]:
        tokens = [encoding.ids for encoding in self._tokenizer.encode_batch(texts)]
        order = sorted(range(len(tokens)), key=lambda at: len(tokens[at]))  # so that little is padding
        found: dict[int, Vector] = {}
        while order:
            batch = [order.pop()]  # the longest that is left
            while order and (len(batch) + 1) * len(tokens[batch[0]]) <= _TOKENS:
                batch.append(order.pop())
            found.update(zip(batch, self._forward([tokens[at] for at in batch]), strict=True))
        return [found[at] for at in range(len(texts))]

    def _forward(self, tokens: list[list[int]]) -> Floats:
        """Vectors for texts of which the first is the longest."""
        many, longest = len(tokens), len(tokens[0])
        ids = np.zeros((many, longest), np.int64)
        mask = np.zeros((many, longest), np.float32)
        for row, text in enumerate(tokens):
            ids[row, : len(text)] = text
            mask[row, : len(text)] = 1
        hidden = self._normalized(self._words[ids] + self._places[:longest], *self._norm)
        padding = ((1 - mask) * np.float32(-1e9))[:, None, None, :]
        for layer in self._layers:
            hidden = self._through(layer, hidden, padding)
        if self._first:
            return hidden[:, 0]
        pooled: Floats = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        return pooled

    def _through(self, layer: _Layer, hidden: Floats, padding: Floats) -> Floats:
        many, longest, width = hidden.shape
        size = width // self._heads
        flat = hidden.reshape(-1, width)
        mixed = (flat @ layer.attention + layer.attention_bias).reshape(many, longest, 3, self._heads, size)
        query, key, value = mixed.transpose(2, 0, 3, 1, 4)
        scores = query @ key.transpose(0, 1, 3, 2) * np.float32(size**-0.5) + padding
        scores = np.exp(scores - scores.max(-1, keepdims=True))
        scores /= scores.sum(-1, keepdims=True)
        context = (scores @ value).transpose(0, 2, 1, 3).reshape(-1, width)
        flat = self._normalized(flat + context @ layer.out + layer.out_bias, *layer.out_norm)
        inner = _gelu(flat @ layer.inner + layer.inner_bias)
        flat = self._normalized(flat + inner @ layer.outer + layer.outer_bias, *layer.outer_norm)
        return flat.reshape(many, longest, width)

    def _normalized(self, values: Floats, weight: Floats, bias: Floats) -> Floats:
        centred = values - values.mean(-1, keepdims=True)
        spread = np.sqrt((centred * centred).mean(-1, keepdims=True) + self._epsilon)
        return np.asarray(centred / spread * weight + bias, np.float32)


class _Layer:
    """The weights of one layer, as they are multiplied from the right."""

    def __init__(self, read: Any) -> None:
        parts = [f"attention.self.{part}" for part in ("query", "key", "value")]
        self.attention = np.ascontiguousarray(np.concatenate([read(f"{part}.weight") for part in parts]).T)
        self.attention_bias = np.concatenate([read(f"{part}.bias") for part in parts])
        self.out, self.out_bias, self.out_norm = self._dense(read, "attention.output")
        self.outer, self.outer_bias, self.outer_norm = self._dense(read, "output")
        self.inner = np.ascontiguousarray(read("intermediate.dense.weight").T)
        self.inner_bias = read("intermediate.dense.bias")

    @staticmethod
    def _dense(read: Any, part: str) -> tuple[Floats, Floats, tuple[Floats, Floats]]:
        weight = np.ascontiguousarray(read(f"{part}.dense.weight").T)
        norm = read(f"{part}.LayerNorm.weight"), read(f"{part}.LayerNorm.bias")
        return weight, read(f"{part}.dense.bias"), norm


def _gelu(values: Floats) -> Floats:
    result: Floats = values * (1 + _erf(values * np.float32(0.70710678))) * np.float32(0.5)
    return result


_ERF = [np.float32(c) for c in (1.061405429, -1.453152027, 1.421413741, -0.284496736, 0.254829592)]


def _erf(values: Floats) -> Floats:
    """Abramowitz and Stegun, 7.1.26: wrong by less than 1.5e-7, which a float32 hardly shows."""
    size = np.abs(values)
    t = 1 / (1 + np.float32(0.3275911) * size)
    series = np.zeros_like(t)
    for coefficient in _ERF:
        series = (series + coefficient) * t
    result: Floats = np.copysign(1 - series * np.exp(-size * size), values)
    return result


def _optional(file: Path) -> dict[str, Any]:
    found: dict[str, Any] = orjson.loads(file.read_bytes()) if file.exists() else {}
    return found


EMBEDDER = LocalEmbedder
