"""What comes back out of a file, by a reader that is not ours (PyAV, Pillow) and the formulas of the standards."""

import av
import numpy as np
import pytest
import torch
from PIL import Image

from t2v_core.video import FORMATS, VideoOptions, write_video

PATCHES = {
    "black": (0, 0, 0),
    "white": (255, 255, 255),
    "grey": (128, 128, 128),
    "dark grey": (40, 40, 40),
    "light grey": (200, 200, 200),
    "red": (255, 0, 0),
    "green": (0, 255, 0),
    "blue": (0, 0, 255),
    "cyan": (0, 255, 255),
    "magenta": (255, 0, 255),
    "yellow": (255, 255, 0),
    "light skin": (241, 194, 167),
    "skin": (198, 134, 103),
    "dark skin": (92, 57, 40),
}


def planes(path):
    """Y, Cb, Cr `[f, h, w]` as they are stored, and the number of bits."""
    with av.open(str(path)) as container:
        frames = [frame for frame in container.decode(video=0)]
    bits = frames[0].format.components[0].bits
    found = []
    for index in range(3):
        stack = []
        for frame in frames:
            plane = frame.planes[index]
            raw = np.frombuffer(plane, np.uint8 if bits == 8 else "<u2")
            row = plane.line_size // raw.itemsize
            stack.append(raw.reshape(-1, row)[: plane.height, : plane.width])
        found.append(np.stack(stack).astype(np.float64))
    return found, bits


def to_rgb(planes, bits):
    """ITU-R BT.709-6, 3.2 to 3.5 and 4.6, turned round; chroma of half resolution is repeated."""
    scale = 2 ** (bits - 8)
    y, cb, cr = planes
    down, across = y.shape[1] // cb.shape[1], y.shape[2] // cb.shape[2]
    cb, cr = (plane.repeat(down, 1).repeat(across, 2) for plane in (cb, cr))
    y, cb, cr = (y / scale - 16) / 219, (cb / scale - 128) / 224, (cr / scale - 128) / 224
    red, blue = y + 1.5748 * cr, y + 1.8556 * cb
    green = (y - 0.2126 * red - 0.0722 * blue) / 0.7152
    return np.stack([red, green, blue], -1) * 255


def real_looking(count=6, height=144, width=256):
    """A scene with what cameras see: gradients, an edge that moves, fine texture, a little noise. uint8."""
    generator = np.random.default_rng(1)
    y, x = np.mgrid[0:height, 0:width] / height
    frames = []
    for index in range(count):
        sky = np.stack([0.35 + 0.2 * y, 0.55 + 0.15 * y, 0.85 - 0.1 * y], -1)
        ball = ((x - 0.5 - 0.05 * index) ** 2 + (y - 0.55) ** 2 < 0.04)[..., None]
        shade = (0.5 + 0.5 * np.cos(4 * (x - 0.4 - 0.05 * index)))[..., None] * np.array([0.85, 0.55, 0.4])
        grass = np.array([0.2, 0.45, 0.15]) * (0.8 + 0.2 * np.sin(90 * x) * np.sin(70 * y))[..., None]
        picture = np.where((y > 0.8)[..., None], grass, np.where(ball, shade, sky))
        frames.append(picture + generator.normal(0, 0.004, picture.shape))
    return (np.clip(np.stack(frames), 0, 1) * 255 + 0.5).astype(np.uint8)


def luma(rgb):
    return rgb.astype(np.float64) @ np.array([0.2126, 0.7152, 0.0722])


@pytest.mark.parametrize("name", ["h264-mp4", "h264-10bit-mp4", "h265-mp4", "av1-mp4", "vp9-webm", "prores-422hq-mov"])
@pytest.mark.parametrize("given", ["uint8", "float"])
def test_flat_patches_keep_their_colour(tmp_path, name, given):
    """Within 2 of 255 at the default quality; in a file of 8 bits the rounding of Y, Cb and Cr alone takes 1.5."""
    colours = np.array(list(PATCHES.values()), np.uint8)
    frames = np.broadcast_to(colours.repeat(32, 0)[None, None], (3, 32, len(colours) * 32, 3))
    if given == "float":
        frames = frames.astype(np.float32) / 255
    path = write_video(frames, tmp_path / f"a{FORMATS[name].extension}", 8, format=name)
    middle = to_rgb(*planes(path))[:, 16, 16::32]
    assert np.abs(middle - colours).max() <= 2, dict(zip(PATCHES, np.abs(middle - colours).max((0, 2)), strict=True))


@pytest.mark.parametrize("name", ["webp", "apng", "gif", "png"])
def test_flat_patches_in_pictures(tmp_path, name):
    colours = np.array(list(PATCHES.values()), np.uint8)
    frames = np.broadcast_to(colours.repeat(32, 0)[None, None], (2, 32, len(colours) * 32, 3))
    path = write_video(frames, tmp_path / f"a{FORMATS[name].extension}", 8, format=name)
    with Image.open(path / "00000.png" if path.is_dir() else path) as image:
        middle = np.asarray(image.convert("RGB"))[16, 16::32].astype(int)
    assert np.abs(middle - colours).max() <= {"webp": 3}.get(name, 0)


def decoded(path, pixels):
    with av.open(str(path)) as container:
        container.streams.video[0].thread_type = "AUTO"
        return np.stack([frame.to_ndarray(format=pixels) for frame in container.decode(video=0)])


@pytest.mark.parametrize("kind, channels", [("uint8", 3), ("uint8", 4), ("uint16", 3), ("uint16", 4), ("float", 3)])
def test_lossless_formats_are_bit_exact(tmp_path, kind, channels):
    random = np.random.default_rng(0)
    high = 255 if kind == "uint8" else 65535
    exact = random.integers(0, high + 1, (4, 34, 50, channels)).astype(np.uint8 if high == 255 else np.uint16)
    given = exact.astype(np.float64) / high if kind == "float" else exact
    wide = exact if high == 65535 else exact.astype(np.uint16) * 257
    for name in ["ffv1-16bit-mkv", "png-16bit", *(["ffv1-mkv", "apng", "png"] if high == 255 else [])]:
        path = write_video(given, tmp_path / f"{name}{FORMATS[name].extension}", 24, format=name)
        if path.is_dir():
            found = np.concatenate([png_pixels(picture) for picture in sorted(path.iterdir())])
        else:
            pixels = ("gbrp16le", "gbrap16le") if "16" in name else ("rgb24", "rgba")
            found = decoded(path, pixels[channels - 3])
        assert np.array_equal(found, wide if "16" in name else exact), name


def test_ten_bits_are_rounded_and_nothing_else(tmp_path):
    values = np.arange(65536, dtype=np.uint16)
    frames = np.broadcast_to(values.reshape(1, 256, 256, 1), (1, 256, 256, 3))
    (green, *_), bits = planes(write_video(frames, tmp_path / "a.mkv", 24, format="ffv1-10bit-mkv"))
    assert bits == 10 and np.abs(green.ravel() - values / 65535 * 1023).max() <= 0.5 + 1e-4


def png_pixels(path):
    """Through PyAV, for Pillow reads 16-bit colour as 8 bits."""
    with av.open(str(path)) as container:
        frames = list(container.decode(video=0))
    name = frames[0].format.name.replace("be", "le")
    return np.stack([frame.to_ndarray(format=name) for frame in frames])


@pytest.mark.parametrize("name, options", [("prores-4444-mov", None), ("h264-mp4", VideoOptions(crf=10))])
def test_real_looking_content_comes_back_at_45_decibels(tmp_path, name, options):
    frames = real_looking()
    path = write_video(frames, tmp_path / f"a{FORMATS[name].extension}", 24, format=name, options=options)
    error = luma(to_rgb(*planes(path))) - luma(frames)
    assert 10 * np.log10(255**2 / np.mean(error**2)) >= 45


def test_alpha_is_straight_and_comes_back(tmp_path):
    """Colours under half transparency are those that were given, not multiplied with it."""
    frames = np.zeros((3, 48, 64, 4), np.uint8)
    frames[..., :3] = (200, 100, 50)
    frames[..., 3] = np.linspace(0, 255, 64).astype(np.uint8)
    for name, pixels in (("ffv1-mkv", "rgba"), ("prores-4444-mov", "yuva444p12le")):
        path = write_video(frames, tmp_path / f"a{FORMATS[name].extension}", 24, format=name)
        with av.open(str(path)) as container:
            frame = next(container.decode(video=0))
            assert "a" in frame.format.name
            if pixels == "rgba":
                assert np.array_equal(frame.to_ndarray(format="rgba"), frames[0])
            else:
                (y, cb, cr), bits = planes(path)
                colour = to_rgb([y, cb, cr], bits)[0, :, 8:-8]
                assert np.abs(colour - (200, 100, 50)).max() <= 2
                plane = frame.planes[3]
                alpha = np.frombuffer(plane, "<u2").reshape(plane.height, -1)[:, :64] / 4095 * 255
                assert np.abs(alpha - frames[0, ..., 3]).max() <= 1


def test_vp9_alpha_comes_back(tmp_path):
    frames = np.zeros((3, 48, 64, 4), np.uint8)
    frames[..., :3], frames[:, :, 32:, 3] = 128, 255
    path = write_video(frames, tmp_path / "a.webm", 24, format="vp9-webm", quality="highest")
    with av.open(str(path)) as container:
        decoder = av.CodecContext.create("libvpx-vp9", "r")
        packets = list(container.demux(video=0))
        frame = [frame for packet in packets for frame in decoder.decode(packet)][0]
    alpha = np.frombuffer(frame.planes[3], np.uint8).reshape(48, -1)[:, :64]
    assert alpha[:, :28].max() <= 4 and alpha[:, 36:].min() >= 251


def test_dither_keeps_the_mean_of_what_8_bits_cannot_say(tmp_path):
    """A grey between two steps: without dither all of it falls on one, with it the mean is kept."""
    frames = torch.full((1, 64, 64, 3), 100.25 / 255)

    def picture(dither):
        options = VideoOptions(dither=dither)
        with Image.open(write_video(frames, tmp_path / f"{dither}.png", 8, format="apng", options=options)) as image:
            return np.asarray(image)

    plain, dithered = picture("none"), picture("ordered")
    assert set(np.unique(plain)) == {100} and set(np.unique(dithered)) == {100, 101}
    assert dithered.mean() == pytest.approx(100.25, abs=0.005)
    eighth = dithered[:8, :8, 0]
    assert np.array_equal(dithered[..., 0], np.tile(eighth, (8, 8)))


def test_sixteen_bits_fed_to_an_8_bit_format_are_rounded(tmp_path):
    values = np.arange(0, 65536, 16, dtype=np.uint16)
    frames = np.broadcast_to(values.reshape(1, 64, 64, 1), (1, 64, 64, 3))
    with Image.open(write_video(frames, tmp_path / "a.png", 8, format="apng")) as image:
        picture = np.asarray(image)[..., 0].ravel()
    exact = values.astype(np.int64) * 255
    assert np.abs(picture.astype(np.int64) * 65535 - exact).max() <= 65535 // 2 + 1


def test_luma_and_chroma_are_rounded_not_truncated(tmp_path):
    """Lossless, so that what is left of the formula is the conversion: as often too high as too low, half a step."""
    frames = real_looking(count=2)
    path = write_video(frames, tmp_path / "a.mp4", 8, options=VideoOptions(crf=0))
    (y, cb, cr), _ = planes(path)
    rgb = frames.astype(np.float64) / 255
    exact = rgb @ np.array([0.2126, 0.7152, 0.0722])
    error = y - (16 + 219 * exact)
    assert abs(error.mean()) < 0.02 and np.abs(error).max() <= 0.75
    for plane, primary, reach in ((cb, 2, 1.8556), (cr, 0, 1.5748)):
        wanted = 128 + 224 * (rgb[..., primary] - exact) / reach
        wanted = wanted.reshape(2, 72, 2, 128, 2).mean((2, 4))
        assert abs((plane - wanted).mean()) < 0.05, primary
