"""Ids, input names and their order are for ever: saved workflows hold them. `docs/nodes.md` is the list."""

import inspect
import re
from pathlib import Path

import pytest

from t2v_core.video import FORMATS

OF_SOME_MACHINES = {name for name, row in FORMATS.items() if row.hardware}
PAGE = (Path(__file__).resolve().parents[2] / "docs/nodes.md").read_text()


def page_sections() -> dict[str, str]:
    parts = re.split(r"^## (\w+)$", PAGE, flags=re.MULTILINE)
    return dict(zip(parts[1::2], parts[2::2], strict=True))


def declared_rows(node) -> list[list[str]]:
    rows = []
    for group, suffix in (("required", ""), ("optional", ", optional")):
        for name, (kind, options) in node.INPUT_TYPES().get(group, {}).items():
            combo = isinstance(kind, list)
            default = options.get("default", kind[0] if combo and kind else None)  # no host, no videos
            text = "" if default is None else "empty" if default == "" else str(default)
            if isinstance(default, str) and default:
                text = f"`{default}`"
            span = ", ".join(f"`{entry}`" for entry in kind if entry not in OF_SOME_MACHINES) if combo else ""
            if "min" in options:
                span = f"{options['min']} to {options['max']}"
            rows.append([f"`{name}`", ("COMBO" if combo else kind) + suffix, text, span])
    return rows


def page_rows(section: str) -> list[list[str]]:
    lines = [line for line in section.splitlines() if line.startswith("|")]
    return [[cell.strip() for cell in line.strip("|").split("|")] for line in lines[2:]]


def test_the_page_lists_every_node_in_order(pack):
    assert list(page_sections()) == list(pack.NODE_CLASS_MAPPINGS)


def test_titles_categories_inputs_and_outputs_are_the_page_s(pack):
    for name, section in page_sections().items():
        node = pack.NODE_CLASS_MAPPINGS[name]
        assert page_rows(section) == declared_rows(node), name
        assert f"**{node.TITLE}**, in `{node.CATEGORY}`" in section, name
        pairs = zip(node.RETURN_NAMES, node.RETURN_TYPES, strict=True)
        outputs = ", ".join(f"`{out}` {kind}" for out, kind in pairs) or "none; the video is shown in the node"
        assert re.search(r"^Outputs: (.*)$", section, re.MULTILINE)[1] == outputs, name


def test_the_seven_are_the_ones_promised(pack):
    promised = "T2VLoadModel T2VTextEncode T2VEmptyLatent T2VSampler T2VSamplerSelect T2VDecode T2VSaveVideo"
    assert list(pack.NODE_CLASS_MAPPINGS)[:7] == promised.split()
    assert list(pack.NODE_DISPLAY_NAME_MAPPINGS) == list(pack.NODE_CLASS_MAPPINGS)
    assert pack.WEB_DIRECTORY == "./web"


def test_the_sampler_s_inputs_are_ksampler_s_with_ours_after_them(pack):
    names = list(pack.NODE_CLASS_MAPPINGS["T2VSampler"].INPUT_TYPES()["required"])
    ksampler = "model seed steps cfg sampler_name scheduler positive negative latent_image denoise".split()
    assert names[: len(ksampler)] == ksampler


def test_every_input_and_output_explains_itself(pack):
    for name, node in pack.NODE_CLASS_MAPPINGS.items():
        assert node.DESCRIPTION and node.CATEGORY.startswith("T2V/"), name
        assert len(node.OUTPUT_TOOLTIPS) == len(node.RETURN_TYPES) and all(node.OUTPUT_TOOLTIPS), name
        for group in ("required", "optional"):
            for input_name, (_, options) in node.INPUT_TYPES().get(group, {}).items():
                assert options["tooltip"].endswith("."), f"{name}.{input_name}"


def test_the_functions_take_exactly_the_declared_inputs(pack):
    for name, node in pack.NODE_CLASS_MAPPINGS.items():
        inputs = node.INPUT_TYPES()
        declared = [*inputs["required"], *inputs.get("optional", {}), *inputs.get("hidden", {})]
        parameters = inspect.signature(getattr(node, node.FUNCTION)).parameters
        assert list(parameters)[1:] == declared, name


@pytest.mark.parametrize("group", ["required", "optional"])
def test_widget_defaults_are_within_their_range(pack, group):
    for name, node in pack.NODE_CLASS_MAPPINGS.items():
        for input_name, (kind, options) in node.INPUT_TYPES().get(group, {}).items():
            if "default" in options and isinstance(kind, list):
                assert options["default"] in kind, f"{name}.{input_name}"
            if "min" in options:
                assert options["min"] <= options["default"] <= options["max"], f"{name}.{input_name}"
