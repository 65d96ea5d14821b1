"""The four schedule nodes against the language and the core they stand on."""

import json

import numpy as np
import pytest
import torch

TRAVEL = '{"0": "a red circle", "8": "a blue circle --neg a square"}'


@pytest.fixture
def schedules(part):
    return part("t2v_core.schedules")


@pytest.fixture
def prompts(part, host, tiny):
    """Runs T2VPromptSchedule; keywords change one of its inputs."""

    def run(text=TRAVEL, **changes):
        arguments = {
            "clip": tiny.clip,
            "num_frames": 16,
            "fps": 8.0,
            "pre_text": "",
            "app_text": "",
            "dialect": "auto",
            "blend": "as written",
            **changes,
        }
        return part("nodes").T2VPromptSchedule().encode(text=text, **arguments)

    return run


def rows_of(conditioning) -> torch.Tensor:
    [[rows, extra]] = conditioning
    assert set(extra) == {"pooled_output"} and len(extra["pooled_output"]) == len(rows)
    return rows


def test_held_prompts_are_the_encoder_s_own_rows(prompts, tiny):
    positive, negative, _, _ = prompts()
    for conditioning, texts in ((positive, ("a red circle", "a blue circle")), (negative, ("", "a square"))):
        [[rows, extra]] = conditioning
        for half, text in enumerate(texts):
            cond, pooled = tiny.clip.encode(text)
            assert torch.equal(rows[half * 8 : half * 8 + 8], cond.expand(8, -1, -1))
            assert torch.equal(extra["pooled_output"][half * 8 : half * 8 + 8], pooled.expand(8, -1))


def test_blended_prompts_follow_the_formula(prompts, tiny):
    rows = rows_of(prompts(blend="linear")[0])
    red, blue = (tiny.clip.encode(text)[0][0].double() for text in ("a red circle", "a blue circle"))
    for frame in range(16):
        share = min(frame / 8, 1)
        torch.testing.assert_close(rows[frame].double(), (1 - share) * red + share * blue, atol=1e-6, rtol=0)


def test_every_setting_changes_what_is_encoded(prompts):
    text = '0: "a red circle", 1.5s: "a blue circle", max_f: "a square"'
    base = rows_of(prompts(text)[0])
    changes = {"fps": 4.0, "pre_text": "a left", "app_text": "right", "dialect": "deforum", "blend": "slerp"}
    for name, value in changes.items():
        assert not torch.equal(base, rows_of(prompts(text, **{name: value})[0])), name
    assert rows_of(prompts(text, num_frames=24)[0]).shape[0] == 24


def test_each_text_is_encoded_once_and_counted(prompts, host, monkeypatch):
    asked, reports = [], []
    encode = host.encode
    monkeypatch.setattr(host, "encode", lambda clip, text: asked.append(text) or encode(clip, text))
    monkeypatch.setattr(host, "progress", lambda total, label: lambda done: reports.append((done, total)))
    prompts('0: "a red", 30: "a blue", 60: "a left", 90: "a right"', num_frames=120)
    assert asked == ["a red", "a blue", "a left", "a right", ""]
    assert reports == [(1, 4), (2, 4), (3, 4), (4, 4), (1, 1)]


def test_its_rows_go_into_the_sampler_and_each_frame_obeys_its_own(part, prompts, tiny):
    def sample(positive, negative):
        latent = {"samples": torch.zeros(4, 4, 4, 6)}
        sampler = part("nodes").T2VSampler()
        return sampler.sample(tiny.model, 5, 2, 2.5, "euler", "normal", positive, negative, latent, 1.0, 0.0)[0][
            "samples"
        ]

    held = prompts('{"0": "a red circle"}', num_frames=4)
    changed = prompts('{"0": "a red circle", "2": "a blue square"}', num_frames=4)
    one, other = sample(held[0], held[1]), sample(changed[0], changed[1])
    plain = part("nodes").T2VTextEncode()
    same = sample(plain.encode(tiny.clip, "a red circle")[0], plain.encode(tiny.clip, "")[0])
    torch.testing.assert_close(one, same, atol=1e-5, rtol=1e-5)
    assert not torch.allclose(one[2:], other[2:])
    wrong = prompts(num_frames=5)[0]
    with pytest.raises(part("t2v_core.errors").T2VError, match="5 rows and the latent 4 frames"):
        sample(wrong, held[1])


def test_the_preview_is_an_image_and_the_info_says_the_dialect(part, prompts, schedules):
    _, _, image, info = prompts('"0": "a red circle", "99": "x"')
    assert image.dtype == torch.float32 and image.shape == (1, 360, 640, 3)
    assert 0 <= image.min() < 0.2 and 0.8 < image.max() <= 1
    picture = part("t2v_core.schedules.preview").preview(schedules.parse_prompts('"0": "a red circle", "99": "x"'), 16)
    assert torch.equal((image[0] * 255).round().to(torch.uint8), torch.from_numpy(np.array(picture)))
    assert "dialect: fizz" in info and "blend: linear" in info and "warning: this key is frame 99" in info


def test_a_file_without_a_text_encoder_is_named_as_the_cause(part, prompts):
    with pytest.raises(part("t2v_core.errors").T2VError, match="clip: .*holds no text encoder"):
        prompts(clip=None)


@pytest.mark.parametrize(
    ("conditioning", "says"),
    [
        ([[torch.zeros(1, 2, 3), {"pooled_output": None}]] * 2, "2 pieces of conditioning"),
        ([[torch.zeros(1, 2, 3), {"attention_mask": 1, "pooled_output": None}]], "gives attention_mask beside"),
        ([[torch.zeros(2, 2, 3), {}]], "[2, 2, 3]"),
    ],
)
def test_encoders_whose_output_cannot_be_blended_are_refused(part, prompts, host, monkeypatch, conditioning, says):
    monkeypatch.setattr(host, "encode", lambda clip, text: conditioning)
    with pytest.raises(part("t2v_core.errors").T2VError) as caught:
        prompts()
    assert says in str(caught.value)


def test_an_encoder_without_a_pooled_vector_gives_none(prompts, host, monkeypatch):
    monkeypatch.setattr(host, "encode", lambda clip, text: [[torch.full((1, 2, 3), len(text)), {}]])
    [[rows, extra]] = prompts()[0]
    assert rows.shape == (16, 2, 3) and extra == {"pooled_output": None}


@pytest.mark.parametrize("name", ["T2VPromptSchedule", "T2VValueSchedule", "T2VScheduleInspect"])
def test_a_wrong_schedule_is_refused_before_the_run_with_a_caret(part, name):
    check = getattr(part("nodes"), name).VALIDATE_INPUTS
    wrong = "0:(1.0)\n5:(2.0)" if name == "T2VValueSchedule" else '{"0": "a"\n"5": "b"}'
    given = {"kind": "auto"} if name == "T2VScheduleInspect" else {}
    answer = check(text=wrong, **given).split("\n")
    assert answer[0].startswith("line 2, column 1: expected `,`")
    assert answer[1].strip() == wrong.split("\n")[1] and answer[2] == "  ^"
    assert check(text=part("nodes.schedule").VALUES, **given) is True
    assert check(text=None, **given) is True  # comes over a link
    assert "262,144 bytes" in check(text="0" * 300_000, **given)


def test_inspect_is_checked_by_the_kind_it_has(part):
    check = part("nodes").T2VScheduleInspect.VALIDATE_INPUTS
    assert check(text="a red circle", kind="auto") is True and check(text="a red circle", kind=None) is True
    assert "line 1, column 1" in check(text="a red circle", kind="values")
    assert "kind: 'both' is not in the list" in check(text="1", kind="both")


def test_texts_are_not_taken_for_dynamic_prompts(pack):
    """Their braces would be replaced on ComfyUI's page before the node sees them."""
    for name in ("T2VPromptSchedule", "T2VValueSchedule", "T2VScheduleInspect"):
        for kind, options in pack.NODE_CLASS_MAPPINGS[name].INPUT_TYPES()["required"].values():
            assert kind != "STRING" or (options["multiline"] and not options.get("dynamicPrompts"))


def test_values_are_plain_lists(part, schedules):
    text = "0:(0.5), 3:(-2.5) @hold, 5:(t)"
    values, whole, image, info = part("nodes").T2VValueSchedule().evaluate(text, 8, 8.0, "auto")
    assert type(values) is list and all(type(value) is float for value in values)
    assert values == [0.5, -0.5, -1.5, -2.5, -2.5, 5.0, 6.0, 7.0]
    assert whole == [1, -1, -2, -3, -3, 5, 6, 7] and all(type(value) is int for value in whole)
    assert image.shape == (1, 360, 640, 3) and "dialect: deforum" in info


def test_value_settings_count(part):
    evaluate = part("nodes").T2VValueSchedule().evaluate
    assert evaluate("sec*fps", 3, 4.0, "auto")[0] == [0.0, 1.0, 2.0]
    assert evaluate("sec", 3, 4.0, "auto")[0] == [0.0, 0.25, 0.5]
    assert evaluate("0:(0), 4:(4)", 3, 8.0, "deforum")[0] != evaluate("0:(0), 4:(4)", 3, 8.0, "ade")[0]


def test_values_that_are_names_or_not_finite_are_refused(part):
    node, error = part("nodes").T2VValueSchedule, part("t2v_core.errors").ScheduleError
    assert "take the quotes off" in node.VALIDATE_INPUTS(text='0:("Euler a")')
    with pytest.raises(error, match="line 1, column 1: this is not a finite number at frame 2"):
        node().evaluate("1/(t-2)", 4, 8.0, "auto")


@pytest.fixture
def patch(part, host, tiny):
    def patch(**values):
        [model] = part("nodes").T2VScheduleModel().patch(tiny.model, **values)
        return model

    return patch


def test_each_list_becomes_its_modifier(part, patch, tiny):
    diffusion = part("t2v_core.diffusion")
    model = patch(
        cfg=[2.0, 3.0],
        cfg_steps=[1.5, 1.0, 0.5],
        strength=[0.0, 1.0],
        seeds=[7, 2**64 - 1],
        temporal_attention=[1.0, 0.5],
        temporal_convolution=(0.0, 2.0),
    )
    assert set(model.modifiers) == {
        diffusion.GuidanceSchedule((2.0, 3.0), (1.5, 1.0, 0.5)),
        diffusion.StrengthSchedule((0.0, 1.0)),
        diffusion.NoiseSeeds(((0, 7), (1, 2**64 - 1)), 2),
        diffusion.TemporalStrength((1.0, 0.5), (0.0, 2.0)),
    }
    assert tiny.model.modifiers == ()


@pytest.mark.parametrize(
    ("values", "expected"),
    [
        ({"cfg": [2.0]}, ("GuidanceSchedule", (2.0,), None)),
        ({"cfg_steps": [2.0]}, ("GuidanceSchedule", None, (2.0,))),
        ({"temporal_attention": [2]}, ("TemporalStrength", (2.0,), None)),
        ({"temporal_convolution": [np.float32(0.5)]}, ("TemporalStrength", None, (0.5,))),
    ],
)
def test_what_is_not_connected_is_left_out(part, patch, values, expected):
    kind, *numbers = expected
    assert patch(**values).modifiers == (getattr(part("t2v_core.diffusion"), kind)(*numbers),)


def test_nothing_connected_changes_nothing(patch, tiny):
    assert patch() is tiny.model


def test_a_schedule_reaches_the_clip(part, patch, host, tiny):
    """A cfg that is the same at every frame is that cfg; seeds give the frames of their own noise."""
    values, whole, _, _ = part("nodes").T2VValueSchedule().evaluate("0:(4) @hold, 1:(9)", 2, 8.0, "auto")

    def sample(model, cfg=2.5, seed=5):
        texts = [host.encode(tiny.clip, text) for text in ("a red circle", "")]
        latent = {"samples": torch.zeros(2, 4, 4, 6)}
        return part("nodes").T2VSampler().sample(model, seed, 2, cfg, "euler", "normal", *texts, latent, 1.0, 0.0)[0]

    constant = sample(patch(cfg=[4.0, 4.0]))["samples"]
    torch.testing.assert_close(constant, sample(tiny.model, cfg=4.0)["samples"])
    assert not torch.allclose(constant, sample(patch(cfg=values))["samples"])
    torch.testing.assert_close(sample(patch(seeds=[9, 9]))["samples"], sample(tiny.model, seed=9)["samples"])
    assert not torch.allclose(sample(patch(seeds=whole))["samples"], sample(tiny.model, seed=9)["samples"])
    with pytest.raises(part("t2v_core.errors").T2VError, match="numbers for 3 frames and the latent has 2"):
        sample(patch(cfg=[1.0, 2.0, 3.0]))


@pytest.mark.parametrize(
    ("values", "says"),
    [
        ({"cfg": 3.0}, "cfg: 3.0 is one number; connect a list with a number for each frame"),
        ({"seeds": 3}, "seeds: 3 is one number"),
        ({"cfg": []}, "cfg: this is not a list of numbers"),
        ({"strength": ["a"]}, "strength: this is not a list of numbers"),
        ({"strength": [0.5, 1.5]}, "number 1 is 1.5"),
        ({"cfg": [float("nan")]}, "number 0 is nan"),
        ({"seeds": [1, 2.5]}, "seeds: number 1 is 2.5; whole numbers are needed"),
        ({"seeds": [1, -1]}, "seed of frame 1 is -1"),
        ({"seeds": [float("inf")]}, "seeds: number 0 is inf"),
        ({"temporal_attention": [1.0], "temporal_convolution": [1.0, 1.0]}, "they must agree"),
    ],
)
def test_lists_that_cannot_be_are_refused(part, patch, values, says):
    with pytest.raises(part("t2v_core.errors").T2VError) as caught:
        patch(**values)
    assert says in str(caught.value)


def test_inspect_gives_the_table_and_shows_it(part):
    node = part("nodes").T2VScheduleInspect
    done = node().inspect(TRAVEL, "auto", 16, 8.0, "auto")
    [shown], [result] = done["ui"]["text"], done["result"]
    lines = result.split("\n")
    assert shown == result and node.OUTPUT_NODE and json.dumps(done)
    assert lines[1] == "dialect: deforum (entries in braces, as in Deforum)"
    assert 'P1 "a red circle"' in lines and 'N2 "a square"' in lines
    assert lines[-1].split() == ["15", "1.875", "P2", "N2"] and len(lines) - lines.index("") > 16


def test_inspect_of_a_long_clip_has_a_thousand_rows(part):
    [result] = part("nodes").T2VScheduleInspect().inspect("t", "values", 1_000_000, 8.0, "auto")["result"]
    rows = result.split("\n")
    assert "every 1000 frames:" in rows and rows[-1].split()[0] == "999000" and len(result) < 100_000


@pytest.mark.parametrize("num_frames", [0, -1, 10**9])
def test_impossible_clips_that_come_over_links_are_refused(part, prompts, num_frames):
    error = part("t2v_core.errors").T2VError
    with pytest.raises(error, match="num_frames"):
        prompts(num_frames=num_frames)
    with pytest.raises(error, match="num_frames"):
        part("nodes").T2VValueSchedule().evaluate("1", num_frames, 8.0, "auto")
    with pytest.raises(error, match="num_frames"):
        part("nodes").T2VScheduleInspect().inspect("1", "auto", num_frames, 8.0, "auto")
    with pytest.raises(error, match="fps"):
        prompts(fps=float("nan"))
