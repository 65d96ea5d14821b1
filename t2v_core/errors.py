"""The errors a user may see. Every message says what was wrong, where, and what would be right."""


class T2VError(Exception):
    """Base of every error this pack raises on purpose; its text is meant for the person at the screen."""


class CheckpointError(T2VError):
    """A model file is missing, damaged, unsafe, or not a text-to-video model."""


class GraphError(T2VError):
    """A workflow file, one of its nodes or one of its inputs is wrong."""


class VideoError(T2VError):
    """Frames could not be turned into a video file, or a file not into frames."""


class ScheduleError(T2VError):
    """A prompt schedule or value schedule is wrong.

    `problems` has one `t2v_core.schedules.Problem` for each mistake found, in reading order; the error's text shows
    them all, each with its line, its column and a caret.
    """

    def __init__(self, problems):
        self.problems = tuple(problems)
        super().__init__(self.problems)

    def __str__(self) -> str:
        return "\n\n".join(str(problem) for problem in self.problems)
