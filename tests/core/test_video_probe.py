"""What is in a file: compared with Debian's ffprobe, and with what the file was made of."""

import json
import shutil
import subprocess
from fractions import Fraction

import av
import pytest
from clips import H264, LOSSLESS, ffmpeg, make, numbered
from PIL import Image, PngImagePlugin

from t2v_core.errors import VideoError
from t2v_core.video.reading.describe import describe
from t2v_core.video.reading.metadata_read import parse_ffmetadata
from t2v_core.video.reading.probe import count_frames, probe
from t2v_core.video.reading.report import parse_report

TAGGED = (
    "-vf",
    "scale=out_color_matrix=bt709:out_range=tv,setparams=range=tv:colorspace=bt709:color_primaries=bt709"
    ":color_trc=bt709",
)
FILES = {
    "h264.mp4": (24, (*H264, *TAGGED)),
    "ntsc.mp4": ("24000/1001", H264),
    "thirty.mkv": ("30000/1001", LOSSLESS),
    "odd.mp4": ("17/3", H264),
    "fast.mp4": (240, H264),
    "slow.mp4": ("1/2", (*H264, "-bf", "0")),
    "deep.mp4": (25, ("-c:v", "libx265", "-preset", "ultrafast", "-pix_fmt", "yuv420p10le")),
    "prores.mov": (25, ("-c:v", "prores_ks", "-profile:v", "4", "-pix_fmt", "yuva444p10le", *TAGGED)),
    "vp9.webm": (50, ("-c:v", "libvpx-vp9", "-deadline", "realtime", "-cpu-used", "8")),
    "av1.webm": (25, ("-c:v", "libsvtav1", "-preset", "12")),
    "ffv1.mkv": (24, ("-c:v", "ffv1", "-pix_fmt", "gbrp16le")),
    "a.gif": (20, ()),
    "a.apng": (25, ("-f", "apng", "-pix_fmt", "rgb48be")),
    "a.avi": (25, ("-c:v", "mjpeg", "-pix_fmt", "yuvj420p")),
    "a.ts": (25, H264),
}  # fmt: skip


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    folder = tmp_path_factory.mktemp("files")
    return {name: make(folder / name, numbered(20), *arguments, fps=fps) for name, (fps, arguments) in FILES.items()}


@pytest.mark.skipif(shutil.which("ffprobe") is None, reason="needs ffprobe")
@pytest.mark.parametrize("name", FILES)
def test_what_ffprobe_finds_too(files, name):
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets", "-show_streams", "-of", "json"]
    found = subprocess.run([*command, str(files[name])], capture_output=True, check=True).stdout
    theirs, ours = json.loads(found)["streams"][0], probe(files[name], count=True)
    stream = ours.stream
    assert (stream.codec, ours.width, ours.height) == (theirs["codec_name"], theirs["width"], theirs["height"])
    assert ours.num_frames == int(theirs["nb_read_packets"]) == 20
    assert ours.fps == Fraction(theirs["r_frame_rate"]) == Fraction(FILES[name][0]) and not ours.variable_rate
    if name != "a.gif":  # bgra or rgba, by version
        assert stream.pixel_format in (theirs["pix_fmt"], {"gbrp": "bgr0"}.get(theirs["pix_fmt"]))
    for said, key in {"range": "color_range", "matrix": "color_space", "primaries": "color_primaries"}.items():
        assert getattr(stream, said).replace("gbr", "") == theirs.get(key, "").replace("unknown", "").replace("gbr", "")
    assert stream.transfer == theirs.get("color_transfer", "").replace("unknown", "")
    if "duration" in theirs:
        assert ours.duration == pytest.approx(float(theirs["duration"]), abs=0.02)
    if name.endswith(("mp4", "mov")):
        assert stream.profile == theirs["profile"]
    assert probe(files[name]).num_frames is None and probe(files[name]).fps == ours.fps


@pytest.mark.parametrize(
    "name, bits, alpha",
    [("h264.mp4", 8, False), ("deep.mp4", 10, False), ("prores.mov", None, True), ("ffv1.mkv", 16, False)]
    + [("a.apng", 16, False), ("a.gif", 8, True), ("a.avi", 8, False)],
)
def test_depth_and_alpha(files, name, bits, alpha):
    stream = probe(files[name]).stream
    assert stream.alpha == alpha
    assert stream.bits == bits or (bits is None and stream.bits in (10, 12))  # ProRes 4444 is decoded as 12


REPORT = """Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'a.mp4':
  Metadata:
    title           : x
                    : Stream #0:9: Video: fake, rgb24, 9x9, 9 fps
  Duration: 01:02:03.50, start: 0.000000, bitrate: 305 kb/s
  Stream #0:0[0x1](und): Video: hevc (Main 10) (hvc1 / 0x31637668), yuv420p10le(tv, bt2020nc/bt2020/smpte2084, \
progressive), 3840x2160 [SAR 64:45 DAR 16:9], 223 kb/s, 59.94 fps, 1k tbr, 90k tbn (default)
    Metadata:
      handler_name    : VideoHandler
    Side data:
      {turn}: rotation of -90.00 degrees
  Stream #0:1[0x2](eng): Audio: aac (LC) (mp4a / 0x6134706D), 48000 Hz, 5.1(side), fltp, 69 kb/s (default)
  Stream #0:2: Video: mjpeg (Baseline), yuvj420p(pc, bt470bg/unknown/unknown), 600x600, 90k tbr, 90k tbn (attached pic)
      displaymatrix: rotation of 180.00 degrees
  Stream #0:3(und): Subtitle: mov_text (tx3g / 0x67337874), 0 kb/s
Output #0, ffmetadata, to 'pipe:':
  Stream #0:4: Video: h264, yuv420p, 2x2
"""


@pytest.mark.parametrize("turn", ["displaymatrix", "Display Matrix"])
def test_a_report_taken_apart(turn):
    report = parse_report(REPORT.replace("{turn}", turn))
    (video,), (audio,) = report.video, report.audio
    assert report.duration == 3723.5 and report.others == ["picture mjpeg", "subtitle mov_text"]
    assert (video.index, video.codec, video.profile, video.pixel_format) == (0, "hevc", "Main 10", "yuv420p10le")
    assert (video.width, video.height, video.pixel_aspect) == (3840, 2160, Fraction(64, 45))
    assert (video.range, video.matrix, video.primaries, video.transfer) == ("tv", "bt2020nc", "bt2020", "smpte2084")
    assert (video.average_rate, video.base_rate, video.bits, video.rotation) == (Fraction("59.94"), 1000, 10, -90)
    assert (audio.index, audio.codec, audio.sample_rate, audio.channels) == (1, "aac", 48000, "5.1(side)")
    older = "    Stream #0:0: Video: h264, yuv420p(progressive), 64x48, 25 fps, 25 tbr, 1k tbn, 50 tbc"
    assert parse_report("Input #0\n" + older).video[0].average_rate == 25
    assert parse_report("nothing at all").video == []


@pytest.mark.parametrize(
    "pixel_format, bits, alpha",
    [("yuv420p", 8, False), ("yuv422p10le", 10, False), ("yuva444p12le", 12, True), ("gbrp16le", 16, False)]
    + [("gbrapf32le", 16, True), ("rgb24", 8, False), ("rgb48be", 16, False), ("rgba64be", 16, True), ("pal8", 8, True)]
    + [("gray", 8, False), ("gray10le", 10, False), ("ya8", 8, True), ("ya16be", 16, True), ("nv12", 8, False)]
    + [("p010le", 10, False), ("bgra", 8, True), ("bgr0", 8, False), ("x2rgb10le", 10, False), ("yuv411p", 8, False)],
)
def test_pixel_formats_by_their_names(pixel_format, bits, alpha):
    line = f"  Stream #0:0: Video: x, {pixel_format}(tv), 8x8, 25 fps, 25 tbr, 1k tbn"
    stream = parse_report(f"Input #0\n{line}").video[0]
    assert (stream.pixel_format, stream.bits, stream.alpha) == (pixel_format, bits, alpha)


TEXTS = [
    '{"a": "quotes \\" backslash \\\\ = ; # [x] %d 日本 é 😀"}',
    "line\nbreak\r\n\n[STREAM]\nprompt=1;\\\\\n#",
    "x" * 3_000_000,
    "{}",
]


@pytest.mark.parametrize("suffix", ["mp4", "mov", "mkv", "webm"])
@pytest.mark.parametrize("text", TEXTS, ids=["awkward", "lines", "3 MB", "small"])
def test_metadata_of_any_length_comes_back_whole(tmp_path, suffix, text):
    codec = ("-c:v", "libvpx") if suffix == "webm" else ("-c:v", "mpeg4")
    plain, file = make(tmp_path / f"plain.{suffix}", numbered(3), *codec), tmp_path / f"a.{suffix}"
    flags = {"movflags": "use_metadata_tags"} if suffix in ("mp4", "mov") else {}
    with av.open(str(plain)) as source, av.open(str(file), "w", options=flags) as target:  # not by our own writer
        target.metadata["prompt"], target.metadata["workflow"] = text, '{"last": "ü"}'
        stream = target.add_stream_from_template(source.streams.video[0])
        for packet in source.demux(video=0):
            if packet.dts is not None:
                packet.stream = stream
                target.mux(packet)
    metadata = probe(file).metadata
    assert metadata["prompt"] == text and metadata["workflow"] == '{"last": "ü"}'


def test_ffmetadata_ends_where_its_streams_begin():
    data = b";FFMETADATA1\nPROMPT=a\\=b\nk\\=1=v\\\n\n\n[CHAPTER]\nTIMEBASE=1/1\ntitle=x\n"
    assert parse_ffmetadata(data) == {"prompt": "a=b", "k=1": "v\n"}
    assert parse_ffmetadata(b"") == {}


def test_metadata_of_pictures(tmp_path):
    workflow = json.dumps({"nodes": [], "text": "日本"})
    chunks = PngImagePlugin.PngInfo()
    chunks.add_text("prompt", "{}")
    chunks.add_itxt("workflow", workflow, zip=True)
    frames = [Image.fromarray(frame) for frame in numbered(4)]
    frames[0].save(tmp_path / "a.png", pnginfo=chunks)
    frames[0].save(tmp_path / "b.png", pnginfo=chunks, save_all=True, append_images=frames[1:], duration=40)
    exif = frames[0].getexif()
    exif[0x0110], exif[0x010F] = "prompt:{}", "workflow:" + json.dumps({"nodes": []})
    frames[0].save(tmp_path / "a.webp", exif=exif)
    frames[0].save(tmp_path / "b.webp", exif=exif, save_all=True, append_images=frames[1:], duration=40)
    for name in ("a.png", "b.png"):
        assert probe(tmp_path / name).metadata == {"prompt": "{}", "workflow": workflow}
    for name in ("a.webp", "b.webp"):
        assert probe(tmp_path / name).metadata == {"prompt": "{}", "workflow": '{"nodes": []}'}
    assert [probe(tmp_path / name, count=True).num_frames for name in ("a.png", "b.png")] == [1, 4]
    assert [probe(tmp_path / name).num_frames for name in ("a.webp", "b.webp")] == [1, 4]
    assert probe(tmp_path / "b.webp").fps == 25 and probe(tmp_path / "b.png", count=True).fps == 25


def test_sound_and_other_streams(tmp_path):
    sound = ("-f", "lavfi", "-i", "sine=r=44100:d=1", "-f", "lavfi", "-i", "anullsrc=r=48000:cl=5.1:d=1")
    both = ("-map", "0:v", "-map", "1:a", "-map", "2:a", *H264)
    info = probe(make(tmp_path / "a.mp4", numbered(24), *both, "-shortest", inputs=sound))
    assert [(track.codec, track.sample_rate, track.channels) for track in info.audio] == [
        ("aac", 44100, "mono"),
        ("aac", 48000, "5.1"),
    ]
    text = "\n".join(describe(count_frames(info)))
    assert "24 frames" in text and "sound: aac, 44100 Hz, mono" in text and "24 frames a second" in text


def test_the_picture_on_the_cover_is_not_the_video(tmp_path):
    clip, cover = make(tmp_path / "a.mp4", numbered(5), *H264), tmp_path / "cover.png"
    Image.new("RGB", (16, 16)).save(cover)
    both = ("-map", "1", "-map", "0", "-c", "copy", "-disposition:v:0", "attached_pic")
    ffmpeg("-i", clip, "-i", cover, *both, tmp_path / "b.mp4")
    info = probe(tmp_path / "b.mp4", count=True)
    assert (info.stream.codec, info.width, info.num_frames) == ("h264", 64, 5) and "picture png" in info.others


@pytest.mark.parametrize("aspect", ["4/3", "64/45"])
def test_pixels_that_are_not_square(tmp_path, aspect):
    info = probe(make(tmp_path / "a.mp4", numbered(3), *H264, "-vf", f"setsar={aspect}"))
    assert info.stream.pixel_aspect == Fraction(aspect) and (info.width, info.height) == (64, 48)
    assert f"pixels {aspect.replace('/', ':')}" in "\n".join(describe(info))


def test_another_ffmpeg_says_the_same(files, monkeypatch):
    """Debian's, which is several years older than the one that imageio-ffmpeg brings."""
    system = shutil.which("ffmpeg")
    if system is None:
        pytest.skip("needs another ffmpeg")
    for name in ("h264.mp4", "ntsc.mp4", "prores.mov", "a.gif", "vp9.webm"):
        monkeypatch.delenv("IMAGEIO_FFMPEG_EXE", raising=False)
        ours = probe(files[name], count=True)
        monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", system)
        theirs = probe(files[name], count=True)
        assert (ours.fps, ours.num_frames, ours.width, ours.stream.range, ours.stream.matrix) == (
            theirs.fps,
            theirs.num_frames,
            theirs.width,
            theirs.stream.range,
            theirs.stream.matrix,
        ), name


def test_an_ffmpeg_that_answers_nothing_or_never(files, monkeypatch, tmp_path):
    program = tmp_path / "ffmpeg"
    monkeypatch.setenv("IMAGEIO_FFMPEG_EXE", str(program))
    program.write_text("#!/bin/sh\nexit 0\n")
    program.chmod(0o755)
    with pytest.raises(VideoError, match="no whole mp4 file"):
        probe(files["h264.mp4"])
    program.write_text("#!/bin/sh\nexec sleep 100\n")
    monkeypatch.setattr("t2v_core.video.reading.probe._HEADER_SECONDS", 1.0)
    with pytest.raises(VideoError, match="had not read it after 1 s"):
        probe(files["h264.mp4"])
    program.write_text("#!/bin/sh\nexec yes\n")
    with pytest.raises(VideoError, match="more than"):
        monkeypatch.setattr("t2v_core.video.reading.probe._HEADER_SECONDS", 60.0)
        probe(files["h264.mp4"])
