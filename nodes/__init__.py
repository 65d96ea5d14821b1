"""The pack's nodes: sockets in, one call, sockets out. A new node is one class and one row here."""

from .compile import T2VCompile
from .decode_and_save import T2VDecodeAndSave, T2VPreviewVideo
from .encode import T2VEncode
from .frame_rate import T2VModelFps
from .free_init import T2VFreeInit
from .latent import T2VEmptyLatent, T2VUpscaleLatent
from .load import T2VLoadModel
from .load_video import T2VLoadVideo, T2VLoadVideoLatent
from .long_noise import T2VLongNoise
from .lora import T2VLoadLora
from .sample import T2VSampler, T2VSamplerSelect
from .schedule import T2VPromptSchedule, T2VScheduleInspect, T2VValueSchedule
from .schedule_model import T2VScheduleModel
from .text import T2VTextEncode
from .video import T2VDecode, T2VSaveVideo
from .video_options import T2VVideoOptions
from .windows import T2VContextWindows
from .windows_preview import T2VWindowsPreview

NODES = [
    T2VLoadModel,
    T2VTextEncode,
    T2VEmptyLatent,
    T2VSampler,
    T2VSamplerSelect,
    T2VDecode,
    T2VSaveVideo,
    T2VPromptSchedule,
    T2VValueSchedule,
    T2VScheduleModel,
    T2VScheduleInspect,
    T2VLoadLora,
    T2VModelFps,
    T2VUpscaleLatent,
    T2VEncode,
    T2VCompile,
    T2VVideoOptions,
    T2VDecodeAndSave,
    T2VPreviewVideo,
    T2VLoadVideo,
    T2VLoadVideoLatent,
    T2VContextWindows,
    T2VWindowsPreview,
    T2VLongNoise,
    T2VFreeInit,
]

NODE_CLASS_MAPPINGS = {node.__name__: node for node in NODES}
NODE_DISPLAY_NAME_MAPPINGS = {node.__name__: node.TITLE for node in NODES}
