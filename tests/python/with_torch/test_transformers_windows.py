"""flashc.transformers: causal masks with windows and padding are positions, never masks; tiny random models against
eager."""

import os

os.environ["HF_HUB_OFFLINE"] = "1"

import pytest

torch = pytest.importorskip("torch", reason="these tests need torch, which is not installed")
transformers = pytest.importorskip("transformers", reason="these tests need transformers, which is not installed")

from transformers import masking_utils

import flashc.transformers
from flashc.transformers import _mask, _Positions

NAME = "flashc"
WINDOW = 6
NEW_TOKENS = 10
SMALL = dict(vocab_size=211, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
             num_key_value_heads=2, head_dim=16, max_position_embeddings=256, initializer_range=0.3, bos_token_id=None,
             eos_token_id=None, pad_token_id=0, sliding_window=WINDOW)


@pytest.fixture(autouse=True, scope="module")
def registered():
    flashc.transformers.register(NAME)


@pytest.fixture(autouse=True)
def forward_only():
    torch.manual_seed(5)
    with torch.no_grad():
        yield


@pytest.fixture
def windows(monkeypatch):
    """The windows of the calls that reached flashc; making a mask fails."""
    seen, real = [], flashc.transformers.attention

    def spy(*args, **kwargs):
        seen.append(kwargs.get("window"))
        return real(*args, **kwargs)

    def no_mask(*args, **kwargs):
        raise AssertionError("a mask was made")

    monkeypatch.setattr(flashc.transformers, "attention", spy)
    monkeypatch.setattr(flashc.transformers, "sdpa_mask", no_mask)
    return seen


def mistral():
    return transformers.MistralForCausalLM(transformers.MistralConfig(**SMALL)).eval()


def gemma2():
    """One layer with a window, one without; both capped."""
    config = transformers.Gemma2Config(**SMALL, query_pre_attn_scalar=16, attn_logit_softcapping=5.0,
                                       final_logit_softcapping=None)
    assert config.layer_types == ["sliding_attention", "full_attention"]
    return transformers.Gemma2ForCausalLM(config).eval()


def gpt_oss():
    """The same with sinks."""
    config = transformers.GptOssConfig(**SMALL, num_local_experts=2, num_experts_per_tok=1)
    model = transformers.GptOssForCausalLM(config).eval()
    for layer in model.model.layers:
        torch.nn.init.normal_(layer.self_attn.sinks)
    return model


def prompts(kind):
    ids = torch.randint(1, 211, (2, 14))
    mask = torch.ones_like(ids)
    if kind == "left-padded":
        mask[1, :9] = 0
    return dict(input_ids=ids * mask, attention_mask=mask)


@pytest.mark.parametrize("cache", ("dynamic", "static"))
@pytest.mark.parametrize("kind", ("whole", "left-padded"))
@pytest.mark.parametrize("make", (mistral, gemma2, gpt_oss))
def test_generation_is_that_of_eager(make, kind, cache, request):
    model, given = make(), prompts(kind)

    def generate(implementation):
        model.set_attn_implementation(implementation)
        return model.generate(**given, max_new_tokens=NEW_TOKENS, do_sample=False, cache_implementation=cache,
                              return_dict_in_generate=True, output_logits=True)

    want = generate("eager")
    windows = request.getfixturevalue("windows")
    found = generate(NAME)
    assert torch.equal(found.sequences, want.sequences)
    torch.testing.assert_close(torch.stack(found.logits), torch.stack(want.logits), rtol=1e-4, atol=1e-4)
    layers = 1 if make is not mistral else 2
    # The prompt is longer than the window. Later calls hide by it unless the cache has dropped the rest.
    assert windows.count((WINDOW - 1, 0)) >= layers


@pytest.mark.parametrize("make", (mistral, gemma2, gpt_oss))
def test_logits_in_pieces_equal_logits_at_once(make, windows):
    """A prompt longer than the window that comes in pieces, over both kinds of cache."""
    model = make()
    model.set_attn_implementation(NAME)
    ids = torch.randint(1, 211, (2, 30))
    want = model(ids).logits
    for cache in (transformers.DynamicCache(config=model.config),
                  transformers.StaticCache(config=model.config, max_cache_len=64)):
        pieces = [model(piece, past_key_values=cache, use_cache=True).logits
                  for piece in ids.split((13, 5, 1, 11), dim=1)]
        torch.testing.assert_close(torch.cat(pieces, dim=1), want, rtol=1e-4, atol=1e-4)


def cases():
    """(q_length, kv_length, q_offset, kv_offset): prefill, its continuation, caches that are not full, or have
    dropped."""
    for sizes in ((9, 9, 0, 0), (4, 9, 5, 0), (1, 9, 8, 0), (4, 20, 3, 0), (1, 20, 3, 0), (3, 8, 20, 15),
                  (1, 6, 11, 6)):
        for window in (0, 1, 4, 30):
            for pads in (None, [0, 0], [0, 2]):
                yield (*sizes, window, pads)


@pytest.mark.parametrize("q_length, kv_length, q_offset, kv_offset, window, pads", list(cases()))
def test_positions_say_what_the_mask_says(q_length, kv_length, q_offset, kv_offset, window, pads):
    function = masking_utils.causal_mask_function
    if window:
        function = masking_utils.sliding_window_causal_mask_function(window)
    padding = None
    if pads is not None:
        padding = torch.ones(2, q_offset + q_length, dtype=torch.bool)
        for row, pad in zip(padding, pads):
            row[:kv_offset + pad] = False
    arguments = dict(q_offset=q_offset, kv_offset=kv_offset, mask_function=function, attention_mask=padding,
                     local_size=window or None)
    dense = masking_utils.sdpa_mask(2, q_length, kv_length, **arguments, allow_is_causal_skip=False)
    found = _mask(2, q_length, kv_length, **arguments)
    attend = transformers.AttentionInterface._global_mapping[NAME]
    query, key = torch.randn(2, 4, q_length, 8), torch.randn(2, 2, kv_length, 8)
    part = torch.nn.Module()
    part.is_causal = True
    want, _ = attend(part, query, key, key, dense)
    ours, _ = attend(part, query, key, key, found)
    torch.testing.assert_close(ours, want, rtol=1e-5, atol=1e-5)
    if found is not None:
        assert type(found) is _Positions and found.shape == dense.shape and found.dtype == torch.bool
        # Models that cut or combine the mask get the mask.
        assert torch.equal(found[:, :, :, :kv_length - 1], dense[:, :, :, :kv_length - 1])
        assert torch.equal(found & True, dense) and torch.equal(torch.cat([found, found]), torch.cat([dense, dense]))


def test_other_masks_are_masks():
    both = masking_utils.and_masks(masking_utils.causal_mask_function, masking_utils.causal_mask_function)
    chunked = masking_utils.chunked_causal_mask_function(4, torch.zeros(2, dtype=torch.int64))
    packed = torch.ones(2, 9, dtype=torch.bool)
    packed[0, 4] = False  # a hole
    for options in (dict(mask_function=both), dict(mask_function=chunked, local_size=4), dict(attention_mask=packed)):
        found = _mask(2, 9, 9, **options, allow_is_causal_skip=False)
        assert type(found) is torch.Tensor, options


def test_compiled_models_keep_the_operator_whole():
    """softcap and sinks in one graph, without a break."""
    for make in (gemma2, gpt_oss):
        model = make()
        model.set_attn_implementation(NAME)
        ids = torch.randint(1, 211, (2, 9))
        want = model(ids, use_cache=False).logits
        found = torch.compile(model, backend="aot_eager", fullgraph=make is gemma2)(ids, use_cache=False).logits
        torch.testing.assert_close(found, want, rtol=1e-4, atol=1e-4)
