"""The errors a user may see. Every message says what was wrong, where, and what would be right."""


class T2VError(Exception):
    """Base of every error this pack raises on purpose; its text is meant for the person at the screen."""


class CheckpointError(T2VError):
    """A model file is missing, damaged, unsafe, or not a text-to-video model."""


class GraphError(T2VError):
    """A workflow file, one of its nodes or one of its inputs is wrong."""


class VideoError(T2VError):
    """Frames could not be turned into a video file."""
