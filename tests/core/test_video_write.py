"""What `write_video` puts into a file, read back by ffmpeg itself."""

import re
import struct
import subprocess
import weakref
from fractions import Fraction

import imageio_ffmpeg
import numpy as np
import pytest
import torch

from t2v_core.errors import VideoError
from t2v_core.video import FORMATS, QUALITIES, write_video
from t2v_core.video.rate import frame_rate
from t2v_core.video.writing.frames import Frames


def decode(path, width, height):
    """All frames as uint8 [f, h, w, 3], converted by ffmpeg with the BT.709 limited range matrix."""
    command = [imageio_ffmpeg.get_ffmpeg_exe(), "-v", "error", "-i", str(path)]
    command += ["-vf", "scale=in_color_matrix=bt709:in_range=tv:flags=accurate_rnd+full_chroma_int,format=rgb24"]
    raw = subprocess.run([*command, "-f", "rawvideo", "-"], capture_output=True, check=True).stdout
    return np.frombuffer(raw, np.uint8).reshape(-1, height, width, 3)


def report(path):
    """What `ffmpeg -i` says about a file (it then exits with 1: there is no output)."""
    return subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), "-i", str(path)], capture_output=True).stderr.decode()


def moving_ramp(num_frames, height=48, width=64):
    """A smooth picture that drifts to the right: float32 [f, h, w, 3]."""
    y, x = torch.meshgrid(torch.linspace(0, 1, height), torch.linspace(0, 1, width), indexing="ij")
    frames = [torch.stack([(x + f / 50) % 1, y, 1 - x], dim=-1) for f in range(num_frames)]
    return torch.stack(frames) * 0.8 + 0.1


def test_frames_come_back_in_order(tmp_path):
    frames = moving_ramp(12)
    path = write_video(frames, tmp_path / "a.mp4", 24, quality="highest")
    assert path == tmp_path / "a.mp4"
    seen = decode(path, 64, 48) / 255
    assert seen.shape == frames.shape
    errors = np.abs(seen[:, None] - frames.numpy()[None]).mean(axis=(2, 3, 4))
    assert (errors.argmin(axis=1) == np.arange(12)).all()
    assert errors.diagonal().max() < 3 / 255


PATCHES = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 0), (0, 255, 255), (255, 0, 255)]
PATCHES += [(grey, grey, grey) for grey in (0, 1, 16, 64, 127, 128, 200, 235, 254, 255)]
PATCHES += [(224, 172, 105), (141, 85, 36), (255, 219, 172)]  # skin tones


@pytest.mark.parametrize("quality", ["high", "highest"])
def test_flat_patches_keep_their_colour(tmp_path, quality):
    colours = np.array(PATCHES, np.uint8)
    frames = np.broadcast_to(colours[:, None, None], (len(colours), 32, 32, 3))
    seen = decode(write_video(frames, tmp_path / "a.mp4", 8, quality=quality), 32, 32)
    assert np.abs(seen.astype(int) - frames).max() <= 2


def test_the_file_says_what_it_holds(tmp_path):
    path = write_video(moving_ramp(25), tmp_path / "a.mp4", 12.5)
    text = report(path)
    assert re.search(r"Video: h264 .*yuv420p\(tv, bt709[,)]", text), text
    assert "64x48" in text and "12.50 fps" in text and "Duration: 00:00:02.00" in text
    assert "creation_time" not in text
    data = path.read_bytes()
    assert data.index(b"moov") < data.index(b"mdat")  # a browser can start before it has all


@pytest.mark.parametrize("fps", [24, 23.976, 29.97, 8.0, 12.5, 9.99, Fraction(1, 3), 0.01, 1000])
def test_every_frame_lasts_exactly_one_over_fps(tmp_path, fps):
    data = write_video(moving_ramp(7, 16, 16), tmp_path / "a.mp4", fps).read_bytes()
    created, timescale = struct.unpack_from(">I4xI", data, data.index(b"mdhd") + 8)
    runs, count, delta = struct.unpack_from(">III", data, data.index(b"stts") + 8)
    assert (created, runs, count) == (0, 1, 7)
    assert Fraction(timescale, delta) == frame_rate(fps)


@pytest.mark.parametrize(
    "fps, exact",
    [(23.976, (24000, 1001)), (23.98, (24000, 1001)), (23.976023976, (24000, 1001)), (29.97, (30000, 1001))]
    + [(59.94, (60000, 1001)), (119.88, (120000, 1001)), (np.float32(23.976), (24000, 1001)), (24.0, (24, 1))]
    + [(Fraction(2997, 125), (2997, 125)), (30, (30, 1)), (12.5, (25, 2)), (1 / 3, (1, 3)), (9.99, (999, 100))],
)
def test_frame_rates_mean_exact_fractions(fps, exact):
    assert frame_rate(fps) == Fraction(*exact)


@pytest.mark.parametrize("fps", [0, -1, float("nan"), float("inf"), 1e9, 10**400, 0.001, "24", None, True, 24j])
def test_wrong_frame_rates(tmp_path, fps):
    with pytest.raises(VideoError, match="fps"):
        write_video(moving_ramp(2), tmp_path / "a.mp4", fps)
    with pytest.raises(VideoError, match="numerator and denominator"):
        frame_rate(Fraction(24_000_001, 1_000_003))
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("height, width", [(1, 1), (33, 47), (34, 47), (33, 48)])
def test_odd_sizes_repeat_the_last_row_and_column(tmp_path, height, width):
    frames = moving_ramp(2, height + 1, width + 1)[:, :height, :width]
    even_height, even_width = height + height % 2, width + width % 2
    seen = decode(write_video(frames, tmp_path / "a.mp4", 8, quality="highest"), even_width, even_height)
    wanted = np.pad(frames.numpy(), [(0, 0), (0, height % 2), (0, width % 2), (0, 0)], mode="edge")
    rgb = np.stack([picture.copy() for picture in Frames(frames, alignment=2)])
    assert np.array_equal(rgb, np.floor(wanted * 255 + 0.5).astype(np.uint8))
    assert np.abs(seen - wanted * 255.0).mean() < 4


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.float16, torch.bfloat16, np.float32, np.float64])
def test_floats_are_rounded_not_truncated(dtype):
    every = np.arange(256).reshape(8, 32, 1).repeat(3, axis=2)
    if isinstance(dtype, torch.dtype):
        frame = torch.from_numpy(every / 255).to(dtype)
        exact = frame.double().numpy()
    else:
        frame = exact = (every / 255).astype(dtype)
    (rgb,) = Frames([frame])
    assert np.array_equal(rgb, np.rint(exact * 255))
    if dtype not in (torch.float16, torch.bfloat16):
        assert np.array_equal(rgb, every)
        for shift in (-0.49, 0.49):
            (rgb,) = Frames([frame + shift / 255])
            assert np.array_equal(rgb, every)


def test_what_is_ready_for_ffmpeg_is_not_copied():
    """And what is not is not touched: a copy is made where the size, the order in memory or the depth differ."""
    frames = np.random.default_rng(0).integers(0, 256, (3, 6, 7, 3), np.uint8)
    given = frames.copy()
    assert all(np.shares_memory(picture, frames[i]) for i, picture in enumerate(Frames(frames)))
    for other, options in ((frames, {"alignment": 2}), (frames[:, :, ::-1], {}), (frames, {"bits": 10})):
        made = Frames(other, **options)
        for i, picture in enumerate(made):
            shift = 8 if options.get("bits") else 0  # the upper bits; 255 is 1023, so compared within rounding
            assert not np.shares_memory(picture, frames)
            assert np.abs((picture[:6, :7].astype(int) >> shift) - other[i]).max() <= 1
    assert np.array_equal(frames, given)


def test_floats_beyond_the_range_are_clamped():
    frame = np.full((2, 2, 3), -0.5, np.float32)
    frame[0] = 1.5
    (rgb,) = Frames([frame])
    assert (rgb[0] == 255).all() and (rgb[1] == 0).all()


def test_every_kind_of_frame_gives_the_same_file(tmp_path):
    frames = (moving_ramp(5) * 255).round().to(torch.uint8)
    readonly = frames.numpy().copy()
    readonly.flags.writeable = False
    kinds = {
        "tensor": frames,
        "float": frames / 255,
        "array": readonly,
        "double": frames.numpy() / 255,
        "generator": (frame for frame in frames),
        "gradient": [(frame / 255).requires_grad_() for frame in frames],
        "backwards": [np.ascontiguousarray(frame[::-1, ::-1])[::-1, ::-1] for frame in readonly],
        "mixed": [frame / 255 if index % 2 else frame.numpy() for index, frame in enumerate(frames)],
    }
    files = {name: write_video(kind, tmp_path / f"{name}.mp4", 8).read_bytes() for name, kind in kinds.items()}
    assert len(set(files.values())) == 1


def test_frames_are_let_go_of(tmp_path):
    finalizers = []

    def source():
        for index in range(60):
            assert not any(finalizer.alive for finalizer in finalizers), f"a frame before {index} is still held"
            frame = np.full((64, 64, 3), index / 60)
            finalizers.append(weakref.finalize(frame, int))
            yield frame
            del frame

    counts = []
    write_video(source(), tmp_path / "a.mp4", 8, on_frame=counts.append)
    assert counts == list(range(1, 61))


def test_frames_are_asked_for_one_at_a_time(tmp_path):
    handed_over = 0

    def source():
        for index in range(5):
            assert handed_over == index
            yield np.zeros((16, 16, 3), np.uint8)

    def on_frame(count):
        nonlocal handed_over
        handed_over = count

    write_video(source(), tmp_path / "a.mp4", 8, on_frame=on_frame)


def test_qualities_differ_as_their_names_say(tmp_path):
    noise = np.random.default_rng(0).integers(0, 256, (6, 64, 64, 3), np.uint8)
    sizes = [write_video(noise, tmp_path / f"{q}.mp4", 8, quality=q).stat().st_size for q in QUALITIES]
    assert sizes == sorted(set(sizes))
    for row in FORMATS.values():
        assert tuple(row.rate.qualities if row.rate else row.qualities) in (QUALITIES, ())


def test_highest_quality_keeps_45_decibels(tmp_path):
    frames = moving_ramp(8, 96, 128)
    frames += 0.02 * torch.randn(frames.shape, generator=torch.Generator().manual_seed(0))
    seen = decode(write_video(frames, tmp_path / "a.mp4", 24, quality="highest"), 128, 96)
    luma = np.array([0.2126, 0.7152, 0.0722])
    error = (seen @ luma - frames.clamp(0, 1).numpy() * 255 @ luma) ** 2
    assert 10 * np.log10(255**2 / error.mean()) >= 45
