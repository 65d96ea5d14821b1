"""api_client/client.py against a real server: what docs/api.md says of it. Its other tests: test_client_*.py."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import pty
import re
import signal
import time
from pathlib import Path

import pytest
from clients import CLIENT, ROOT, SECONDS, SMALL, WORKFLOW, Process, queued_as
from comfyui import Server

pytest_plugins = ["client_fixtures"]


def inputs(comfy: Server, process: Process, node: str) -> dict:
    """The inputs of a node as the server ran it."""
    prompt_id = queued_as(process)
    return comfy.get_json(f"/history/{prompt_id}")[prompt_id]["prompt"][2][node]["inputs"]


def write(path: Path, workflow: object) -> Path:
    path.write_text(json.dumps(workflow))
    return path


# --- a run ---


def test_a_workflow_becomes_a_file_here(run, comfy, tmp_path):
    ended = run(WORKFLOW, *SMALL, "--set", "T2VSaveVideo.filename_prefix=client/here")
    assert (ended.code, ended.problems) == (0, [])
    [path] = map(Path, ended.output)
    assert path.parent == tmp_path and path.name == "here_00001_.mp4"
    assert path.read_bytes() == (comfy.output / "client" / path.name).read_bytes()
    assert path.read_bytes()[4:8] == b"ftyp"
    assert os.listdir(tmp_path) == [path.name]  # no .part
    for line in ("[5/7] Sampler 3/3 [##############################]", "[7/7] Save video"):
        assert line in ended.errors


def test_a_set_value_keeps_the_type_of_the_one_it_replaces(run, comfy, tmp_path):
    changes = ["5.cfg=4", "Sampler.seed=18446744073709551615", "Prompt.text=a=b, 'ü' \"1.5\"", "T2VSaveVideo.fps=12.5"]
    ended = run(WORKFLOW, *SMALL, *(part for change in changes for part in ("--set", change)))
    assert ended.code == 0
    sampler, prompt, save = (inputs(comfy, ended, node) for node in "527")
    assert sampler["cfg"] == 4.0 and type(sampler["steps"]) is int and sampler["steps"] == 3
    assert sampler["seed"] == 2**64 - 1 and prompt["text"] == "a=b, 'ü' \"1.5\"" and save["fps"] == 12.5
    graph = json.loads(WORKFLOW.read_text())
    graph["8"] = {"class_type": "ImageInvert", "inputs": {"image": ["6", 0]}, "_meta": {"title": "A.b"}}
    graph["9"] = {"class_type": "SaveAnimatedWEBP", "inputs": {"images": ["8", 0], "filename_prefix": "w", "fps": 6}}
    graph["9"]["inputs"] |= {"lossless": True, "quality": 80, "method": "default"}
    changes = ("--set", "9.lossless=no", "--set", "SaveAnimatedWEBP.fps=7.5")
    ended = run(write(tmp_path / "w.json", graph), *SMALL, *changes)
    assert inputs(comfy, ended, "9")["lossless"] is False
    assert inputs(comfy, ended, "9")["fps"] == 7.5  # a page writes 6.0 as 6
    assert sorted(Path(path).suffix for path in ended.output) == [".mp4", ".webp"]


def test_no_file_is_overwritten_and_cached_nodes_are_said(run, tmp_path):
    once, again = (run(WORKFLOW, *SMALL, "--set", "5.seed=5") for _ in range(2))
    [first], [second] = once.output, again.output
    assert first != second and Path(first).read_bytes() == Path(second).read_bytes()
    Path(first).write_text("mine")
    third = run(WORKFLOW, *SMALL, "--set", "5.seed=5", "--set", "7.quality=low")
    assert "6 of 7 nodes are cached" in third.errors and Path(first).read_text() == "mine"


def test_the_body_of_a_request_runs_and_its_extra_data_reaches_the_file(run, tmp_path):
    extra = {"extra_pnginfo": {"workflow": {"nodes": [], "mark": "carried along"}}}
    body = {"prompt": json.loads(WORKFLOW.read_text()), "extra_data": extra, "client_id": "not ours"}
    ended = run(write(tmp_path / "body.json", body), *SMALL)
    assert ended.code == 0 and b"carried along" in Path(ended.output[0]).read_bytes()


def test_a_run_without_files_is_done_too(run, tmp_path):
    graph = {"1": {"class_type": "PreviewAny", "inputs": {"source": "a text"}}}
    ended = run(write(tmp_path / "text.json", graph))
    assert (ended.code, ended.output) == (0, []) and "made no files" in ended.errors


def test_quiet_leaves_the_paths_alone(run):
    ended = run(WORKFLOW, *SMALL, "--quiet")
    assert ended.code == 0 and ended.errors == "" and Path(ended.output[0]).is_file()


def test_a_terminal_gets_a_bar(comfy, tmp_path):
    ours, theirs = pty.openpty()
    process = Process(
        "run", WORKFLOW, "--server", comfy.url, "--out", tmp_path, *SMALL, "--set", "5.seed=8", stderr=theirs
    )
    os.close(theirs)
    shown = b""
    with contextlib.suppress(OSError):  # how the end of a terminal is told
        while piece := os.read(ours, 4096):
            shown += piece
    os.close(ours)
    assert process.popen.wait(SECONDS) == 0
    process.popen.stdout.close()
    steps = re.findall(rb"\r\[5/7\] Sampler (\d)/3 \[(#+)(\.*)\]( \d+ s left)?", shown)
    assert [(step, len(done), len(rest)) for step, done, rest, _ in steps] == [
        (b"1", 10, 20),
        (b"2", 20, 10),
        (b"3", 30, 0),
    ]
    assert [bool(left) for *_, left in steps] == [False, True, False]


# --- what is wrong, before anything runs ---


@pytest.mark.parametrize(
    ("settings", "problem"),
    [
        (["99.text=a"], 'no node is called 99; there are: node 1 "Load model" (T2VLoadModel), '),
        (["T2VTextEncode.text=a"], '2 nodes are called T2VTextEncode; use an id: node 2 "Prompt"'),
        (["Sampler.step=5"], 'node 5 "Sampler" (T2VSampler) has no input step in the file; it has model, seed, steps'),
        (["Sampler.model=5"], "input model is linked to another node"),
        (["Sampler.steps=many"], "many is not a number"),
        (["Sampler.cfg=nan"], "nan is not a number"),
        (["Sampler.cfg=1e999"], "1e999 is not a number"),
        (["steps=5"], "the form is NODE.input=value"),
        (["Sampler.steps"], "the form is NODE.input=value"),
    ],
)
def test_a_wrong_set_is_refused(run, settings, problem):
    ended = run(WORKFLOW, *(part for setting in settings for part in ("--set", setting)))
    assert ended.code == 2 and len(ended.problems) == 1
    assert ended.problems[0].startswith(f"error: --set {settings[0]}: ") and problem in ended.problems[0]


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        ((ROOT / "workflows" / "text_to_video.json").read_text(), "the UI format, which only ComfyUI's page can read"),
        ("{", "not a workflow file: Expecting property name"),
        ("[" * 100_000, "not a workflow file"),
        ("[1]", "not the API format"),
        ("{}", "not the API format"),
        ('{"1": {"class_type": "A"}}', "not the API format"),
        ("\ud800".encode("utf-8", "surrogatepass"), "not a workflow file"),
        (None, "cannot be read: No such file or directory"),
    ],
)
def test_a_file_that_is_no_workflow_is_refused(run, tmp_path, content, problem):
    if content is not None:
        data = content if isinstance(content, bytes) else content.encode()
        (tmp_path / "file.json").write_bytes(data)
    ended = run(tmp_path / "file.json")
    assert ended.code == 2
    [line] = ended.problems
    assert line.startswith(f"error: {tmp_path}/file.json: ") and problem in line


def test_what_the_server_refuses_is_told_node_by_node(run, comfy, tmp_path):
    before = len(comfy.get_json("/history"))
    ended = run(WORKFLOW, "--set", "5.steps=0", "--set", "1.model_name=mine")
    assert ended.code == 2 and comfy.queued() == []
    model, steps = ended.problems
    place = 'error: node 1 "Load model" (T2VLoadModel): '
    assert model.startswith(f"{place}Value not in list: model_name: 'mine' not in ['bundled'")
    assert steps == 'error: node 5 "Sampler" (T2VSampler): Value 0 smaller than min of 1: steps'
    graph = json.loads(WORKFLOW.read_text())
    graph["7"]["class_type"] = "NoSuchNode"
    ended = run(write(tmp_path / "unknown.json", graph))
    assert ended.code == 2 and "#7" in ended.problems[0]
    del graph["7"]
    ended = run(write(tmp_path / "without.json", graph))
    assert ended.code == 2 and ended.problems == ["error: Prompt has no outputs"]
    graph = {"1": {"class_type": "EmptyImage", "inputs": {"width": "wide"}}, "2": {"class_type": "PreviewImage"}}
    graph["2"]["inputs"] = {"images": ["no such node", 0]}
    ended = run(write(tmp_path / "dangling.json", graph))
    assert ended.code == 2 and len(ended.problems) == 1
    graph["1"]["class_type"] = []  # on which ComfyUI answers "500 Internal Server Error", as text
    ended = run(write(tmp_path / "senseless.json", graph))
    assert ended.code == 2 and "the server fails on this workflow: HTTP 500" in ended.problems[0]
    assert len(comfy.get_json("/history")) == before


def test_a_workflow_of_which_the_server_would_run_a_part_is_refused(run, comfy, tmp_path):
    graph = json.loads(WORKFLOW.read_text())
    graph["8"] = {"class_type": "SaveImage", "inputs": {"images": ["6", 0]}}
    graph["5"]["inputs"]["steps"] = 10000
    ended = run(write(tmp_path / "part.json", graph))
    assert ended.code == 2
    assert ended.problems == ['error: node 8 "SaveImage" (SaveImage): Required input is missing: filename_prefix']
    assert comfy.queued() == []


@pytest.mark.parametrize(
    ("arguments", "problem"),
    [
        (["run"], "the following arguments are required: WORKFLOW.json"),
        (["run", "a.json", "--timeout", "-1"], "argument --timeout"),
        (["run", "a.json", "--max-queue", "x"], "argument --max-queue"),
        (["cancel"], "one of the arguments PROMPT_ID --all is required"),
        (["queue", "--server", "ftp://host"], "ftp://host is not the address of a server"),
        (["queue", "--server", "http://"], "is not the address of a server"),
        (["run", WORKFLOW, "--out", CLIENT], "client.py: File exists"),
    ],
)
def test_a_wrong_command_is_one_line(start, arguments, problem):
    ended = start(*arguments).end()
    assert ended.code == 2
    [line] = ended.errors.splitlines()
    assert line.startswith("error: ") and problem in line


# --- what fails while it runs ---


def test_a_node_that_fails_is_named(run):
    arguments = (WORKFLOW, "--set", "4.num_frames=0")  # which asks for a model's own number, and none is connected
    ended = run(*arguments)
    assert (ended.code, ended.output) == (1, [])
    [line] = ended.problems
    assert line.startswith('error: node 4 "Empty latent" (T2VEmptyLatent): ') and "model" in line
    assert "Traceback" not in ended.errors and "File " not in ended.errors
    assert re.search(r'^ *File ".*", line \d+', run(*arguments, "--verbose").errors, re.MULTILINE)


def test_a_waiting_and_a_running_prompt_can_be_cancelled(slow, start, comfy):
    running = slow()
    running.says(r"Sampler \d+/10000")
    waiting = slow()
    waiting.says(r"^waiting, 1 before it$")
    first, second = queued_as(running), queued_as(waiting)
    assert start("queue", "--server", comfy.url).end().output == [f"running {first}", f"waiting {second}"]
    ended = start("cancel", second, "--server", comfy.url).end()
    assert (ended.code, ended.output) == (0, [f"deleted {second}"])
    waiting.end()
    assert waiting.code == 130 and waiting.problems == ["error: the run was taken off the server's queue"]
    ended = start("cancel", first, "--server", comfy.url).end()
    assert (ended.code, ended.output) == (0, [f"interrupted {first}"])
    running.end()
    assert running.code == 130 and running.problems == ["error: the run was interrupted on the server"]
    assert start("queue", "--server", comfy.url).end().output == []
    ended = start("cancel", first, "--server", comfy.url).end()
    assert (ended.code, ended.output) == (1, [f"unknown {first}"])


def test_all_prompts_can_be_cancelled(slow, start, comfy):
    clients = [slow() for _ in range(3)]
    ids = {queued_as(client) for client in clients}
    ended = start("cancel", "--all", "--server", comfy.url).end()
    assert ended.code == 0 and {line.split()[1] for line in ended.output} == ids
    assert [client.end().code for client in clients] == [130] * 3
    assert comfy.queued() == []
    assert start("cancel", "--all", "--server", comfy.url).end().code == 0


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_cancels_the_prompt_on_the_server(slow, comfy, number):
    running = slow()
    running.says(r"Sampler \d+/10000")
    waiting = slow()
    waiting.says(r"^waiting")
    for process, state in ((waiting, "deleted"), (running, "interrupted")):
        process.popen.send_signal(number)
        assert process.end(20).code == 130
        assert process.problems == ["error: cancelled"] and f"cancelled on the server ({state})" in process.errors
    assert comfy.queued() == []


def test_a_run_can_time_out(slow, comfy):
    ended = slow("--timeout", 3).end(30)
    assert ended.code == 4 and comfy.queued() == []
    assert ended.problems == ["error: not done after 3 s; cancelled on the server (interrupted)"]


def test_a_full_queue_is_waited_for(slow, start, comfy, tmp_path):
    running = slow()
    running.says(r"Sampler \d+/10000")
    late = slow("--max-queue", 1, "--wait-queue", 1).end(20)
    assert late.code == 4 and late.problems == ["error: 1 prompts are in the server's queue; gave up after 1 s"]
    assert comfy.queued() == [queued_as(running)]
    arguments = (WORKFLOW, *SMALL, "--server", comfy.url, "--out", tmp_path)
    patient = start("run", *arguments, "--max-queue", 1)
    patient.says("1 prompts are in the server's queue; trying again$")
    assert comfy.queued() == [queued_as(running)]
    running.popen.send_signal(signal.SIGINT)
    assert running.end().code == 130 and patient.end().code == 0


# --- as a library ---


@pytest.fixture
def library(monkeypatch):
    monkeypatch.syspath_prepend(str(CLIENT.parent))
    import client

    return client


def test_two_runs_at_once_in_a_program(library, comfy, tmp_path):
    async def main():
        async with library.Client(comfy.url) as client:
            workflows = [library.read_workflow(WORKFLOW) for _ in range(2)]
            for seed, workflow in enumerate(workflows):
                library.change(workflow, ["Sampler.steps=4", "4.num_frames=2", f"5.seed={time.time_ns() + seed}"])
            seen = [[], []]
            runs = [
                client.run(
                    workflow,
                    out=tmp_path / str(number),
                    on_progress=lambda run, seen=seen[number]: seen.append((run.node, run.step, run.nodes_done)),
                )
                for number, workflow in enumerate(workflows)
            ]
            return await asyncio.gather(*runs), seen

    files, seen = asyncio.run(main())
    assert [path.parent for path, *more in files if not more] == [tmp_path / "0", tmp_path / "1"]
    for one in seen:
        assert [step for node, step, _ in one if node == "Sampler"] == [0, 1, 2, 3, 4]
        assert one[-1][0] == "Save video" and one[-1][2] == 6


@pytest.mark.parametrize("ended_by", ["cancelled", "on_progress"])
def test_a_run_that_is_given_up_is_cancelled_on_the_server(library, comfy, ended_by):
    async def main():
        async with library.Client(comfy.url) as client:
            workflow = library.read_workflow(WORKFLOW)
            library.change(workflow, ["Sampler.steps=10000", f"5.seed={time.time_ns()}"])
            begun = asyncio.Event()

            def on_progress(run):
                if run.step:
                    begun.set()
                    if ended_by == "on_progress":
                        raise ZeroDivisionError

            task = asyncio.ensure_future(client.run(workflow, on_progress=on_progress))
            await begun.wait()
            if ended_by == "cancelled":
                task.cancel()
            with pytest.raises((asyncio.CancelledError, ZeroDivisionError)):
                await task

    asyncio.run(main())
    assert comfy.queued() == []


def test_a_number_keeps_its_kind_where_it_can(library):
    graph = {"1": {"class_type": "A", "inputs": {"whole": 8, "real": 8.0, "switch": True, "text": "8"}}}
    for setting in ("whole=4", "real=4", "switch=NO", "text=4"):
        library.change({"prompt": graph}, [f"1.{setting}"])
    assert repr(graph["1"]["inputs"]) == "{'whole': 4, 'real': 4.0, 'switch': False, 'text': '4'}"
    library.change({"prompt": graph}, ["A.whole=7.5"])  # a page writes 8.0 as 8
    assert graph["1"]["inputs"]["whole"] == 7.5
    for number in ("9" * 400, "9" * 5000, "inf", "", "0x10", "1,5"):
        with pytest.raises(library.ComfyError, match="is not a number"):
            library.change({"prompt": graph}, [f"A.whole={number}"])
