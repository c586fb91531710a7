"""A model whose right answer is arithmetic: a ring of letters that each layer turns by one place.

Written as a GGUF file of version 3 (ggml's docs/gguf.md), architecture `llama`, all weights 32-bit floats. A token's
embedding is one-hot. Attention adds nothing; each layer's feed-forward part takes the letter away and adds the next one
of the ring, so that a completion is right only if every layer on every worker was computed, once and in order.
"""

from __future__ import annotations

import random
import struct
from dataclasses import dataclass
from math import gcd
from pathlib import Path

LETTERS = "abcdefghijklmnopqrstuvwxyz_"
WIDTH = 32  # of an embedding: the letters, and room up to what vectorised code likes
_SPECIAL = ("<unk>", "<s>", "</s>")
_HEADS = 2
_ALIGNMENT = 32
_UINT32, _FLOAT32, _BOOL, _STRING, _ARRAY, _INT32 = 4, 6, 7, 8, 9, 5
_NORMAL, _UNKNOWN, _CONTROL = 1, 2, 3  # kinds of tokens
_GAIN = 16.0  # so large that SiLU is the identity to all digits


@dataclass(frozen=True)
class Ring:
    """The letters in their order, and by how many places one pass through the model turns it."""

    letters: str
    layers: int

    @classmethod
    def drawn(cls, seed: int, *, least: int = 4, most: int = 14) -> Ring:
        """A random order and number of layers; the number has no factor in common with the ring's length."""
        source = random.Random(seed)
        layers = source.choice([n for n in range(least, most + 1) if gcd(n, len(LETTERS)) == 1])
        return cls("".join(source.sample(LETTERS, len(LETTERS))), layers)

    def completion(self, prompt: str, count: int) -> str:
        """The letters that follow the prompt's last one."""
        place = self.letters.index(prompt[-1])
        return "".join(self.letters[(place + self.layers * n) % len(self.letters)] for n in range(1, count + 1))


def write(path: Path, ring: Ring, *, broken_layer: int = -1) -> None:
    """The model as a GGUF file. `broken_layer`: one that turns the ring by two places instead."""
    tokens = [*_SPECIAL, *LETTERS]
    tensors = _tensors(ring, len(tokens), broken_layer)
    head, data = bytearray(), bytearray()
    for name, (rows, columns, values) in tensors.items():
        shape = (columns, rows) if rows else (columns,)
        head += _text(name) + struct.pack("<I", len(shape)) + struct.pack(f"<{len(shape)}Q", *shape)
        head += struct.pack("<IQ", 0, len(data))  # 0: 32-bit floats
        data += struct.pack(f"<{len(values)}f", *values)
        data += bytes(-len(data) % _ALIGNMENT)
    keys = _keys(ring, tokens)
    start = b"GGUF" + struct.pack("<IQQ", 3, len(tensors), len(keys)) + b"".join(keys) + bytes(head)
    path.write_bytes(start + bytes(-len(start) % _ALIGNMENT) + bytes(data))


def _keys(ring: Ring, tokens: list[str]) -> list[bytes]:
    kinds = [_UNKNOWN, _CONTROL, _CONTROL, *(_NORMAL for _ in LETTERS)]

    def number(name: str, value: int) -> bytes:
        return _text(name) + struct.pack("<II", _UINT32, value)

    def array(name: str, kind: int, items: list[bytes]) -> bytes:
        return _text(name) + struct.pack("<IIQ", _ARRAY, kind, len(items)) + b"".join(items)

    return [
        _text("general.architecture") + struct.pack("<I", _STRING) + _text("llama"),
        _text("general.name") + struct.pack("<I", _STRING) + _text("ring"),
        number("llama.context_length", 512),
        number("llama.embedding_length", WIDTH),
        number("llama.block_count", ring.layers),
        number("llama.feed_forward_length", WIDTH),
        number("llama.attention.head_count", _HEADS),
        number("llama.attention.head_count_kv", _HEADS),
        number("llama.vocab_size", len(tokens)),
        _text("llama.attention.layer_norm_rms_epsilon") + struct.pack("<If", _FLOAT32, 1e-6),
        _text("tokenizer.ggml.model") + struct.pack("<I", _STRING) + _text("llama"),
        array("tokenizer.ggml.tokens", _STRING, [_text(t) for t in tokens]),
        array("tokenizer.ggml.scores", _FLOAT32, [struct.pack("<f", 0.0) for _ in tokens]),
        array("tokenizer.ggml.token_type", _INT32, [struct.pack("<i", kind) for kind in kinds]),
        number("tokenizer.ggml.unknown_token_id", 0),
        number("tokenizer.ggml.bos_token_id", 1),
        number("tokenizer.ggml.eos_token_id", 2),
        _text("tokenizer.ggml.add_bos_token") + struct.pack("<IB", _BOOL, 0),
        _text("tokenizer.ggml.add_space_prefix") + struct.pack("<IB", _BOOL, 0),
    ]


def _tensors(ring: Ring, tokens: int, broken_layer: int) -> dict[str, tuple[int, int, list[float]]]:
    """Name -> (rows, columns, values row by row); a vector has 0 rows."""
    square, none = WIDTH * WIDTH, [0.0] * (WIDTH * WIDTH)
    ones = [1.0] * WIDTH
    embedding = [0.0] * (tokens * WIDTH)
    for number, letter in enumerate(LETTERS):
        embedding[(len(_SPECIAL) + number) * WIDTH + ring.letters.index(letter)] = 1.0
    unit = [_GAIN if n % (WIDTH + 1) == 0 else 0.0 for n in range(square)]
    found = {"token_embd.weight": (tokens, WIDTH, embedding), "output_norm.weight": (0, WIDTH, ones)}
    for layer in range(ring.layers):
        name = f"blk.{layer}."
        found |= {f"{name}{part}_norm.weight": (0, WIDTH, ones) for part in ("attn", "ffn")}
        found |= {f"{name}attn_{part}.weight": (WIDTH, WIDTH, none) for part in ("q", "k", "v", "output")}
        found |= {f"{name}ffn_{part}.weight": (WIDTH, WIDTH, unit) for part in ("gate", "up")}
        found[f"{name}ffn_down.weight"] = (WIDTH, WIDTH, _turn(len(ring.letters), 2 if layer == broken_layer else 1))
    return {**found, "output.weight": (tokens, WIDTH, embedding)}


def _turn(size: int, places: int) -> list[float]:
    """From one letter to the next, less the letter itself. The norm makes a one-hot vector sqrt(WIDTH) large, gate and
    up each multiply that by the gain."""
    scale = 1.0 / (WIDTH * _GAIN * _GAIN)
    values = [0.0] * (WIDTH * WIDTH)
    for place in range(size):
        values[place * WIDTH + place] = -scale
        values[(place + places) % size * WIDTH + place] = scale
    return values


def _text(value: str) -> bytes:
    encoded = value.encode()
    return struct.pack("<Q", len(encoded)) + encoded
