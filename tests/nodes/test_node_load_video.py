"""T2VLoadVideo and T2VLoadVideoLatent, in the headless host, on real files."""

import os
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from clips import H264, LOSSLESS, ffmpeg, make, number, numbered

NOTHING = {"start_frame": 0, "num_frames": 0, "stride": 1, "width": 0, "height": 0, "fps": 0.0}


@pytest.fixture
def inputs(tmp_path):
    """The input folder: 40 numbered frames at 25 a second with just as much sound, and one file without sound."""
    folder = tmp_path / "input"
    folder.mkdir()
    sound = ("-f", "lavfi", "-i", "sine=r=8000:d=1.6")
    make(folder / "clip.mkv", numbered(40), *LOSSLESS, "-c:a", "pcm_s16le", fps=25, inputs=sound)
    make(folder / "mute.mp4", numbered(12, 76, 44), *H264, fps=24)
    return folder


@pytest.fixture
def host(part, models, tmp_path, inputs):
    nodes_host, progress = part("nodes.host"), SimpleNamespace(start=lambda total, label: reports(total, label))
    seen = []

    def reports(total, label):
        seen.append((label, total, []))
        return seen[-1][2].append

    running = part("headless.host").HeadlessHost(models, tmp_path / "out", progress, inputs=inputs)
    running.seen = seen
    nodes_host.use(running)
    yield running
    nodes_host.use(None)


@pytest.fixture
def load(part, host):
    def load(video="clip.mkv", **changes):
        return part("nodes").T2VLoadVideo().load(video, **{**NOTHING, **changes})

    return load


@pytest.fixture
def load_latent(part, host, tiny):
    def load(video="clip.mkv", **changes):
        return part("nodes").T2VLoadVideoLatent().load(video, tiny.vae, **{**NOTHING, **changes})

    return load


def numbers(images):
    return [number((image * 255).round().to(torch.uint8).numpy()) for image in images]


def test_a_whole_clip(load, host):
    images, audio, fps, info = load()
    assert images.dtype == torch.float32 and torch.equal(images, torch.from_numpy(numbered(40)).float() / 255)
    assert fps == 25.0 and isinstance(fps, float)
    assert audio["sample_rate"] == 8000 and audio["waveform"].shape == (1, 1, 12800)  # as long as 40 frames are
    assert info.splitlines()[0].startswith("clip.mkv: Matroska, ")
    assert info.splitlines()[-1] == "read: 40 frames of 64 x 48 at 25 a second" and "sound: pcm_s16le, 8000 Hz" in info
    assert host.seen == [("Loading", 40, list(range(1, 41)))]


@pytest.mark.parametrize(
    "asked, shown, fps",
    [
        ({"start_frame": 5}, range(5, 40), 25),
        ({"num_frames": 7}, range(7), 25),
        ({"start_frame": 3, "num_frames": 4, "stride": 5}, [3, 8, 13, 18], 5),
        ({"stride": 3}, range(0, 40, 3), 25 / 3),
        ({"start_frame": 38, "num_frames": 9}, [38, 39], 25),
        ({"fps": 5.0}, range(0, 40, 5), 5),
        ({"fps": 50.0, "start_frame": 4, "num_frames": 3, "stride": 2}, [2, 3, 4], 25),
    ],
)
def test_a_part_and_the_sound_that_belongs_to_it(load, asked, shown, fps):
    images, audio, rate, info = load(**asked)
    assert numbers(images) == list(shown) and rate == pytest.approx(fps, rel=1e-6)
    seconds = min(
        len(shown) / fps, (40 - shown[0]) / 25
    )  # the last frame that is shown may stand for some that are not
    assert abs(audio["waveform"].shape[2] - seconds * 8000) <= 1
    whole = load()[1]["waveform"][0, 0]
    begin = round(8000 * (shown[0] / 25))
    assert torch.equal(audio["waveform"][0, 0, :100], whole[begin : begin + 100])


@pytest.mark.parametrize(
    "asked, size", [((32, 0), (32, 24)), ((0, 96), (128, 96)), ((50, 70), (50, 70)), ((0, 0), (64, 48))]
)
def test_the_size_keeps_its_proportions(load, asked, size):
    images, _, _, info = load(width=asked[0], height=asked[1], num_frames=3)
    assert images.shape == (3, size[1], size[0], 3) and numbers(images) == [0, 1, 2]
    assert f"read: 3 frames of {size[0]} x {size[1]}" in info


def test_no_sound_is_nothing_and_a_saved_video_has_none(load, part, host):
    images, audio, fps, _ = load("mute.mp4")
    assert audio is None and images.shape == (12, 44, 76, 3)
    shown = part("nodes").T2VSaveVideo().save(images, fps, "again", "h264-mp4", "high", audio=audio)
    assert shown["ui"]["images"]


def test_a_sound_that_cannot_be_read_does_not_keep_the_frames_back(load, inputs, caplog, tmp_path):
    sound = ("-f", "lavfi", "-i", "sine=r=8000:d=1")
    content = make(inputs / "a.mkv", numbered(20), *LOSSLESS, "-c:a", "flac", inputs=sound).read_bytes()
    (inputs / "a.mkv").write_bytes(content.replace(b"A_FLAC", b"A_FLAX"))
    images, audio, _, info = load("a.mkv")
    assert numbers(images) == list(range(20)) and audio is None
    assert "its sound cannot be read" in info and "its sound" in caplog.text


def test_a_file_cut_short_gives_what_there_is(load, inputs):
    content = (inputs / "clip.mkv").read_bytes()
    (inputs / "cut.mkv").write_bytes(content[: len(content) // 2])
    images, _, _, info = load("cut.mkv")
    assert 3 < len(images) < 40 and numbers(images)[:3] == [0, 1, 2]


def test_more_frames_than_the_file_says(load, part, monkeypatch):
    module = part("nodes.load_video")
    probe = module.probe
    short = lambda path, count: module.VideoInfo(**{**vars(probe(path, count=count)), "num_frames": 3})  # noqa: E731
    monkeypatch.setattr(module, "probe", short)
    images, *_ = load()
    assert numbers(images) == list(range(40))


def test_what_does_not_fit_is_refused_before_a_frame_is_decoded(load, part, host, monkeypatch):
    monkeypatch.setattr(host, "free_memory", lambda: 40 * 64 * 48 * 12)
    monkeypatch.setattr(part("nodes.load_video"), "read_video", lambda *_, **__: pytest.fail("it was opened"))
    with pytest.raises(part("t2v_core.errors").T2VError, match=r"num_frames: 40 frames of 64 x 48 take .* are free"):
        load()
    with pytest.raises(part("t2v_core.errors").T2VError, match=r"num_frames: 40 frames of 8192 x 8192 take 30\.0 GiB"):
        load(width=8192, height=8192)
    monkeypatch.undo()
    assert len(load()[0]) == 40 and (host.free_memory() is None or host.free_memory() > 2**20)


@pytest.mark.parametrize(
    "video, changes, message",
    [
        ("clip.mkv", {"start_frame": 40}, "clip.mkv has no frame 40"),
        ("clip.mkv", {"start_frame": 1000}, "clip.mkv has no frame 1000"),
        ("clip.mkv", {"width": 100_000, "height": 8, "num_frames": 1}, "100000 x 8"),
        ("text.mp4", {}, "not a video"),
        ("../clip.mkv", {}, "no file|leads out"),
        ("/etc/passwd", {}, "leads out"),
        ("no.mp4", {}, "there is no file 'no.mp4'"),
    ],
)
def test_what_cannot_be_loaded_is_refused(load, load_latent, part, inputs, video, changes, message):
    (inputs / "text.mp4").write_text("I am a text")
    with pytest.raises(part("t2v_core.errors").T2VError, match=message):
        load(video, **changes)


def test_a_cancel_passes_through_and_leaves_nothing(load, host):
    def cancel(done):
        if done == 3:
            raise KeyboardInterrupt

    host.progress = lambda total, label: cancel
    with pytest.raises(KeyboardInterrupt):
        load()


def test_latents_are_those_of_the_frames(load, load_latent, part, host, tiny):
    images = load()[0]
    (latent, fps, info), expected = load_latent(), part("nodes").T2VEncode().encode(images, tiny.vae, 0, 0, "area", 0)
    assert latent["samples"].shape == (40, 4, 6, 8) and fps == 25.0 and "read: 40 frames" in info
    torch.testing.assert_close(latent["samples"], expected[0]["samples"])
    assert [total for label, total, _ in host.seen if label == "Encoding"][0] == 40
    part_of_it = load_latent(start_frame=4, num_frames=5, stride=3)[0]["samples"]
    torch.testing.assert_close(part_of_it, latent["samples"][4:19:3])


def test_odd_sizes_are_cut_around_the_middle_and_others_resized(load, load_latent, part, host, tiny):
    images = load("mute.mp4")[0]  # 76 x 44
    middle = images[:, 2:42, 2:74]
    expected = part("nodes").T2VEncode().encode(middle, tiny.vae, 0, 0, "area", 0)[0]["samples"]
    torch.testing.assert_close(load_latent("mute.mp4")[0]["samples"], expected)
    assert load_latent("mute.mp4", width=32)[0]["samples"].shape == (12, 4, 2, 4)
    assert load_latent("mute.mp4", width=32, height=64)[0]["samples"].shape == (12, 4, 8, 4)


def test_no_more_frames_than_a_batch_are_held(load_latent, part, host, inputs, monkeypatch):
    held, encode = [], host.encode_frames
    monkeypatch.setattr(host, "encode_frames", lambda vae, images: held.append(len(images)) or encode(vae, images))
    load_latent()
    assert held == [16, 16, 8]


def test_wrong_sizes_for_latents(load_latent, part, host, inputs, tiny):
    node, error = part("nodes").T2VLoadVideoLatent, part("t2v_core.errors").T2VError
    assert "not a multiple of 8" in node.VALIDATE_INPUTS(video="clip.mkv", width=12, height=0)
    assert node.VALIDATE_INPUTS(video="clip.mkv", width=0, height=64) is True
    make(inputs / "flat.mkv", np.zeros((2, 6, 64, 3), np.uint8), *LOSSLESS)
    with pytest.raises(error, match="video .its frames.: they are 64 x 6, and 8 x 8 is the least"):
        load_latent("flat.mkv")
    with pytest.raises(error, match="vae: the model file"):
        node().load("clip.mkv", None, **NOTHING)


def test_names_are_checked_before_the_run(part, host):
    for node in (part("nodes").T2VLoadVideo, part("nodes").T2VLoadVideoLatent):
        assert node.VALIDATE_INPUTS(video="clip.mkv") is True and node.VALIDATE_INPUTS() is True
        assert "video: there is no file" in node.VALIDATE_INPUTS(video="no.mp4")
        assert "video: " in node.VALIDATE_INPUTS(video="../models/tiny.safetensors")
        assert node.INPUT_TYPES()["required"]["video"][0] == ["clip.mkv", "mute.mp4"]
        assert node.INPUT_TYPES()["required"]["video"][1]["video_upload"] is True


def test_it_runs_again_when_the_file_changes(part, host, inputs):
    node = part("nodes").T2VLoadVideo
    before = node.IS_CHANGED("clip.mkv", **NOTHING)
    assert before == node.IS_CHANGED(video="clip.mkv")
    os.utime(inputs / "clip.mkv", ns=(1, 1))
    touched = node.IS_CHANGED("clip.mkv")
    with (inputs / "clip.mkv").open("ab") as file:
        file.write(b"x")
    os.utime(inputs / "clip.mkv", ns=(1, 1))
    assert len({before, touched, node.IS_CHANGED("clip.mkv")}) == 3
    assert node.IS_CHANGED("no.mp4") == node.IS_CHANGED(None) == "missing"


def test_a_file_without_a_rate_is_refused(load, load_latent, part, inputs):
    content = bytearray((inputs / "mute.mp4").read_bytes())
    place = content.index(b"stts") + 16
    content[place : place + 4] = b"\x7f\xff\xff\xff"  # how long a frame is shown
    (inputs / "a.mp4").write_bytes(content)
    for read in (load, load_latent):
        with pytest.raises(part("t2v_core.errors").T2VError, match="video: a.mp4 gives no usable frame rate"):
            read("a.mp4")


def test_sixteen_bits_are_not_cut_to_eight(load, inputs):
    ramp = np.broadcast_to(np.linspace(0, 65535, 512).astype(np.uint16)[None, None, :, None], (1, 8, 512, 3))
    make(inputs / "deep.mkv", ramp, "-c:v", "ffv1", "-pix_fmt", "gbrp16le")
    images = load("deep.mkv")[0]
    assert torch.equal(images, torch.from_numpy(ramp.astype(np.float32) / np.float32(65535)))


def test_a_turned_video_is_upright(load, inputs):
    ffmpeg("-display_rotation", 90, "-i", inputs / "mute.mp4", "-c", "copy", inputs / "turned.mp4")
    assert load("turned.mp4", num_frames=2)[0].shape == (2, 76, 44, 3)
