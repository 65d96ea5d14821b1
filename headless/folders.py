"""The folder that --models names: which models and LoRAs are in it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from ..t2v_core.checkpoints import Entry, find_models
from ..t2v_core.lora import find_loras

# The folders of models in ComfyUI's, in its order; where two hold a model of one name, it is the first one's.
COMFYUI_MODELS = ("text2video", "unet", "diffusion_models")
# One of these makes it ComfyUI's. `unet` does not: diffusers has a folder of that name in each model.
COMFYUI_SIGNS = ("text2video", "diffusion_models")
LORAS = "loras"
TOKENIZER = "tokenizer"
COMFYUI_TOKENIZER = ("comfy", "sd1_tokenizer")  # CLIP's vocabulary, beside ComfyUI's `models`


class ModelsFolder:
    """A folder of models, or ComfyUI's own folder `models`, which is told by a folder `text2video` or
    `diffusion_models` in it. LoRAs are in the folder `loras` of either. None of them need exist.
    """

    def __init__(self, path: Path):
        self.path = path
        self.loras_path = path / LORAS

    def models(self) -> dict[str, Entry]:
        """Every model by its name, which is its place below the folder of models."""
        found: dict[str, Entry] = {}
        for folder in self._roots():
            for entry in find_models(folder):
                found.setdefault(entry.name, entry)
        if not self._is_comfyui():
            found = {name: entry for name, entry in found.items() if not name.startswith(f"{LORAS}/")}
        return dict(sorted(found.items()))

    def loras(self) -> dict[str, Path]:
        """Every LoRA file by its name."""
        return find_loras(self.loras_path)

    def tokenizers(self, entry: Entry) -> list[tuple[Path, Path]]:
        """(folder, what no link in it may lead out of) wherever a model's tokenizer may be; they need not exist.

        In the model's folder; one level up, but not above the models; in ComfyUI itself, if this is ComfyUI's.
        """
        folder = entry.path if entry.path.is_dir() else entry.path.parent
        root = next((root for root in map(Path.resolve, self._roots()) if folder.is_relative_to(root)), folder)
        own = [folder] if folder == root else [folder, folder.parent]
        places = [(each / TOKENIZER, root) for each in own]
        if self._is_comfyui():
            comfyui = self.path.resolve().parent
            places.append((comfyui.joinpath(*COMFYUI_TOKENIZER), comfyui))
        return places

    def _is_comfyui(self) -> bool:
        return any((self.path / name).is_dir() for name in COMFYUI_SIGNS)

    def _roots(self) -> Iterator[Path]:
        yield from (self.path / name for name in COMFYUI_MODELS) if self._is_comfyui() else (self.path,)
