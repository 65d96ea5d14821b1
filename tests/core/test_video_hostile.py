"""Files that are no videos, or mean harm: each really made, each refused or read safely, within seconds."""

import os
import socket
import struct
import time
import zlib
from pathlib import Path

import numpy as np
import pytest
from clips import H264, LOSSLESS, ffmpeg, make, number, numbered
from PIL import Image

from t2v_core.errors import VideoError
from t2v_core.video.reading import inputs
from t2v_core.video.reading.probe import count_frames, probe
from t2v_core.video.reading.read import read_video
from t2v_core.video.reading.read_audio import read_audio

SECONDS = 60  # on a machine that does other work too
posix = pytest.mark.skipif(os.name != "posix", reason="pipes, devices and names of POSIX")


def refused(path, message="", seconds=SECONDS):
    started = time.monotonic()
    for read in (probe, lambda path: list(read_video(path)), read_audio):
        with pytest.raises(VideoError, match=message) as error:
            read(path)
    assert time.monotonic() - started < seconds
    return str(error.value)


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    noise = np.random.default_rng(0).integers(0, 21, (40, 48, 64, 3), np.uint8)
    return make(tmp_path_factory.mktemp("clip") / "a.mp4", numbered(40) + noise, *H264, "-movflags", "+faststart")


@pytest.mark.parametrize(
    "content, message",
    [
        (b"", "is empty"),
        (b"I am a text\n" * 50, "not a video this can read"),
        (bytes(5000), "not a video this can read"),
        (os.urandom(5000), "not a video this can read"),
        (b"ID3\x04" + bytes(500), "not a video this can read"),
        (b"#EXTM3U\n#EXT-X-TARGETDURATION:1\n#EXTINF:1,\nfile:///etc/passwd\n#EXT-X-ENDLIST\n", "playlist"),
        (b"\xef\xbb\xbf#EXTM3U\nhttp://127.0.0.1:9/a.ts\n", "playlist"),
        (b"ffconcat version 1.0\nfile /etc/passwd\n", "playlist"),
        (b"ffconcat version 1.0\nfile 'http://127.0.0.1:9/a'\n", "playlist"),
        (b'<?xml version="1.0"?><MPD><BaseURL>file:///etc/</BaseURL></MPD>', "playlist"),
        (b"v=0\no=- 0 0 IN IP4 127.0.0.1\nm=video 9 RTP/AVP 96\n", "playlist"),
        (b"concat:/etc/passwd|/etc/hosts", "not a video this can read"),
        (b"\0\0\0\x18ftypisom" + bytes(12), "no whole mp4 file|no stream|nothing"),
        (b"\0\0\0\x18ftypisom" + os.urandom(3000), "."),
        (b"\x1a\x45\xdf\xa3" + os.urandom(3000), "."),
        (b"RIFF\xff\xff\xff\xffAVI " + os.urandom(3000), "."),
        (b"RIFF\xff\xff\xff\xffWEBP" + os.urandom(3000), "."),
        (b"GIF89a" + os.urandom(3000), "."),
        (b"\x89PNG\r\n\x1a\n" + os.urandom(3000), "."),
        (b"OggS" + os.urandom(3000), "."),
        (b"FLV\x01\x05\0\0\0\x09" + os.urandom(3000), "."),
    ],
    ids=range(21),
)
@pytest.mark.parametrize("name", ["a.mp4", "a.mkv"])
def test_what_is_no_video(tmp_path, content, message, name):
    file = tmp_path / name
    file.write_bytes(content)
    refused(file, message)


def test_ffmpeg_would_have_followed_the_playlist(tmp_path, clip):
    """So the refusals above refuse something: left to itself it reads the other file, whatever the name ends in."""
    other = tmp_path / "list.mp4"
    other.write_text(f"ffconcat version 1.0\nfile '{clip}'\n")
    assert len(ffmpeg("-safe", "0", "-f", "concat", "-i", other, "-f", "rawvideo", "-")) == 40 * 64 * 48 * 3 // 2
    refused(other, "playlist")


@posix
def test_pipes_folders_devices_and_sockets(tmp_path):
    pipe, link, bound = tmp_path / "pipe.mp4", tmp_path / "link.mp4", tmp_path / "s.mp4"
    os.mkfifo(pipe)
    link.symlink_to("/dev/zero")
    server = socket.socket(socket.AF_UNIX)
    server.bind(str(bound))
    for path in (pipe, link, "/dev/zero", "/dev/stdin", bound):
        refused(path, "a pipe or a device|No such|no video")
    server.close()
    refused(tmp_path, "is a folder")
    refused(tmp_path / "nowhere.mp4", "cannot read .*No such file")
    refused(tmp_path / ("a" * 300), "cannot read")
    refused("", "no file name")
    refused("a\0b.mp4", "no file name")
    for wrong in (None, 5, ["a"]):
        refused(wrong, "given by its path")
    refused("http://127.0.0.1:9/a.mp4", "cannot read")
    refused("concat:/etc/passwd|/etc/hosts", "cannot read")


@posix
@pytest.mark.parametrize(
    "name",
    [
        "it's.mp4",
        'a "b".mp4',
        "-i.mp4",
        "-vf",
        "%05d.mp4",
        "%d%s%n.mp4",
        "a\nb.mp4",
        "a:b.mp4",
        "http:a.mp4",
        "[0:v].mp4",
    ]
    + ["файл 日本 😀.mp4", "$(touch x);`touch x`|&.mp4", "a b\tc\\n\\.mp4", "pipe:0", "concat:a|b", "..mp4", "#1?q=2"]
    + [os.fsdecode(b"\xff\xfe.mp4"), "*.mp4", "~", "file:file:x"],
)
def test_any_name_is_only_a_name(tmp_path, clip, name, monkeypatch):
    file = tmp_path / name
    file.write_bytes(clip.read_bytes())
    monkeypatch.chdir(tmp_path)
    assert [number(frame) for frame in read_video(name, 3, 6)] == [3, 4, 5]
    assert probe(file, count=True).num_frames == 40
    assert os.listdir(tmp_path) == [name]


def png(width, height, *chunks):
    def chunk(kind, data):
        return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))

    head = chunk(b"IHDR", struct.pack(">IIBBBBB", width, height, 8, 6, 0, 0, 0))
    pixels = chunk(b"IDAT", zlib.compress(bytes(10**6)))
    return b"\x89PNG\r\n\x1a\n" + head + b"".join(chunk(*each) for each in chunks) + pixels + chunk(b"IEND", b"")


@pytest.mark.parametrize("width, height", [(100_000, 100_000), (100_000, 8), (8, 100_000), (16_000, 16_000)])
def test_headers_that_claim_to_be_enormous(tmp_path, width, height):
    animated = (
        (b"acTL", struct.pack(">II", 2, 0)),
        (b"fcTL", struct.pack(">5I2H2B", 0, width, height, 0, 0, 1, 9, 0, 0)),
    )
    (tmp_path / "a.png").write_bytes(png(width, height))
    (tmp_path / "a.apng").write_bytes(png(width, height, *animated))
    # a frame of a raw AVI is as large as its header says
    small = make(tmp_path / "small.avi", numbered(2), "-c:v", "ffv1").read_bytes()
    place = small.index(b"strf") + 8
    (tmp_path / "a.avi").write_bytes(small[: place + 4] + struct.pack("<ii", width, height) + small[place + 12 :])
    still = b"VP8X\x0a\0\0\0\x02\0\0\0" + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    frame = b"ANMF\x18\0\0\0" + bytes(6) + (width - 1).to_bytes(3, "little") + (height - 1).to_bytes(3, "little")
    body = b"WEBP" + still + b"ANIM\x06\0\0\0" + bytes(6) + frame + bytes(12)
    (tmp_path / "a.webp").write_bytes(b"RIFF" + struct.pack("<I", len(body)) + body)
    why = "both sides must lie in 1|cannot be decoded|cannot be told|no whole|no stream|two sizes"
    for name in ("a.png", "a.apng", "a.avi", "a.webp"):
        refused(tmp_path / name, why)


def test_a_gif_and_a_matroska_that_claim_to_be_enormous(tmp_path):
    gif = make(tmp_path / "a.gif", numbered(2)).read_bytes()
    (tmp_path / "b.gif").write_bytes(gif[:6] + struct.pack("<HH", 65535, 65535) + gif[10:])
    refused(tmp_path / "b.gif", "65535 x 65535|too large")
    mkv = make(tmp_path / "a.mkv", numbered(2), "-c:v", "libvpx-vp9").read_bytes()
    assert mkv.count(b"\xb0\x81\x40\xba\x81\x30") == 1  # PixelWidth 64, PixelHeight 48
    big = tmp_path / "b.mkv"
    big.write_bytes(mkv.replace(b"\xb0\x81\x40\xba\x81\x30", b"\xb0\x81\xff\xba\x81\xff"))
    assert list(read_video(big))[0].shape[:2] in ((48, 64), (255, 255))  # whichever it is, no more than that


@pytest.mark.parametrize("keep", [0.005, 0.3, 0.6, 0.9, 0.999])
def test_a_file_cut_short_gives_what_there_is(tmp_path, clip, keep, caplog):
    content = clip.read_bytes()
    file = tmp_path / "cut.mp4"
    file.write_bytes(content[: int(len(content) * keep)])
    if keep < 0.01:  # not even the index is whole
        refused(file, "no whole mp4 file|cannot be decoded|no stream")
        return
    reader = read_video(file)
    frames = [number(frame) for frame in reader]
    assert 0 < len(frames) <= 40 and frames[: len(frames) // 2] == list(range(len(frames) // 2))
    assert "damaged or cut short" in reader.warning and "damaged or cut short" in caplog.text
    assert probe(file, count=True).num_frames <= 40


@pytest.mark.parametrize("suffix, codec", [("mkv", LOSSLESS), ("webm", ("-c:v", "libvpx")), ("ts", H264), ("gif", ())])
def test_other_kinds_cut_short(tmp_path, suffix, codec):
    content = make(tmp_path / f"a.{suffix}", numbered(40), *codec).read_bytes()
    file = tmp_path / f"cut.{suffix}"
    file.write_bytes(content[: len(content) // 2])
    frames = [number(frame) for frame in read_video(file)]
    assert 3 < len(frames) < 40 and frames[:3] == [0, 1, 2]


def test_an_animation_cut_short(tmp_path):
    pictures = [
        Image.fromarray(frame) for frame in np.random.default_rng(0).integers(0, 256, (20, 48, 64, 3), np.uint8)
    ]
    pictures[0].save(tmp_path / "a.webp", save_all=True, append_images=pictures[1:], duration=50)
    content = (tmp_path / "a.webp").read_bytes()
    (tmp_path / "cut.webp").write_bytes(content[: len(content) // 2])
    try:
        assert 0 < len(list(read_video(tmp_path / "cut.webp"))) < 20
    except VideoError:
        pass  # libwebp will not open it


def boxed(kind, *contents):
    body = b"".join(contents)
    return struct.pack(">I4s", 8 + len(body), kind) + body


def with_reference(content, entry):
    """The mp4, its index at the end, with another entry in its dref: where the samples are said to be."""
    start = content.index(b"dref") - 4
    size = int.from_bytes(content[start : start + 4], "big")
    new = boxed(b"dref", bytes(4), struct.pack(">I", 1), entry)
    result = bytearray(content[:start] + new + content[start + size :])
    for kind in (b"dinf", b"minf", b"mdia", b"trak", b"moov"):
        place = content.rindex(kind, 0, start) - 4
        old = int.from_bytes(content[place : place + 4], "big")
        result[place : place + 4] = (old + len(new) - size).to_bytes(4, "big")
    return bytes(result)


def alias(target: Path) -> bytes:
    """An `alis` entry as QuickTime writes one: a Macintosh alias record with the whole path in it."""
    name, path = target.name.encode(), str(target).encode()
    record = bytes(10) + b"\x04disk".ljust(28, b"\0") + bytes(12) + bytes([len(name)]) + name.ljust(63, b"\0")
    record += bytes(16) + struct.pack(">hh", 0, 1) + bytes(16)
    for kind, text in ((18, path), (2, b"disk:" + path[1:].replace(b"/", b":"))):
        record += struct.pack(">hH", kind, len(text)) + text + bytes(len(text) % 2)
    record += struct.pack(">hH", -1, 0)
    return boxed(b"alis", bytes(4), record.ljust(160, b"\0"))


@pytest.mark.parametrize("kind", ["url", "urn", "alias"])
def test_an_mp4_that_points_at_another_file(tmp_path, kind):
    raw = ("-c:v", "rawvideo", "-pix_fmt", "rgb24")
    secret = make(tmp_path / "secret.mov", numbered(8) // 2 + 60, *raw)
    own = make(tmp_path / "own.mov", np.zeros((8, 48, 64, 3), np.uint8), *raw).read_bytes()
    entry = {
        "url": boxed(b"url ", bytes(4), f"file://{secret}".encode() + b"\0"),
        "urn": boxed(b"urn ", bytes(4), b"x\0", f"file://{secret}".encode() + b"\0"),
        "alias": alias(secret),
    }[kind]
    file = tmp_path / "hostile.mov"
    file.write_bytes(with_reference(own, entry))
    if kind == "alias":  # a real attack: ffmpeg follows it if it is told to
        leaked = ffmpeg("-enable_drefs", "1", "-use_absolute_path", "1", "-i", file, "-f", "rawvideo", "-")
        assert max(leaked, default=0) > 0
    try:
        frames = list(read_video(file))
    except VideoError:
        return
    assert all(frame.max() == 0 for frame in frames)


def patched(content, kind, offset, value):
    place = content.index(kind) + 4 + offset
    return content[:place] + value + content[place + len(value) :]


@pytest.mark.parametrize(
    "kind, offset, value",
    [
        (b"mdhd", 12, b"\0\0\0\0"),  # ticks a second: none
        (b"mdhd", 12, b"\x7f\xff\xff\xff"),
        (b"mdhd", 12, b"\xff\xff\xff\xff"),
        (b"mvhd", 12, b"\0\0\0\0"),
        (b"stts", 12, b"\0\0\0\0"),  # ticks a frame
        (b"stts", 12, b"\x7f\xff\xff\xff"),
        (b"stts", 12, b"\xff\xff\xff\xff"),
        (b"stts", 8, b"\xff\xff\xff\xff"),  # frames of that length
        (b"stsz", 8, b"\xff\xff\xff\xff"),  # frames
        (b"stco", 4, b"\xff\xff\xff\xff"),
        (b"stsd", 4, b"\xff\xff\xff\xff"),
        (b"elst", 8, b"\xff\xff\xff\xff\xff\xff\xff\xff"),
        (b"mdhd", 16, b"\xff\xff\xff\xff"),  # its length
    ],
)
def test_an_mp4_with_wrong_numbers(tmp_path, clip, kind, offset, value):
    file = tmp_path / "a.mp4"
    file.write_bytes(patched(clip.read_bytes(), kind, offset, value))
    started = time.monotonic()
    try:
        info = count_frames(probe(file))
        assert info.fps is None or 0.01 <= info.fps <= 1000
        frames = sum(1 for _ in read_video(info))
        resampled = 0
        for _ in read_video(info, fps=24):
            resampled += 1
            if resampled == 5000:
                break
        assert 0 < frames <= 60
    except VideoError:
        pass
    assert time.monotonic() - started < SECONDS


def test_no_stream_of_pictures(tmp_path):
    sound = tmp_path / "sound.mp4"
    ffmpeg("-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac", sound)
    assert "sound (aac)" in refused(sound, "no stream of pictures")
    cover = tmp_path / "cover.mp4"
    picture = tmp_path / "cover.png"
    Image.new("RGB", (16, 16)).save(picture)
    ffmpeg("-i", sound, "-i", picture, "-map", "0", "-map", "1", "-c", "copy", "-disposition:v", "attached_pic", cover)
    refused(cover, "no stream of pictures; it holds sound .aac., picture png")


def test_an_index_and_no_frames(tmp_path):
    ffmpeg("-f", "lavfi", "-i", "color=s=64x48", "-frames:v", "0", "-c:v", "mpeg4", tmp_path / "a.avi")
    refused(tmp_path / "a.avi", "no frame of it can be decoded|no whole|no stream")


def test_damaged_anywhere(tmp_path, clip):
    """Bits turned over in every kind of file: frames or a VideoError, never anything else, never a hang."""
    random = np.random.default_rng(0)
    others = {"a.webm": ("-c:v", "libvpx"), "a.gif": (), "a.apng": ("-f", "apng"), "a.webp": ("-loop", "0")}
    files = [clip, *(make(tmp_path / name, numbered(6), *codec) for name, codec in others.items())]
    for file in files:
        content = np.frombuffer(file.read_bytes(), np.uint8)
        for _ in range(2):
            broken = content.copy()
            broken[random.integers(0, len(broken), 12)] ^= random.integers(1, 256, 12, np.uint8)
            damaged = tmp_path / f"damaged{file.suffix}"
            damaged.write_bytes(broken.tobytes())
            try:
                assert all(frame.size for frame in read_video(probe(damaged, count=True), 0, 50))
            except VideoError as error:
                assert str(error)


def test_metadata_beyond_all_bounds_is_refused(tmp_path):
    bomb = zlib.compress(bytes(2**26 + 1), 1)
    (tmp_path / "a.png").write_bytes(png(8, 8, (b"zTXt", b"workflow\0\0" + bomb)))
    with pytest.raises(VideoError, match="more than 67,108,864 bytes of text"):
        probe(tmp_path / "a.png")


def test_names_stay_inside_a_folder(tmp_path, clip):
    folder = tmp_path / "input"
    (folder / "sub").mkdir(parents=True)
    for path in (folder / "a.mp4", folder / "sub" / "b.mp4", tmp_path / "c.mp4"):
        path.write_bytes(b"x")
    assert inputs.inside(folder, "sub/b.mp4") == (folder / "sub" / "b.mp4").resolve()
    for name in ("../c.mp4", "sub/../../c.mp4", str(tmp_path / "c.mp4"), "/etc/passwd"):
        with pytest.raises(VideoError, match="leads out of the folder"):
            inputs.inside(folder, name)
    for name in ("no.mp4", "sub", ".", "a.mp4/x"):
        with pytest.raises(VideoError, match="no file"):
            inputs.inside(folder, name)
    for name in ("", "a\0", None, 5, "x" * 5000):
        with pytest.raises(VideoError):
            inputs.inside(folder, name)
    if os.name == "posix":
        (folder / "link.mp4").symlink_to(tmp_path / "c.mp4")
        with pytest.raises(VideoError, match="leads out of the folder"):
            inputs.inside(folder, "link.mp4")
        (folder / "loop.mp4").symlink_to(folder / "loop.mp4")
        with pytest.raises(VideoError):
            inputs.inside(folder, "loop.mp4")
    assert inputs.videos_in(folder)[0] == "a.mp4" and "sub" not in inputs.videos_in(folder)
    assert inputs.videos_in(tmp_path / "nowhere") == []
