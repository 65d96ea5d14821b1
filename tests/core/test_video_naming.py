"""Where numbered files land, what they are called, and that no prefix and no other job gets in the way."""

import os
import sys
import threading
from pathlib import Path

import numpy as np
import pytest

from t2v_core.errors import VideoError
from t2v_core.video import OutputFolder, SavedVideo, write_video
from t2v_core.video.writing import naming

FRAMES = np.zeros((2, 16, 16, 3), np.uint8)


def names(folder):
    return sorted(path.relative_to(folder).as_posix() for path in folder.rglob("*"))


def test_numbers_count_up(tmp_path):
    folder = OutputFolder(tmp_path)
    first = folder.write("video", FRAMES, 8)
    assert first == SavedVideo(tmp_path / "video_00001_.mp4", "video_00001_.mp4", "")
    assert folder.write("video", FRAMES, 8).filename == "video_00002_.mp4"
    assert folder.write("other", FRAMES, 8).filename == "other_00001_.mp4"


def test_numbers_continue_after_whatever_is_there(tmp_path):
    # as ComfyUI counts: the highest number of the prefix, of whatever extension, plus one
    for name in ["v_00007_.png", "v_00003_.mp4", "v_1_00099_.mp4", "vv_00050_.mp4", "v_x_.mp4", "v_00008.txt", "v_"]:
        (tmp_path / name).write_text("mine")
    (tmp_path / "v_00009_.mp4").symlink_to("nowhere")
    assert OutputFolder(tmp_path).write("v", FRAMES, 8).filename == "v_00010_.mp4"
    assert (tmp_path / "v_00003_.mp4").read_text() == "mine"


def test_numbers_grow_past_five_digits(tmp_path):
    (tmp_path / "v_99999_.mp4").touch()
    assert OutputFolder(tmp_path).write("v", FRAMES, 8).filename == "v_100000_.mp4"


def test_folders_come_with_the_first_file(tmp_path):
    root = tmp_path / "new" / "output"
    saved = OutputFolder(root).write("день 1/clips\\été", FRAMES, 8)
    assert saved == SavedVideo(root / "день 1" / "clips" / "été_00001_.mp4", "été_00001_.mp4", "день 1/clips")
    assert names(root) == ["день 1", "день 1/clips", "день 1/clips/été_00001_.mp4"]


@pytest.mark.skipif(os.name == "nt", reason="Windows forbids some of these characters in names")
@pytest.mark.parametrize(
    "prefix", ["-i", "--help", 'it\'s "so"', "a%d%05d", "file:x", "concat;a|b", "$(x) `y` *?", "a.mp4", "..a", "日本"]
)
def test_odd_names_are_just_names(tmp_path, prefix):
    assert OutputFolder(tmp_path).write(prefix, FRAMES, 8).filename == f"{prefix}_00001_.mp4"
    assert names(tmp_path) == [f"{prefix}_00001_.mp4"]
    target = tmp_path / (prefix + "\n.mp4")
    assert write_video(FRAMES, target, 8) == target and target.stat().st_size > 500


ESCAPES = ["../x", "a/../../x", "a/..", "a/../b", "..", ".", "...", ".. /x", "..\\x", "a\\..\\..\\x", "a/./x"]
ESCAPES += ["/x", "\\x", "//host/x", "C:x", "c:\\x", "C:/x"]
UNFIT = ["", "a/", "a//b", " ", "a\0b", "a\nb", "a\tb", "\ud800", "a" * 300, "a" * 300 + "/b", None, 7, Path("a")]
UNFIT += ["a/" * 40 + "a", "a\n" * 10**6]


@pytest.mark.parametrize("prefix", ESCAPES + UNFIT, ids=lambda prefix: repr(prefix)[:20])
def test_prefixes_that_are_refused(tmp_path, prefix):
    (tmp_path / "out").mkdir()
    with pytest.raises(VideoError, match="prefix") as error:
        OutputFolder(tmp_path / "out").write(prefix, iter(FRAMES), 8)
    assert len(str(error.value)) < 2500
    assert names(tmp_path) == ["out"]


def test_links_out_of_the_folder_are_refused(tmp_path):
    root = tmp_path / "out"
    (root / "inside").mkdir(parents=True)
    (tmp_path / "outside").mkdir()
    (root / "away").symlink_to(tmp_path / "outside", target_is_directory=True)
    (root / "here").symlink_to("inside", target_is_directory=True)
    (root / "loop").symlink_to("loop", target_is_directory=True)
    folder = OutputFolder(root)
    for prefix in ("away/x", "away/deeper/x", "loop/x"):
        with pytest.raises(VideoError, match="prefix"):
            folder.write(prefix, FRAMES, 8)
    assert list((tmp_path / "outside").iterdir()) == []
    assert folder.write("here/x", FRAMES, 8).subfolder == "inside"


def test_a_file_where_a_folder_should_be(tmp_path):
    (tmp_path / "a").write_text("mine")
    with pytest.raises(VideoError, match="not a folder"):
        OutputFolder(tmp_path).write("a/b", FRAMES, 8)
    assert (tmp_path / "a").read_text() == "mine"


def test_failure_leaves_no_folder_behind(tmp_path):
    with pytest.raises(VideoError, match="no frames"):
        OutputFolder(tmp_path / "new").write("a/b", [], 8)
    assert names(tmp_path) == []


def in_parallel(jobs, work):
    """Run `work(job)` in as many threads, all starting together; the results in order of their jobs."""
    results, barrier = [None] * jobs, threading.Barrier(jobs)

    def run(job):
        barrier.wait()
        results[job] = work(job)

    threads = [threading.Thread(target=run, args=(job,)) for job in range(jobs)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return results


def no_hard_links(*_, **__):
    """What Linux answers on FAT, which a test can rarely mount."""
    raise PermissionError(1, "Operation not permitted")


def test_parallel_saves_share_a_prefix(tmp_path):
    folder = OutputFolder(tmp_path)

    def work(job):
        return [folder.write("a/v", np.full((job + 1, 16, 16, 3), 200, np.uint8), 8) for _ in range(3)]

    saved = [video for videos in in_parallel(8, work) for video in videos]
    assert sorted(video.filename for video in saved) == [f"v_{n:05}_.mp4" for n in range(1, 25)]
    assert names(tmp_path / "a") == [f"v_{n:05}_.mp4" for n in range(1, 25)]
    for job in range(8):  # each name leads to the file that was saved under it
        assert len({video.path.read_bytes() for video in saved[3 * job : 3 * job + 3]}) == 1


@pytest.mark.parametrize("hard_links", [True, False])
def test_numbers_are_taken_once(tmp_path, monkeypatch, hard_links):
    if not hard_links:
        monkeypatch.setattr(os, "link", no_hard_links)
    output = tmp_path / "out"
    interval = sys.getswitchinterval()
    sys.setswitchinterval(1e-5)  # threads change places as often as they can

    def work(job):
        paths = []
        for n in range(20):
            whole = tmp_path / f"{job}-{n}"
            whole.write_text(whole.name)
            paths.append((whole.name, naming._publish_numbered(whole, output, "v", ".mp4")))
        return paths

    try:
        saved = dict(pair for pairs in in_parallel(10, work) for pair in pairs)
    finally:
        sys.setswitchinterval(interval)
    assert len(saved) == len(set(saved.values())) == len(names(output)) == 200
    assert all(path.read_text() == name for name, path in saved.items())


def test_nothing_is_overwritten(tmp_path, monkeypatch):
    target = tmp_path / "a.mp4"
    target.write_text("mine")
    with pytest.raises(VideoError, match="exists already"):
        write_video(FRAMES, target, 8)
    dangling = tmp_path / "b.mp4"
    dangling.symlink_to("nowhere")
    with pytest.raises(VideoError, match="exists already"):
        write_video(FRAMES, dangling, 8)
    late = tmp_path / "c.mp4"
    for link in (os.link, no_hard_links):
        monkeypatch.setattr(os, "link", link)
        with pytest.raises(VideoError, match="came into being"):
            write_video(FRAMES, late, 8, on_frame=lambda count: late.write_text("theirs"))
        assert late.read_text() == "theirs"
        late.unlink()
    assert target.read_text() == "mine"
    assert names(tmp_path) == ["a.mp4", "b.mp4"]


@pytest.mark.parametrize("taken", ["empty folder", "full folder", "file"])
def test_a_folder_of_pictures_takes_nobody_s_name(tmp_path, taken):
    whole, target = tmp_path / "whole", tmp_path / "name"
    whole.mkdir()
    (whole / "00000.png").write_bytes(b"x")
    if taken == "file":
        target.write_bytes(b"mine")
    else:
        target.mkdir()
    if taken == "full folder":
        (target / "mine").write_bytes(b"mine")
    with pytest.raises(FileExistsError):
        naming.publish(whole, target)
    assert (whole / "00000.png").exists()
    assert target.read_bytes() == b"mine" if taken == "file" else not (target / "00000.png").exists()
