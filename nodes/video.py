"""From latents to frames, and from frames to a file."""

from __future__ import annotations

from . import host, saving
from .sockets import check_images, check_part, latents_of

LATENTS = {
    "samples": ("LATENT", {"tooltip": "The clip to decode."}),
    "vae": ("VAE", {"tooltip": "The autoencoder, from a loader."}),
}
FRAMES_PER_BATCH = {
    "frames_per_batch": (
        "INT",
        {
            "default": 0,
            "min": 0,
            "max": 4096,
            "tooltip": "How many frames are decoded at once. Fewer need less memory; "
            "0 chooses by the size of the frames.",
        },
    ),
}


class T2VDecode:
    """VAE decoding, a few frames at a time."""

    TITLE = "T2V Decode"
    DESCRIPTION = "Turns a clip's latents into frames, a few at a time so that long clips fit in memory."
    CATEGORY = "T2V/latent"
    RETURN_TYPES = ("IMAGE",)
    RETURN_NAMES = ("images",)
    OUTPUT_TOOLTIPS = ("The clip's frames.",)
    FUNCTION = "decode"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                **LATENTS,
                **FRAMES_PER_BATCH,
            }
        }

    def decode(self, samples, vae, frames_per_batch):
        latents = latents_of(samples, "samples")
        check_part(vae, "vae", "autoencoder")
        return (host.current().decode(vae, latents, frames_per_batch),)


class T2VSaveVideo:
    """Frames into a numbered file in the output folder, the workflow inside it."""

    TITLE = "T2V Save Video"
    DESCRIPTION = (
        "Writes the frames as a video into the output folder. The workflow travels in the file: "
        "drop it on ComfyUI's page to get the workflow back."
    )
    CATEGORY = "T2V/video"
    RETURN_TYPES = ()
    RETURN_NAMES = ()
    OUTPUT_TOOLTIPS = ()
    OUTPUT_NODE = True
    FUNCTION = "save"

    @classmethod
    def INPUT_TYPES(cls):
        return {
            "required": {
                "images": saving.images_input(),
                **saving.inputs(),
            },
            "optional": saving.optional_inputs(),
            "hidden": {"prompt": "PROMPT", "extra_pnginfo": "EXTRA_PNGINFO"},
        }

    @classmethod
    def VALIDATE_INPUTS(cls, filename_prefix=None):
        return saving.check_prefix_widget(filename_prefix)

    def save(
        self,
        images,
        fps,
        filename_prefix,
        format,
        quality,
        audio=None,
        options=None,
        prompt=None,
        extra_pnginfo=None,
    ):
        images, fps, audio = saving.parts_of(images, fps, audio)
        check_images(images, "images", alpha=True)
        return saving.save(
            images,
            len(images),
            images.shape[2],
            images.shape[1],
            fps=fps,
            prefix=filename_prefix,
            format=format,
            quality=quality,
            options=options,
            audio=audio,
            prompt=prompt,
            extra_pnginfo=extra_pnginfo,
        )
