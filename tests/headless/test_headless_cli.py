"""The command line, run in this process: exit codes, one line an error, and nothing written where anything is wrong."""

import json
import pickle
import signal
from pathlib import Path

import imageio_ffmpeg
import pytest
import torch
from safetensors.torch import save

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def cli(part, capsys):
    """cli(arguments...) -> (exit code, stdout, stderr)."""
    before = signal.getsignal(signal.SIGTERM)

    def cli(*arguments):
        try:
            code = part("headless.cli").main([str(argument) for argument in arguments])
        except SystemExit as leaving:
            code = leaving.code
        return code, *capsys.readouterr()

    yield cli
    signal.signal(signal.SIGTERM, before)
    part("nodes.host").use(None)


@pytest.fixture
def run(cli, models, tmp_path):
    """Runs a workflow given as an object, as text or as a path, with the tiny model and few steps; --out is tmp/out."""

    def run(workflow, *more, command="run"):
        path = tmp_path / "workflow.json"
        if isinstance(workflow, dict):
            workflow["1"]["inputs"]["model_name"] = workflow["1"]["inputs"].pop("model", "tiny.safetensors")
            workflow["5"]["inputs"].setdefault("steps", 2)
            workflow = json.dumps(workflow)
        path.write_text(workflow)
        out = ("--out", tmp_path / "out") if command == "run" else ()
        return cli(command, path, "--models", models, *out, *more)

    return run


@pytest.fixture
def quick(workflow):
    """The shipped workflow with 2 steps and 3 frames."""
    workflow["5"]["inputs"]["steps"], workflow["4"]["inputs"]["num_frames"] = 2, 3
    return workflow


def test_run_writes_the_file_and_says_where(run, quick, tmp_path):
    code, out, err = run(quick, "--quiet")
    assert (code, err) == (0, "")
    assert out == f"{tmp_path / 'out/text_to_video_00001_.mp4'}\n"
    assert imageio_ffmpeg.count_frames_and_secs(out.strip())[0] == 3


def test_progress_is_lines_a_bar_or_nothing(run, quick):
    assert "Sampling 2/2" in run(quick)[2] and "[###" not in run(quick)[2]
    assert "[##############################]" in run(quick, "--progress")[2]
    assert run(quick, "--quiet")[2] == ""


def test_metadata_can_be_left_out(run, quick, tmp_path):
    quick["2"]["inputs"]["text"] = "a red circle, unmistakably"
    run(quick), run(quick, "--disable-metadata")
    first, second = sorted((tmp_path / "out").iterdir())
    assert b"unmistakably" in first.read_bytes() and b"unmistakably" not in second.read_bytes()


def test_validate_says_valid_and_makes_nothing(run, quick, tmp_path):
    code, out, err = run(quick, command="validate")
    assert (code, err) == (0, "") and out.endswith("workflow.json: valid, 7 nodes\n")
    assert not (tmp_path / "out").exists()


def test_nodes_lists_every_node_and_input(cli, pack, models):
    code, out, _ = cli("nodes", "--models", models)
    assert code == 0 and "model_name: one of bundled, tiny.safetensors" in out
    for name, node in pack.NODE_CLASS_MAPPINGS.items():
        assert f'{name} "{node.TITLE}"' in out
        assert all(f"  {input_name}: " in out for input_name in node.INPUT_TYPES()["required"])


@pytest.mark.parametrize(
    "text", ["", "rød cirkel 日本 🎬 \u202e \u0000 \ud800", "red circle " * 9091, "((((", "(red:1e3)"]
)
def test_any_prompt_is_taken(run, quick, tmp_path, text):
    quick["2"]["inputs"]["text"] = text
    code, out, err = run(quick, "--quiet")
    assert (code, err) == (0, "") and len(list((tmp_path / "out").iterdir())) == 1


WRONG_AT_ONCE = ({"text": '{"0": "a"\n"5": "b"}', "pre_text": ""}, 2, "line 2, column 1: expected `,`", 0)
WRONG_LATER = ({"text": "a circle", "pre_text": "`1+`"}, 1, "pre_text, line 1, column 4: expected a number", 3)


@pytest.mark.parametrize(("texts", "wanted", "says", "caret"), [WRONG_AT_ONCE, WRONG_LATER])
def test_a_wrong_schedule_is_shown_with_its_line_and_caret(run, quick, texts, wanted, says, caret):
    rest = {"num_frames": 3, "fps": 8.0, "app_text": "", "dialect": "auto", "blend": "as written"}
    quick["2"] = {"class_type": "T2VPromptSchedule", "inputs": {"clip": ["1", 1], **texts, **rest}}
    code, _, err = run(quick, "--quiet")
    first, line, below, *more = err.splitlines()
    assert code == wanted and first.startswith("error: node 2") and says in first
    assert line == "  " + (texts["pre_text"] or '"5": "b"}') and below == "  " + " " * caret + "^"
    assert not any(each.startswith("error:") for each in more)


def changed(node_id, name, value):
    def change(workflow):
        workflow[node_id]["inputs"][name] = value

    return change


def kind(node_id, class_type):
    def change(workflow):
        workflow[node_id]["class_type"] = class_type

    return change


BEFORE_THE_RUN = [
    (changed("5", "latent_image", ["5", 0]), 'node 5 "Sampler": its links form a cycle'),
    (changed("5", "model", ["77", 0]), 'node 5 "Sampler", input model: linked to node "77"'),
    (kind("5", "T2VSampling"), "T2VSampling (node 5"),
    (kind("5", "KSampler"), 'KSampler (node 5 "Sampler"): not among this pack\'s nodes'),
    (changed("5", "steps", "many"), 'node 5 "Sampler", input steps: "many" is not a whole number'),
    (changed("5", "vae", ["1", 2]), None),
    (changed("6", "vae", ["1", 1]), 'node 6 "Decode", input vae: takes VAE, but output 1 of node 1'),
    (changed("5", "cfg", float("nan")), 'node 5 "Sampler", input cfg: NaN is not a finite number'),
    (changed("5", "cfg", float("inf")), 'node 5 "Sampler", input cfg: Infinity is not a finite number'),
    (changed("5", "sampler_name", "eulr"), 'node 5 "Sampler", input sampler_name: "eulr" is not in the list'),
    (changed("4", "num_frames", -1), 'node 4 "Empty latent", input num_frames: -1 is smaller than 0'),
    (changed("4", "width", 10**9), 'node 4 "Empty latent", input width: 1000000000 is bigger than 8192'),
    (changed("4", "width", -64), 'node 4 "Empty latent", input width: -64 is smaller than 8'),
    (changed("4", "width", 100), 'node 4 "Empty latent": width: 100 is not a multiple of 8'),
    (
        changed("1", "model_name", "../../x.pth"),
        'node 1 "Load model", input model_name: "../../x.pth" is not in the list',
    ),
    (changed("7", "filename_prefix", "../evil"), 'node 7 "Save video": filename_prefix: '),
    (changed("7", "filename_prefix", "/tmp/evil"), 'node 7 "Save video": filename_prefix: '),
    (changed("7", "filename_prefix", "a/../../evil"), 'node 7 "Save video": filename_prefix: '),
]
DURING_THE_RUN = [
    (changed("4", "num_frames", 0), 'node 4 "Empty latent" (T2VEmptyLatent): num_frames: 0 means'),
    (changed("2", "text", "(red:nan)"), 'node 2 "Prompt" (T2VTextEncode): '),
]


@pytest.mark.parametrize(("change", "says"), [row for row in BEFORE_THE_RUN if row[1]])
def test_a_wrong_workflow_is_refused_before_anything_runs(run, part, quick, tmp_path, change, says, monkeypatch):
    monkeypatch.setattr(part("nodes").T2VLoadModel, "load", None)  # not even a model is loaded
    change(quick)
    name = quick["1"]["inputs"]["model_name"]
    quick["1"]["inputs"]["model"] = "tiny.safetensors" if name == "bundled" else name
    for command in ("run", "validate"):
        workflow = json.loads(json.dumps(quick))
        code, out, err = run(workflow, command=command)
        assert (code, out) == (2, "") and err.startswith(f"error: {says}") and err.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "evil").exists()


@pytest.mark.parametrize(("change", "says"), DURING_THE_RUN)
def test_what_goes_wrong_in_a_node_names_it_and_leaves_nothing(run, quick, tmp_path, change, says):
    change(quick)
    code, out, err = run(quick, "--quiet")
    assert (code, out) == (1, "") and err.startswith(f"error: {says}") and err.count("\n") == 1
    assert not (tmp_path / "out").exists() and not (tmp_path / "evil").exists()


class Bomb:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return Path.touch, (self.path,)


def test_a_bad_model_file_is_named_and_runs_no_code(cli, part, quick, tmp_path, models):
    folder, trap = tmp_path / "models", tmp_path / "trap"
    folder.mkdir()
    whole = (models / "tiny.safetensors").read_bytes()
    files = {
        "cut.safetensors": whole[: len(whole) // 2],
        "empty.safetensors": b"",
        "text.ckpt": b"hello",
        "bomb.pth": pickle.dumps({"state_dict": Bomb(trap)}),
        "sd15.safetensors": save({"model.diffusion_model.input_blocks.1.1.proj_in.weight": torch.zeros(4, 4, 1, 1)}),
        "lora.safetensors": save({"lora_unet_down_blocks_0.lora_up.weight": torch.zeros(4, 4)}),
    }
    for name, content in files.items():
        (folder / name).write_bytes(content)
        quick["1"]["inputs"]["model_name"] = name
        path = tmp_path / "workflow.json"
        path.write_text(json.dumps(quick))
        code, out, err = cli("run", path, "--models", folder, "--out", tmp_path / "out", "--quiet")
        assert (code, out) == (1, "") and err.count("\n") == 1
        assert err.startswith('error: node 1 "Load model" (T2VLoadModel): ') and name in err
    assert not trap.exists() and not (tmp_path / "out").exists()


def test_a_checkpoint_without_a_text_encoder_says_so_at_the_node_that_needs_one(cli, part, quick, tmp_path):
    unet = part("t2v_core.models.unet3d")
    sizes = {"widths": (32,), "attention": (True,), "blocks_per_level": 1, "context_dim": 16, "head_dim": 8}
    (tmp_path / "models").mkdir()
    network = unet.UNet3D(unet.UNet3DConfig(**sizes, input_heads=1))
    part("t2v_core.checkpoints").save_unet(network, tmp_path / "models/ms.safetensors", "modelscope")
    quick["1"]["inputs"]["model_name"] = "ms.safetensors"
    path = tmp_path / "workflow.json"
    path.write_text(json.dumps(quick))
    code, _, err = cli("run", path, "--models", tmp_path / "models", "--out", tmp_path / "out", "--quiet")
    assert code == 1 and "(T2VTextEncode): clip: the model file that was loaded holds no text encoder" in err


def test_every_problem_has_its_own_line_up_to_a_screenful(run, quick):
    quick["5"]["inputs"].update(steps=0, cfg="x", seed=-1)
    code, _, err = run(quick, "--set", "9.a=1", "--set", "5.denoise=2")
    assert code == 2 and len(err.splitlines()) == 5 and all(line.startswith("error: ") for line in err.splitlines())
    for n in range(200):
        quick[f"x{n}"] = n
    assert run(quick)[2].splitlines()[-1] == "error: and 153 more"


def test_warnings_do_not_stop_a_run(run, quick):
    quick["5"]["inputs"]["stepz"] = 3
    code, _, err = run(quick, "--quiet")
    assert code == 0 and err == 'warning: node 5 "Sampler", input stepz: T2VSampler has no such input; ignored\n'


def test_set_changes_what_runs_and_what_the_file_remembers(run, quick, tmp_path):
    code, _, _ = run(quick, "--set", "Prompt.text=a blue square", "--set", "Save video.filename_prefix=x/y", "--quiet")
    assert code == 0 and b"a blue square" in (tmp_path / "out/x/y_00001_.mp4").read_bytes()


def test_debug_adds_the_traceback(run, quick):
    quick["7"]["inputs"]["filename_prefix"] = "../evil"
    _, _, err = run(quick, "--quiet", "--debug")
    assert "Traceback (most recent call last)" in err and err.splitlines()[-1].startswith("error: node 7")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "the following arguments are required: COMMAND"),
        (("walk",), "invalid choice: 'walk'"),
        (("run",), "the following arguments are required: FILE"),
        (("run", "x.json", "--quiet", "--progress"), "not allowed with"),
        (("run", "x.json", "--out", ROOT / "README.md"), "README.md is not a folder"),
        (("nodes", "--models", "/no/such"), "--models: /no/such is not a folder"),
        (("run", "/no/such.json"), "/no/such.json: cannot be read: No such file or directory"),
        (("run", ROOT), "cannot be read: Is a directory"),
        (("validate", ROOT / "README.md"), "not JSON"),
    ],
)
def test_a_wrong_command_is_one_line_and_exit_code_2(cli, arguments, says):
    code, out, err = cli(*arguments)
    assert (code, out) == (2, "") and err.startswith("error: ") and says in err and err.count("\n") == 1


def test_help_documents_the_exit_codes(cli):
    code, out, _ = cli("run", "--help")
    assert code == 0 and "130 interrupted" in " ".join(out.split())
