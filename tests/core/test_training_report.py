"""The evaluation's figures, tables, plots and sheets; and that the same clips come out of any number of processes."""

from __future__ import annotations

import csv
import io
from dataclasses import asdict, replace

import pytest
import torch
from PIL import Image
from scipy import stats

from t2v_core.checkpoints import load_bundled, save_bundled
from t2v_core.errors import T2VError
from t2v_core.models.autoencoder import Autoencoder
from t2v_core.models.text_encoder import TextEncoder, TextEncoderConfig
from t2v_core.models.unet3d import UNet3D
from t2v_core.training import autoencoder, denoiser, text
from t2v_core.training.clips.captions import vocabulary
from t2v_core.training.clips.mixture import Change as DrawnChange
from t2v_core.training.clips.mixture import draw_change
from t2v_core.training.clips.scenes import FRAMES, Scene, Thing, draw, sample_clip
from t2v_core.training.evaluation.changing import (
    AT,
    Blend,
    Change,
    Switch,
    blend_list,
    blends,
    places,
    switch_list,
    switched,
    switches,
)
from t2v_core.training.evaluation.detect import read, read_frames
from t2v_core.training.evaluation.evaluate import Result, Settings, evaluate, generate, generate_changing
from t2v_core.training.evaluation.measures import Steadiness, ranks, spearman, steadiness, wilson
from t2v_core.training.evaluation.plot import COLOURS as LINE_COLOURS
from t2v_core.training.evaluation.plot import plot_csv
from t2v_core.training.evaluation.prompts import Prompt, load_prompts
from t2v_core.training.evaluation.report import report, run, write_report
from t2v_core.training.evaluation.sheets import GREEN, RED, Row, contact_sheet, film_strip, sheet, sheet_png
from t2v_core.training.evaluation.tables import (
    confusion_table,
    sensitivity_table,
    set_table,
    side_table,
    steadiness_table,
    value_table,
)
from t2v_core.training.pack import LATENT_SCALE, NATIVE

SWITCHES, BLENDS = switch_list(), blend_list()
STRIP = film_strip(torch.rand(16, 32, 32, 3, generator=torch.Generator().manual_seed(0)))
RED_CIRCLE = Scene((Thing("red", "circle", "right"),), "white")
TWO = Scene((Thing("red", "circle", "up"), Thing("blue", "star", "still")), "navy")


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    """What the processes have; and the clips here are too small for more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def result(wanted: Scene, seen: Scene, said: set[str], name: str = "held out", **wrong: bool) -> Result:
    """A hand-made one: right but for what is named in `wrong`, blanks as underscores."""
    prompt = Prompt(name, "a prompt", wanted, frozenset(said), 16, 1000)
    right = {each: each.replace(" ", "_") not in wrong for each in sorted(prompt.judged)}
    same = len(wanted.things) == len(seen.things)
    steady = Steadiness(0.9, 0.01, 0.5) if same else None
    return Result(prompt, right, seen, steady, Steadiness(0.98, 0.0, 0.25), STRIP)


LOOKS = {"colour", "shape", "motion", "background"}
RESULTS = [
    result(RED_CIRCLE, RED_CIRCLE, LOOKS),
    result(RED_CIRCLE, replace(RED_CIRCLE, things=(Thing("red", "star", "right"),)), LOOKS, shape=True),
    result(RED_CIRCLE, Scene((), "white"), {"shape", "background"}, count=True, shape=True),
    result(TWO, TWO, LOOKS | {"second colour", "second shape", "second motion"}, "two", right_colour=True),
]


def cells(markdown: str) -> list[list[str]]:
    rows = [[cell.strip() for cell in line.strip("|").split("|")] for line in markdown.splitlines()]
    assert len({len(row) for row in rows}) == 1
    return [rows[0], *rows[2:]]


@pytest.mark.parametrize(("right", "count"), [(96, 100), (0, 10), (10, 10), (1, 3), (380, 400)])
def test_wilson(right, count):
    expected = stats.binomtest(right, count).proportion_ci(method="wilson")
    assert wilson(right, count) == pytest.approx((expected.low, expected.high), abs=1e-6)


def test_wilson_of_a_known_share_and_of_none():
    assert wilson(96, 100) == pytest.approx((0.9016, 0.9843), abs=1e-4)
    assert wilson(0, 0) == (0.0, 1.0)


def test_spearman():
    generator = torch.Generator().manual_seed(0)
    for _ in range(20):
        first, second = torch.randint(0, 8, (2, 16), generator=generator).tolist()  # many alike
        assert spearman(first, second) == pytest.approx(stats.spearmanr(first, second).statistic, abs=1e-12)
    assert ranks([3, 1, 1, 2]) == [4, 1.5, 1.5, 3]
    assert spearman([1, 2, 3], [5, 5, 5]) == 0.0


def test_the_table_of_sets():
    header, held_out, two = cells(set_table(RESULTS))
    assert held_out == [
        "held out",
        "3",
        "33.3%",
        "6.1–79.2%",
        "66.7%",
        "100.0%",
        "33.3%",
        "100.0%",
        "–",
        "–",
        "100.0%",
        "–",
    ]
    assert dict(zip(header, two, strict=True))["colour"] == "50.0%"  # one of the two things
    assert cells(side_table(RESULTS))[1] == ["two", "1", "100.0%", "100.0%", "100.0%", "0.0%", "100.0%", "100.0%"]
    assert side_table(RESULTS[:3]) == ""


def test_the_table_of_values():
    rows = cells(value_table(RESULTS, ("shape",)))
    assert rows[1:] == [["shape", "circle", "4", "50.0%", "25.0%"], ["shape", "star", "1", "100.0%", "0.0%"]]


def test_a_confusion_table_counts_what_was_asked_by_what_was_seen():
    header, *rows = cells(confusion_table(RESULTS, "shape"))
    assert header == ["shape asked \\ seen", "circle", "square", "triangle", "star", "other count"]
    assert rows[0] == ["circle", "2", "·", "·", "1", "1"] and rows[3] == ["star", "·", "·", "·", "1", "·"]
    colours = cells(confusion_table(RESULTS, "colour"))
    assert colours[1][:2] == ["red", "3"] and "other count" not in colours[0]  # where none is missing


def test_the_table_of_steadiness_leaves_out_clips_with_another_number_of_things():
    rows = cells(steadiness_table(RESULTS))
    assert rows[1] == ["held out", "2", "0.900 (0.980)", "1.00 (0.00)", "0.500 (0.250)"]


def test_the_table_of_sensitivity_is_the_last_row(tmp_path):
    log = tmp_path / "words.csv"
    log.write_text("step,seconds,shape,whose colour\n500,9.5,1.01,1\n1000,19,1.25,1.5\n")
    assert cells(sensitivity_table(log))[1:] == [["shape", "1.250"], ["whose colour", "1.500"]]
    log.write_text("step,seconds,shape\n")
    assert sensitivity_table(log) == ""


def test_a_report_is_written_whole(tmp_path):
    changes = [Change(RED_CIRCLE, replace(RED_CIRCLE, background="black"), ("background",), 1)]
    switched = [Switch(changes[0], {"background": True}, STRIP)]
    blended = [Blend(changes[0], value, STRIP) for value in (0.5, 0.9, 1.0)]
    (tmp_path / "run").mkdir()
    (tmp_path / "run" / "words.csv").write_text("step,seconds,shape\n500,1,1.5\n")
    (tmp_path / "held-out-7.png").touch()  # of an earlier, longer report
    written = write_report(RESULTS, tmp_path, tmp_path / "run", switched, blended, "how it was made")
    assert (tmp_path / "report.md").read_text(encoding="utf-8") == written
    parts = ["how it was made", "### Held out, by value", "| shape | 1.500 |"]
    for part in (*parts, "| switch of background | 1 | 100.0% |", "| blend of background | 3 | 0.900 |"):
        assert part in written
    with (tmp_path / "results.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert [row["all right"] for row in rows] == ["yes", "no", "no", "no"]
    assert rows[2]["seen"] == "nothing on a white background" and rows[2]["jitter"] == ""
    assert {path.name for path in tmp_path.glob("*.png")} == {
        "held-out-1.png", "two-1.png", "switches-1.png", "blends-1.png"
    }  # fmt: skip


def test_a_report_of_nothing_is_empty():
    assert report([]).strip() == ""


def test_a_sheet_has_a_mark_a_row_and_the_frames():
    strip = film_strip(torch.ones(16, 8, 8, 3) * torch.linspace(0, 1, 16).view(-1, 1, 1, 1))
    rows = [
        Row("right, with an emoji 🎈", strip, True),
        Row("wrong " * 60, strip, False, "shape: a circle"),
        Row("", strip),
    ]
    picture = sheet(rows)
    column = [picture.getpixel((7, y)) for y in range(picture.height)]
    assert GREEN in column and RED in column and column.index(GREEN) < column.index(RED)
    assert [picture.getpixel((310 + 66 * i, 5))[0] for i in range(8)] == [0, 34, 68, 102, 153, 187, 221, 255]
    assert picture.height > 3 * 66  # the long label has room
    assert contact_sheet([("drawn", torch.rand(16, 20, 20, 3))]).height == 66


def test_a_sheet_is_made_smaller_until_it_fits():
    noisy = film_strip(torch.rand(8, 64, 64, 3, generator=torch.Generator().manual_seed(0)))
    rows = [Row("a", noisy)] * 10
    whole, small = sheet_png(rows), sheet_png(rows, 100_000)
    assert len(small) < 100_000 < len(whole) < 1_000_000
    assert Image.open(io.BytesIO(small)).width < Image.open(io.BytesIO(whole)).width


def test_a_sheet_keeps_the_colours():
    clips = [draw(sample_clip(Scene((Thing(colour, "square", "still"),), "white"), torch.Generator().manual_seed(1)))
             for colour in ("pink", "purple", "orange")]  # fmt: skip
    rows = [Row(colour, film_strip(clip.permute(0, 2, 3, 1))) for colour, clip in zip("abc", clips, strict=True)]
    shown = Image.open(io.BytesIO(sheet_png(rows))).convert("RGB")
    off = [abs(a - b) for a, b in zip(shown.tobytes(), sheet(rows).tobytes(), strict=True)]
    assert sum(off) / len(off) < 4 and sorted(off)[int(0.99 * len(off))] < 24


def test_a_plot_has_a_line_a_column(tmp_path):
    log = tmp_path / "words.csv"
    log.write_text("step,seconds,shape,colour\n" + "".join(f"{i},1,{1 + i / 9},{3 - i / 9}\n" for i in range(1, 9)))
    pixels = plot_csv(log)
    colours = {colour: count for count, colour in pixels.getcolors(100_000)}
    assert all(colours[line] > 500 for line in LINE_COLOURS[:2]) and LINE_COLOURS[2] not in colours
    first = [(x, y) for x in range(70, 600) for y in range(260) if pixels.getpixel((x, y)) == LINE_COLOURS[0]]
    assert min(first)[1] > max(first)[1] + 60  # it rises, and y points down


def test_a_training_log_has_a_panel_a_figure_and_a_logarithmic_loss(tmp_path):
    log = tmp_path / "denoiser.csv"
    log.write_text("step,seconds,loss,psnr\n" + "".join(f"{i},1,{10.0**-i},{i}\n" for i in range(5)))
    picture = plot_csv(log)
    assert picture.height == 2 * 260

    def height(x: int, top: int) -> float:
        line = [y for y in range(top, top + 260) if picture.getpixel((x, y)) == LINE_COLOURS[0]]
        return sum(line) / len(line) - top

    # Both go straight through the middle: the loss because its axis is logarithmic.
    assert abs(height(337, 0) - height(337, 260)) < 3


def test_a_log_without_rows_or_with_one_is_drawn_too(tmp_path):
    log = tmp_path / "loss.csv"
    for content in ("", "step,seconds,loss\n", "step,seconds,loss\n50,1,0.5\n", "step,seconds,loss\n50,1,nan\n"):
        log.write_text(content)
        assert plot_csv(log).size == (760, 260)


def clip_of(scene: Scene, seed: int = 0) -> torch.Tensor:
    return draw(sample_clip(scene, torch.Generator().manual_seed(seed))).permute(0, 2, 3, 1)


def test_steadiness_tells_a_clip_that_shakes_and_flickers():
    prompt = Prompt("x", "", RED_CIRCLE, frozenset({"shape"}), 16, 0)
    calm = clip_of(RED_CIRCLE)
    shaken = torch.stack([frame.roll((-1) ** i * 2, 0) for i, frame in enumerate(calm)])
    flickering = torch.where(torch.arange(16).view(-1, 1, 1, 1) % 2 == 0, calm, (calm - 0.1).clamp(0, 1))
    figures = [steadiness(clip, read(clip), prompt) for clip in (calm, shaken, flickering)]
    assert figures[0].shape_iou > 0.95 and figures[0].colour_drift < 1e-3 and figures[0].jitter < 0.1
    assert figures[1].jitter == pytest.approx(100 * 8 / 96, rel=0.1)  # +-2 pixels of 96: a second difference of 8
    assert figures[2].colour_drift > 0.01
    assert steadiness(calm, read(calm), replace(prompt, scene=TWO)) is None
    assert steadiness(calm, read(calm), replace(prompt, said=frozenset())).shape_iou is None


def test_the_fixed_changes():
    kinds = [change.changed if len(change.changed) == 1 else "two" for change in SWITCHES]
    assert len(SWITCHES) == 20 and all(
        kinds.count(kind) == 5 for kind in (("colour",), ("shape",), ("background",), "two")
    )
    for change in SWITCHES + BLENDS:
        (first,), (last,) = change.before.things, change.after.things
        differing = {name for name in ("colour", "shape", "motion") if getattr(first, name) != getattr(last, name)}
        differing |= {"background"} if change.before.background != change.after.background else set()
        assert differing == set(change.changed) and not change.before.held_out and not change.after.held_out
    assert [change.changed for change in BLENDS] == [("colour",)] * 10 + [("background",)] * 10
    assert len({change.seed for change in SWITCHES + BLENDS}) == 40


def test_a_drawn_change_is_seen_and_a_late_one_is_not():
    change = next(change for change in SWITCHES if change.changed == ("colour", "shape"))
    for at, right in ((AT, True), (AT + 1, True), (AT - 1, True), (AT + 2, False), (AT - 2, False)):
        weights = tuple(float(index >= at) for index in range(FRAMES))
        drawn = draw_change(DrawnChange(change.before, change.after, weights), torch.Generator().manual_seed(1))
        assert switched(read_frames(drawn.permute(0, 2, 3, 1)), change) == {"colour": right, "shape": right}, at


@pytest.mark.parametrize("place", [0, 4, 10, 14])
def test_a_drawn_blend_correlates_with_its_weights(place):
    change, weights = BLENDS[place], torch.linspace(0, 1, FRAMES).tolist()
    drawn = draw_change(DrawnChange(change.before, change.after, tuple(weights)), torch.Generator().manual_seed(2))
    found = places(read_frames(drawn.permute(0, 2, 3, 1)), change)
    assert spearman(weights, found) > 0.98
    assert found[0] == pytest.approx(0, abs=0.1) and found[-1] == pytest.approx(1, abs=0.1)


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A small model with random weights."""
    torch.manual_seed(0)
    sizes = replace(denoiser.CONFIG, widths=(16, 16, 16, 16), embedding_dim=32)
    reader = TextEncoder(TextEncoderConfig(text.tokenizer().size, text.LENGTH, layers=1))
    settings = {
        "vocabulary": vocabulary(),
        "prompt_length": text.LENGTH,
        "prediction": "v",
        "zero_terminal_snr": True,
        "latent_scale": LATENT_SCALE,
        "native": asdict(NATIVE),
        "latent_rgb": (),
    }
    path = tmp_path_factory.mktemp("model") / "random.safetensors"
    return save_bundled(path, UNet3D(sizes), reader, Autoencoder(autoencoder.CONFIG), settings)


SHORT, SHIFTED = Settings(steps=1), Settings(steps=1, seed_shift=10_000)


def test_results_come_in_order_and_are_the_same_from_one_process_and_two(model, capfd):
    sets = load_prompts()
    prompts = [sets["two"][0], replace(sets["camera"][0], frames=3)]
    one, two = (list(evaluate(model, prompts, SHIFTED, workers)) for workers in (1, 2))
    assert one == two and [found.prompt for found in one] == [replace(p, seed=p.seed + 10_000) for p in prompts]
    assert "2/2 clips" in capfd.readouterr().err
    assert all(set(found.right) <= found.prompt.judged for found in one)
    assert "camera" in one[1].right and "size" not in one[1].right and "left colour" in one[0].right
    assert all(found.drawn is not None and found.drawn.shape_iou > 0.9 for found in one)
    bundled, first = load_bundled(path=model), prompts[0]
    plain, other = (generate(bundled, first.text, first.seed + shift, SHORT, first.frames) for shift in (0, 10_000))
    assert film_strip(plain) != one[0].strip == film_strip(other)


def test_a_shift_of_the_seeds_is_one_of_the_changes_too(model):
    (switch,), (blend,) = switches(model, SHIFTED, 1, 1), blends(model, SHIFTED, 1, 1)
    assert switch.change == replace(SWITCHES[0], seed=SWITCHES[0].seed + 10_000)
    assert blend.change == replace(BLENDS[0], seed=BLENDS[0].seed + 10_000)


def test_a_changing_prompt_begins_as_one_and_ends_as_the_other(model):
    bundled = load_bundled(path=model)
    before, after = "a red circle growing", "a blue star moving up"
    first, last = (generate(bundled, prompt, 1, SHORT) for prompt in (before, after))
    assert first.shape == (16, 96, 96, 3) and (first - last).abs().max() > 0.02
    assert torch.allclose(generate_changing(bundled, before, after, [0.0] * 16, 1, SHORT), first, atol=2e-3)
    assert torch.allclose(generate_changing(bundled, before, after, [1.0] * 16, 1, SHORT), last, atol=2e-3)
    assert generate_changing(bundled, before, after, [0.0, 0.5, 1.0], 1, SHORT).shape[0] == 3
    with pytest.raises(T2VError, match="tokens long"):
        generate_changing(bundled, before, "red " * 40, [0.0, 1.0], 1, SHORT)


def test_what_cannot_be_evaluated_is_refused(model, tmp_path):
    with pytest.raises(T2VError, match="0 workers"):
        list(evaluate(model, load_prompts()["seen"][:1], SHORT, 0))
    with pytest.raises(T2VError, match="no set 'sean'"):
        run(model, SHORT, tmp_path, ["sean"])


def test_a_run_writes_and_prints_its_report(model, tmp_path, capsys):
    run(model, SHORT, tmp_path, ["blends"], 1, 1)
    printed = capsys.readouterr().out
    assert "| blend of colour | 1 |" in printed and "steps=1" in printed and "### How often" not in printed
    assert (tmp_path / "report.md").read_text(encoding="utf-8").strip() == printed.strip()
