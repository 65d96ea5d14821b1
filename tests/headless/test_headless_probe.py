"""`python -m headless probe`: what is in a video, and its workflow, for people, as JSON, and as a file."""

import json
import signal
import subprocess
from types import SimpleNamespace

import pytest
from clips import H264, LOSSLESS, make, numbered

WORKFLOW = {"nodes": [{"id": 1, "type": "T2VSampler"}, {"id": 2, "type": "T2VSaveVideo"}], "links": []}
PROMPT = {"1": {"class_type": "T2VTextEncode", "inputs": {"text": 'a "red" circle;\n= # \\ 日本'}}}


@pytest.fixture(scope="module")
def clip(tmp_path_factory):
    sound = ("-f", "lavfi", "-i", "sine=r=8000:d=1")
    tags = {"prompt": PROMPT, "workflow": WORKFLOW}
    metadata = [word for name, value in tags.items() for word in ("-metadata", f"{name}={json.dumps(value)}")]
    place = tmp_path_factory.mktemp("clip") / "a.mp4"
    arguments = (*H264, *metadata, "-metadata", "title=\x1b[31mred\nline", "-movflags", "use_metadata_tags")
    return make(place, numbered(24), *arguments, fps="24000/1001", inputs=sound)


@pytest.fixture
def headless(part, capsys):
    """headless(arguments...) runs the command line in this process: its exit code, stdout and stderr."""
    before = signal.getsignal(signal.SIGTERM)

    def headless(*arguments):
        code = part("headless.cli").main([str(argument) for argument in arguments])
        return SimpleNamespace(returncode=code, **capsys.readouterr()._asdict())

    yield headless
    signal.signal(signal.SIGTERM, before)


def test_for_people(headless, clip):
    done = headless("probe", clip)
    assert (done.returncode, done.err) == (0, "")
    lines = done.out.splitlines()
    assert lines[0] == str(clip) and lines[1].startswith("  mp4, ") and lines[1].endswith("24 frames")
    assert lines[2] == "  64 x 48, 23.976 frames a second (24000/1001)"
    assert lines[3] == "  h264 (High), yuv420p, 8 bits" and lines[5] == "  sound: aac, 8000 Hz, mono"
    assert "  prompt: 1 node (T2VTextEncode)" in lines
    assert "  workflow: 2 nodes (T2VSampler, T2VSaveVideo)" in lines
    assert "\x1b" not in done.out and "  title: \\x1b[31mred\\nline" in lines


def test_as_json(headless, clip):
    done = headless("probe", clip, "--json")
    told = json.loads(done.out)
    assert told["prompt"] == PROMPT and told["workflow"] == WORKFLOW
    asked = "stream=codec_name,profile,pix_fmt,width,height,r_frame_rate,nb_read_packets:format=duration"
    command = ["ffprobe", "-v", "error", "-select_streams", "v:0", "-count_packets", "-show_entries", asked]
    try:
        found = subprocess.run([*command, "-of", "json", str(clip)], capture_output=True, check=True).stdout
    except FileNotFoundError:
        pytest.skip("no ffprobe to compare with")
    theirs = json.loads(found)
    stream = theirs["streams"][0]
    names = {"codec": "codec_name", "profile": "profile", "pixel_format": "pix_fmt", "width": "width"}
    names |= {"height": "height", "fps": "r_frame_rate"}
    assert {name: told[name] for name in names} == {name: stream[key] for name, key in names.items()}
    assert told["num_frames"] == int(stream["nb_read_packets"])
    assert told["duration"] == pytest.approx(float(theirs["format"]["duration"]), abs=0.02)


def test_the_workflow_into_a_new_file(headless, clip, tmp_path):
    out = tmp_path / "out.json"
    done = headless("probe", clip, "--workflow", out)
    assert (done.returncode, done.err) == (0, "") and json.loads(out.read_text()) == WORKFLOW
    out.write_text("mine")
    done = headless("probe", clip, "--workflow", out)
    assert done.returncode == 2 and "exists already" in done.err and out.read_text() == "mine"
    done = headless("probe", clip, "--workflow", tmp_path / "no" / "out.json")
    assert done.returncode == 2 and "cannot write" in done.err


def test_what_has_none_and_what_is_no_video(headless, tmp_path):
    bare = make(tmp_path / "a.mkv", numbered(3), *LOSSLESS)
    done = headless("probe", bare, "--workflow", tmp_path / "out.json")
    assert done.returncode == 2 and "there is no workflow in it" in done.err and "workflow" not in done.out
    odd = make(tmp_path / "odd.mkv", numbered(3), *LOSSLESS, "-metadata", "workflow={{{", "-metadata", "prompt=[1]")
    done = headless("probe", odd)
    assert done.returncode == 0 and "workflow: 3 characters that are no workflow" in done.out
    done = headless("probe", odd, "--workflow", tmp_path / "out.json")
    assert done.returncode == 2 and "no JSON object" in done.err and not (tmp_path / "out.json").exists()
    (tmp_path / "text.mp4").write_text("hello")
    for file in (tmp_path / "text.mp4", tmp_path / "no\n.mp4", tmp_path):
        done = headless("probe", file)
        assert done.returncode == 2 and done.out == ""
        assert done.err.startswith("error: ") and done.err.count("\n") == 1
