"""T2VDecodeAndSave and T2VPreviewVideo: what they write is what T2VDecode and T2VSaveVideo would have written."""

import hashlib
import json
import os
import re
import subprocess

import imageio_ffmpeg
import pytest
import torch

SMALL = {"model_name": "tiny.safetensors", "steps": 1, "num_frames": 2, "width": 128, "height": 64}


def ffmpeg(*arguments) -> subprocess.CompletedProcess:
    return subprocess.run([imageio_ffmpeg.get_ffmpeg_exe(), *map(str, arguments)], capture_output=True, check=True)


def frames_of(path, height, width) -> torch.Tensor:
    raw = ffmpeg("-i", path, "-f", "rawvideo", "-pix_fmt", "rgb24", "-").stdout
    return torch.frombuffer(bytearray(raw), dtype=torch.uint8).reshape(-1, height, width, 3)


def files(folder) -> list[str]:
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*") if path.is_file())


@pytest.fixture
def latents():
    return {"samples": 5 * torch.randn(5, 4, 12, 16, generator=torch.Generator().manual_seed(0))}


@pytest.fixture
def save(part, host, tiny, latents):
    def save(**changes):
        arguments = {"fps": 8.0, "filename_prefix": "clips/red", "format": "h264-mp4", "quality": "high"}
        own = {"samples": latents, "vae": tiny.vae, "frames_per_batch": 0, "tile_size": 0}
        with torch.inference_mode():
            return part("nodes").T2VDecodeAndSave().save(**{**own, **arguments, **changes})["ui"]

    return save


@pytest.mark.parametrize("frames_per_batch", [0, 1, 2, 5])
@pytest.mark.parametrize("format", ["h264-mp4", "ffv1-16bit-mkv"])
def test_the_file_is_what_decoding_and_then_saving_writes(
    part, save, tiny, latents, tmp_path, format, frames_per_batch
):
    nodes = part("nodes")
    with torch.inference_mode():
        (images,) = nodes.T2VDecode().decode(latents, tiny.vae, frames_per_batch)
    workflow = {"prompt": {"1": {}}, "extra_pnginfo": {"workflow": {"nodes": []}}}
    sound = {"waveform": torch.rand(1, 1, 4000), "sample_rate": 8000}
    nodes.T2VSaveVideo().save(images, 8.0, "two", format, "high", audio=sound, **workflow)
    shown = save(filename_prefix="one", format=format, frames_per_batch=frames_per_batch, audio=sound, **workflow)
    (entry,) = shown["images"]
    assert (entry["subfolder"], entry["type"]) == ("", "output")
    one, two = files(tmp_path / "out")
    assert one == entry["filename"]
    hashes = [hashlib.sha256((tmp_path / "out" / name).read_bytes()).hexdigest() for name in (one, two)]
    assert hashes[0] == hashes[1]


def test_the_page_gets_comfyui_s_own_shape(save, tmp_path):
    assert save() == {
        "images": [{"filename": "red_00001_.mp4", "subfolder": "clips", "type": "output"}],
        "animated": (True,),
    }
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "out/clips/red_00001_.mp4")) == (5, 0.62)
    assert save(filename_prefix="%width%x%height%")["images"][0]["filename"] == "128x96_00001_.mp4"


def test_tiles_give_nearly_the_same_video(save, tiny, part, host, tmp_path, monkeypatch):
    sizes, decode = set(), tiny.vae.decode
    monkeypatch.setattr(tiny.vae, "decode", lambda x: sizes.add(tuple(x.shape[2:])) or decode(x))
    save(filename_prefix="whole", format="ffv1-mkv")
    assert sizes == {(12, 16)}
    sizes.clear()
    save(filename_prefix="tiled", format="ffv1-mkv", tile_size=64)
    assert sizes == {(8, 8)}
    whole, tiled = (frames_of(tmp_path / f"out/{name}_00001_.mkv", 96, 128) for name in ("whole", "tiled"))
    error = (whole.float() - tiled.float()).square().mean().sqrt()
    assert 0 < error < 255 / 10 ** (30 / 20)  # PSNR above 30 dB


def test_tiles_are_counted_in_the_memory_that_a_batch_may_take(save, part, tiny, monkeypatch):
    module = part("headless.host")
    monkeypatch.setattr(module, "CODING_BYTES", 2 * 64 * 64 * module.BYTES_PER_PIXEL)
    counts, decode = [], tiny.vae.decode
    monkeypatch.setattr(tiny.vae, "decode", lambda x: counts.append(len(x)) or decode(x))
    save(tile_size=64)
    assert set(counts) == {2, 1}


@pytest.mark.parametrize("format", ["h264-mp4", "gif"])
def test_forward_and_backward_decodes_twice_and_keeps_nothing(save, part, tmp_path, format):
    options = part("t2v_core.video").VideoOptions(pingpong=True)
    save(filename_prefix="once", format="ffv1-mkv")
    save(filename_prefix="there", format="ffv1-mkv", options=options)
    once, there = (frames_of(tmp_path / f"out/{name}_00001_.mkv", 96, 128) for name in ("once", "there"))
    assert torch.equal(there, torch.cat([once, once[[3, 2, 1]]]))
    name = save(filename_prefix="x", format=format, options=options)["images"][0]["filename"]
    assert imageio_ffmpeg.count_frames_and_secs(str(tmp_path / "out" / name))[0] == 8


def test_progress_counts_the_frames_and_cancelling_leaves_nothing(save, host, tiny, tmp_path, monkeypatch):
    seen = []

    def progress(total, label):
        def report(done):
            seen.append((done, total))
            if done == 3:
                raise KeyboardInterrupt

        return report

    batches, decode = [], tiny.vae.decode
    monkeypatch.setattr(tiny.vae, "decode", lambda x: batches.append(len(x)) or decode(x))
    monkeypatch.setattr(host, "progress", progress)
    with pytest.raises(KeyboardInterrupt):
        save(frames_per_batch=1)
    assert seen == [(1, 5), (2, 5), (3, 5)]
    assert batches == [1, 1, 1]  # what was not to be written was not decoded
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


def test_an_error_while_decoding_leaves_nothing(save, tiny, tmp_path, monkeypatch):
    decode, calls = tiny.vae.decode, []

    def fails(latents):
        calls.append(1)
        if len(calls) == 3:
            raise torch.OutOfMemoryError("no more")
        return decode(latents)

    monkeypatch.setattr(tiny.vae, "decode", fails)
    with pytest.raises(torch.OutOfMemoryError):
        save(frames_per_batch=1)
    assert not (tmp_path / "out").exists() or os.listdir(tmp_path / "out") == []


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"samples": {"samples": torch.zeros(1, 4, 5, 2, 3)}}, "samples: the latent has 5 dimensions"),
        ({"samples": {"samples": torch.zeros(0, 4, 2, 3)}}, "samples: the latent"),
        ({"samples": {"samples": torch.zeros(2, 16, 2, 3)}}, "16"),
        ({"samples": {"samples": torch.full((2, 4, 2, 3), float("nan"))}}, "NaN"),
        ({"vae": None}, "vae: "),
        ({"tile_size": 100}, "tile_size: 100"),
        ({"tile_size": 8}, "tile_size: 8"),
        ({"tile_size": -64}, "tile_size: -64"),
        ({"filename_prefix": "../evil"}, "../evil"),
        ({"filename_prefix": '-i "x"\n'}, "control characters"),
        ({"fps": 0.0}, "fps"),
        ({"format": "divx"}, "divx"),
        ({"quality": "best"}, "best"),
        ({"format": "gif", "audio": {"waveform": torch.zeros(1, 1, 9), "sample_rate": 8000}}, "no sound"),
    ],
)
def test_what_cannot_be_saved_is_refused_and_nothing_is_written(save, part, tmp_path, change, says):
    with pytest.raises(part("t2v_core.errors").T2VError) as caught:
        save(**change)
    assert says in str(caught.value)
    assert not (tmp_path / "out").exists() and not (tmp_path / "evil").exists()


def test_what_needs_no_frame_to_be_seen_wrong_costs_no_decoding(save, part, tiny, monkeypatch):
    monkeypatch.setattr(tiny.vae, "decode", lambda latents: pytest.fail("decoded"))
    for change in ({"fps": -1.0}, {"format": "x"}, {"quality": "x"}, {"filename_prefix": "../x"}, {"audio": {}}):
        with pytest.raises(part("t2v_core.errors").T2VError):
            save(**change)


def test_widgets_that_cannot_be_are_refused_before_the_run(part):
    check = part("nodes").T2VDecodeAndSave.VALIDATE_INPUTS
    assert check() is True and check(filename_prefix="a/b", tile_size=512) is True and check(tile_size=0) is True
    assert check(filename_prefix="../out", tile_size=0).startswith("filename_prefix: ")
    for tile in (-8, 7, 56, 65, 4104):
        assert check(filename_prefix="a", tile_size=tile).startswith(f"tile_size: {tile} ")


@pytest.fixture
def preview(part, host):
    def preview(images=None, fps=8.0, **changes):
        images = torch.rand(4, 32, 48, 3) if images is None else images
        return part("nodes").T2VPreviewVideo().preview(images, fps, **changes)["ui"]

    return preview


def test_a_preview_lies_in_the_temporary_folder_and_is_shown(preview, host, tmp_path):
    entries = [preview()["images"][0] for _ in range(2)]
    assert preview()["animated"] == (True,)
    for entry in entries:
        assert re.fullmatch(r"t2v_temp_[0-9a-f]{8}_00001_\.mp4", entry["filename"])
        assert (entry["subfolder"], entry["type"]) == ("", "temp")
        path = host.temp_folder() / entry["filename"]
        assert imageio_ffmpeg.count_frames_and_secs(str(path)) == (4, 0.5)
    assert entries[0] != entries[1]
    assert [entry for entry in os.listdir(tmp_path / "out") if entry != "temp"] == []


def test_a_preview_looks_like_its_frames_and_has_their_sound(preview, host):
    grey = torch.tensor([0.1, 0.5, 0.9]).reshape(3, 1, 1, 1).expand(3, 32, 32, 3)
    sound = {"waveform": torch.zeros(1, 1, 8000), "sample_rate": 16000}
    path = host.temp_folder() / preview(grey, audio=sound)["images"][0]["filename"]
    means = frames_of(path, 32, 32).float().mean((1, 2, 3)) / 255
    torch.testing.assert_close(means, torch.tensor([0.1, 0.5, 0.9]), atol=0.01, rtol=0)
    assert len(ffmpeg("-i", path, "-vn", "-f", "s16le", "-").stdout) >= 0.3 * 16000 * 2


def test_a_preview_brings_the_workflow_as_comfyui_s_own_do(preview, host, monkeypatch):
    def tags(path) -> str:
        return ffmpeg("-i", path, "-f", "ffmetadata", "-").stdout.decode()

    given = {"prompt": {"1": {}}, "extra_pnginfo": {"workflow": {"nodes": [7]}}}
    path = host.temp_folder() / preview(**given)["images"][0]["filename"]
    assert "prompt=" in tags(path) and "workflow=" in tags(path)
    monkeypatch.setattr(host, "writes_metadata", lambda: False)
    path = host.temp_folder() / preview(**given)["images"][0]["filename"]
    assert "prompt=" not in tags(path) and "workflow=" not in tags(path)


def test_a_preview_leaves_alpha_out(preview, host):
    images = torch.rand(3, 32, 32, 1).expand(3, 32, 32, 4)
    path = host.temp_folder() / preview(images)["images"][0]["filename"]
    means = frames_of(path, 32, 32).float().mean((1, 2, 3)) / 255
    torch.testing.assert_close(means, images[..., :3].mean((1, 2, 3)), atol=0.01, rtol=0)


def test_what_cannot_be_previewed_is_refused(preview, part):
    for change, says in (({"images": torch.zeros(8, 8, 3)}, "images"), ({"fps": 0.0}, "fps"), ({"audio": {}}, "audio")):
        with pytest.raises(part("t2v_core.errors").T2VError, match=says):
            preview(**change)


def test_headless_runs_both_and_says_where_the_files_are(headless, tmp_path, workflow, models):
    (decode,) = (key for key, node in workflow.items() if node["class_type"] == "T2VDecode")
    (saver,) = (key for key, node in workflow.items() if node["class_type"] == "T2VSaveVideo")
    inputs = workflow[saver]["inputs"]
    workflow["show"] = {"class_type": "T2VPreviewVideo", "inputs": {"images": [decode, 0], "fps": 8.0}}
    inputs = {name: inputs[name] for name in ("fps", "filename_prefix", "format", "quality")}
    own = {**workflow[decode]["inputs"], "frames_per_batch": 0, "tile_size": 64}
    workflow[saver] = {"class_type": "T2VDecodeAndSave", "inputs": {**own, **inputs}}
    for node in workflow.values():
        node["inputs"].update({name: value for name, value in SMALL.items() if name in node["inputs"]})
    (tmp_path / "graph.json").write_text(json.dumps(workflow))
    done = headless("run", tmp_path / "graph.json", "--out", tmp_path / "out", "--models", models, "--quiet")
    assert done.returncode == 0, done.stderr
    lines = done.stdout.splitlines()
    assert len(lines) == 2 and all(os.path.isfile(line) for line in lines)
    assert sum(line.startswith(str(tmp_path / "out" / "temp")) for line in lines) == 1
