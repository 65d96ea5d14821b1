"""PromptEncoder against what ComfyUI's own weight encoder gave for the same arithmetic network (0.3.64)."""

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from t2v_core.errors import T2VError
from t2v_core.text import PromptEncoder, WordTokenizer

PATIENT = settings(deadline=None, suppress_health_check=[HealthCheck.too_slow])  # the machine may be busy
TOKENIZER = WordTokenizer("a red green blue square up down t cat".split())


def arithmetic(ids, dtype=torch.float64):
    """Exact in float64, different at each position, and each token sees its whole chunk."""
    x = ids.to(dtype)
    features = torch.stack([x * torch.arange(1, ids.shape[1] + 1), x + x.sum(1, keepdim=True)], -1) / 4
    return features, features.sum(1)


ENCODER = PromptEncoder(arithmetic, TOKENIZER, length=9)

# prompt, the two features of each token, pooled
FEATURES = [
    ("", [0.25, 1, 0, 0, 0, 0, 0, 0, 0], [1, 1.25, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75, 0.75], [1.25, 7.5]),
    ("red square", [0.25, 2.5, 6, 2, 0, 0, 0, 0, 0], [4.25, 5.25, 6, 4.5, 4, 4, 4, 4, 4], [10.75, 40]),
    (
        "a (red square:1.5) (up)",
        [0.25, 2, 5.625, 12, 12.375, 3, 0, 0, 0],
        [7.5, 8.25, 12.375, 13.5, 10.375, 7.75, 7.25, 7.25, 7.25],
        [28.25, 72.5],
    ),
    (
        "(a b c d:-1) e f g (red up:3)",
        [0.25, 0, -2.25, -3, -3.75, 4.5, 5.25, 6, 4.5, 0.25, 5.5, 20.25, 2, 0, 0, 0, 0, 0],
        [6.5, -4.75, -5.5, -5.5, -5.5, 7, 7, 7, 6.75, 4.5, 14, 18, 4.75, 4.25, 4.25, 4.25, 4.25, 4.25],
        [31.5, 62.5],
    ),
]


@pytest.mark.parametrize(("prompt", "first", "second", "pooled"), FEATURES)
def test_features_equal_comfyui(prompt, first, second, pooled):
    cond, pool = ENCODER.encode(prompt)
    expected = torch.tensor([first, second], dtype=torch.float64).T[None]
    torch.testing.assert_close(cond, expected, rtol=1e-14, atol=0)
    torch.testing.assert_close(pool, torch.tensor([pooled], dtype=torch.float64), rtol=0, atol=0)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_the_dtype_is_the_network_s_and_emphasis_loses_nothing_more(dtype):
    encoder = PromptEncoder(lambda ids: arithmetic(ids, dtype), TOKENIZER, length=9)
    cond, pooled = encoder.encode("a (red square:1.3)")
    exact, _ = ENCODER.encode("a (red square:1.3)")
    assert cond.dtype == pooled.dtype == dtype
    torch.testing.assert_close(cond, exact.to(dtype), rtol=1e-6, atol=0)  # so half precision must agree in every bit


class Lookup(torch.nn.Module):
    def __init__(self):
        super().__init__()
        self.table = torch.nn.Parameter(torch.randn(TOKENIZER.size, 5, generator=torch.Generator().manual_seed(0)))

    def forward(self, ids):
        assert ids.device == self.table.device
        return self.table[ids], self.table[ids].mean(1)


def test_ids_go_where_the_module_is_and_nothing_needs_a_gradient():
    cond, pooled = PromptEncoder(Lookup(), TOKENIZER).encode("a red square " * 20)
    assert cond.shape == (1, 72, 5) and pooled.shape == (1, 5)
    assert not cond.requires_grad and not pooled.requires_grad
    cond, pooled = PromptEncoder(Lookup().to("meta"), TOKENIZER).network(torch.ones(1, 24, device="meta").long())
    assert cond.is_meta and pooled.is_meta


@given(st.text(max_size=300), st.sampled_from(["", "(red:1.4)", "((blue", r"\(", "up " * 30]))
@PATIENT
def test_any_prompt_encodes(text, extra):
    cond, pooled = PromptEncoder(arithmetic, TOKENIZER).encode(text + extra)
    assert cond.shape[0] == 1 and cond.shape[1] % 24 == 0 and cond.shape[2] == 2
    assert cond.isfinite().all() and pooled.shape == (1, 2)


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ("a (red square:nan) (up:1.2)", "weight nan of 'red square' is out of range"),
        ("(up:1e9) (red:1e999)", "weight inf of 'red' is out of range"),
        ("(red:-inf)", "weight -inf of 'red' is out of range"),
        ("(red:1e308) (up:1.2)", "weight 1e\\+308 of 'red' is out of range"),
        ("(" * 8000 + "red" + ")" * 8000, "weight inf of 'red' is out of range"),
    ],
)
def test_a_weight_that_breaks_the_features_is_named(prompt, message):
    with pytest.raises(T2VError, match=message):
        PromptEncoder(Lookup(), TOKENIZER).encode(prompt)


def test_an_impossible_weight_without_words_does_no_harm():
    assert torch.equal(ENCODER.encode("red (!:nan)")[0], ENCODER.encode("red")[0])


def test_a_damaged_network_is_not_blamed_on_the_prompt():
    def damaged(ids):
        return torch.full((*ids.shape, 2), torch.nan), torch.zeros(len(ids), 2)

    with pytest.raises(T2VError, match="the text encoder gave non-finite features"):
        PromptEncoder(damaged, TOKENIZER).encode("(red:1.2)")


@pytest.mark.parametrize("text", [None, 3, b"red", ["red"]])
def test_a_prompt_that_is_no_text_is_refused(text):
    with pytest.raises(T2VError, match="expected text, got"):
        ENCODER.encode(text)
