"""The colours and the alpha that reading gives, by the book and beside PyAV."""

import numpy as np
import pytest
from clips import H264, LOSSLESS, by_pyav, ffmpeg, make
from PIL import Image

from t2v_core.video.reading.probe import probe
from t2v_core.video.reading.read import read_video


def read(*arguments, **options):
    return np.stack(list(read_video(*arguments, **options)))


PATCHES = [(255, 0, 0), (0, 255, 0), (0, 0, 255), (255, 255, 255), (0, 0, 0), (128, 128, 128), (224, 172, 105)]
PATCHES += [(16, 16, 16), (235, 235, 235), (255, 255, 0), (0, 255, 255), (255, 0, 255), (141, 85, 36), (1, 254, 77)]
LUMA = {"bt709": (0.2126, 0.0722), "smpte170m": (0.299, 0.114), "bt2020nc": (0.2627, 0.0593)}


def yuv(rgb, matrix, full, bits=8):
    """Y, Cb, Cr of one colour as ITU-R BT.709-6, 3.2 to 3.5, defines them, for any pair of luma weights."""
    red, green, blue = (value / 255 for value in rgb)
    wide, narrow = LUMA[matrix]
    y = wide * red + (1 - wide - narrow) * green + narrow * blue
    values = y, (blue - y) / 2 / (1 - narrow), (red - y) / 2 / (1 - wide)
    if full:
        return [round(values[0] * 255), *(min(255, round(128 + value * 255)) for value in values[1:])]
    scale = 2 ** (bits - 8)
    return [round((16 + 219 * values[0]) * scale), *(round((128 + 224 * value) * scale) for value in values[1:])]


def rgb_of(values, matrix, full, bits):
    """The colour that Y, Cb, Cr stand for, 0..255: `yuv` solved for red, green and blue, clipped."""
    scale = 2 ** (bits - 8)
    offset, luma, chroma = (0, 255, 255) if full else (16 * scale, 219 * scale, 224 * scale)
    wide, narrow = LUMA[matrix]
    y, cb, cr = (values[0] - offset) / luma, *((value - 128 * scale) / chroma for value in values[1:])
    red, blue = y + 2 * (1 - wide) * cr, y + 2 * (1 - narrow) * cb
    green = (y - wide * red - narrow * blue) / (1 - wide - narrow)
    return [min(255.0, max(0.0, 255 * value)) for value in (red, green, blue)]


@pytest.mark.parametrize("size", [(64, 32), (1280, 720)])
@pytest.mark.parametrize(
    "matrix, tagged, full, pixels",
    [("bt709", True, False, "yuv420p"), ("bt709", True, True, "yuv420p"), ("smpte170m", True, False, "yuv444p")]
    + [("smpte170m", True, True, "yuv420p"), ("bt2020nc", True, False, "yuv420p10le"), (None, False, False, "yuv420p")],
)
def test_flat_colours_by_the_book(tmp_path, matrix, tagged, full, pixels, size):
    """Files are made of Y, Cb, Cr counted by hand, so no conversion but the reader's takes part."""
    width, height = size
    meant = matrix or ("bt709" if height >= 720 else "smpte170m")
    bits, raw = (10, "<u2") if "10" in pixels else (8, "u1")
    chroma = width * height if "444" in pixels else width * height // 4
    stream = b"".join(
        np.full(count, value, raw).tobytes()
        for rgb in PATCHES
        for value, count in zip(yuv(rgb, meant, full, bits), (width * height, chroma, chroma), strict=True)
    )
    source = ("-f", "rawvideo", "-pix_fmt", pixels, "-s", f"{width}x{height}", "-r", "25")
    tags = ("-colorspace", matrix, "-color_range", "pc" if full else "tv") if tagged else ()
    filters = ("-vf", f"setparams=colorspace={matrix}:range={'pc' if full else 'tv'}") if tagged else ()
    file = tmp_path / "a.mkv"
    ffmpeg(*source, "-i", "-", *filters, "-c:v", "ffv1", "-pix_fmt", pixels, *tags, file, stdin=stream)
    found = read(file, bits=8)
    assert (found == found[:, :1, :1]).all()  # flat, to the borders
    exact = np.array([rgb_of(yuv(rgb, meant, full, bits), meant, full, bits) for rgb in PATCHES])
    assert np.abs(found[:, 0, 0] - exact).max() <= 1
    assert np.abs(read(file, bits=16)[:, 0, 0] / 257 - exact).max() <= (1 if bits == 8 else 0.15)


@pytest.mark.parametrize("pixels", ["gray", "gray10le", "gray12le", "gray16le", "yuva444p10le", "gbrap10le"])
def test_white_is_white_at_any_depth(tmp_path, pixels):
    frames = np.full((1, 16, 64, 4), 65535, np.uint16)
    frames[:, :, ::2, 3] = 0 if "a4" in pixels or "ap" in pixels else 65535
    frames[:, 8:, :, :3] = 0
    clip = make(
        tmp_path / "a.mkv",
        frames,
        "-vf",
        "scale=out_range=tv" if "yuv" in pixels else "null",
        "-c:v",
        "ffv1",
        "-pix_fmt",
        pixels,
    )
    assert (read(clip, bits=16, alpha=True) == frames).all()
    assert (read(clip, bits=8, alpha=True) == frames // 257).all()
    assert (read(clip, bits=8) == frames[..., :3] // 257).all()


def test_colours_as_pyav_reads_them(tmp_path):
    smooth = np.random.default_rng(1).integers(0, 256, (3, 6, 8, 3), np.uint8).repeat(16, 1).repeat(16, 2)
    tagged = (*H264, "-vf", "scale=out_color_matrix=bt709:out_range=tv,setparams=colorspace=bt709:range=tv")
    clip = make(tmp_path / "a.mp4", smooth, *tagged)
    theirs, ours = by_pyav(clip).astype(int), read(clip).astype(int)
    inside = (slice(None), slice(6, None, 16), slice(6, None, 16))  # away from where colours meet
    assert np.abs(ours[inside] - theirs[inside]).max() <= 4  # theirs is truncated


def test_alpha(tmp_path):
    frames = np.full((4, 32, 48, 4), (200, 60, 30, 0), np.uint8)
    frames[:, :, 16:, 3], frames[:, :, 32:, 3] = 128, 255
    lossless = ("-c:v", "libvpx-vp9", "-lossless", "1", "-pix_fmt", "yuva420p", "-cpu-used", "8")
    prores = ("-c:v", "prores_ks", "-profile:v", "4444", "-pix_fmt", "yuva444p10le", "-alpha_bits", "16")
    for name, arguments in {"a.webm": lossless, "a.mov": prores, "a.apng": ("-f", "apng", "-pix_fmt", "rgba")}.items():
        clip = make(tmp_path / name, frames, *arguments)
        assert probe(clip).stream.alpha, name
        found = read(clip, alpha=True, bits=8)
        assert found.shape == frames.shape
        assert np.abs(found[:, 8:24, 8::16].astype(int) - frames[:, 8:24, 8::16]).max() <= 4, name
        assert read(clip, bits=8).shape == frames.shape[:3] + (3,)
    webp = tmp_path / "a.webp"
    pictures = [Image.fromarray(frame) for frame in frames + np.uint8([[1, 0, 0, 0], [0, 0, 0, 0]] * 2)[:, None, None]]
    pictures[0].save(webp, save_all=True, append_images=pictures[1:], lossless=True, exact=True, duration=40)
    found = read(webp, alpha=True)
    assert (found[..., 3] == frames[..., 3]).all() and (found[:, :, 16:] - frames[:, :, 16:] <= 1).all()
    opaque = make(tmp_path / "a.mkv", frames[..., :3], *LOSSLESS)
    assert (read(opaque, alpha=True)[..., 3] == 255).all()
