"""From a prompt to what the denoiser is conditioned on."""

import logging
import math
from collections.abc import Callable

import torch
from torch import Tensor

from ..errors import T2VError
from .chunks import WeightedId, chunk
from .emphasis import parse_emphasis, remove_embeddings
from .tokenizer import Tokenizer

logger = logging.getLogger(__name__)


class PromptEncoder:
    """Encodes prompts as ComfyUI's CLIP does with the same network: emphasis, escapes, and prompts of any length.

    network: `ids [b, length]` long -> `(features [b, length, dim], pooled [b, dim])`; a module runs on its own device.
    length: ids in a chunk; T2VError where `chunk` cannot use it.
    """

    def __init__(self, network: Callable[[Tensor], tuple[Tensor, Tensor]], tokenizer: Tokenizer, length: int = 24):
        self.network = network
        self.tokenizer = tokenizer
        self.length = length
        self._empty = self.chunks("")[0]

    def chunks(self, text: str) -> list[list[WeightedId]]:
        """The `(id, weight)` pairs of a prompt, in chunks of `length`; one chunk for an empty prompt."""
        segments, ignored = [], []
        for words, weight in parse_emphasis(text):
            pieces, names = remove_embeddings(words)
            segments += [[(index, weight) for index in self.tokenizer.words(piece)] for piece in pieces]
            ignored += names
        if ignored:
            logger.warning("this model has no embeddings: ignored %d, the first named %.60r", len(ignored), ignored[0])
        return chunk(segments, self.length, self.tokenizer.start, self.tokenizer.end, self.tokenizer.pad)

    def encode(self, text: str) -> tuple[Tensor, Tensor]:
        """Encode a prompt of n chunks -> `(cond [1, n * length, dim], pooled [1, dim])`, in the network's dtype.

        A token's features z become `(z - z_empty) * weight + z_empty`, z_empty being the empty prompt's at the
        same position. `pooled` is that of the first chunk, and takes no weights.

        Raises T2VError where text is not a str, or where a weight such as `nan` or `1e999` makes features non-finite.
        """
        if not isinstance(text, str):
            raise T2VError(f"prompt: expected text, got {type(text).__name__}")
        return self.encode_chunks(self.chunks(text))

    @torch.no_grad()
    def encode_chunks(self, chunks: list[list[WeightedId]]) -> tuple[Tensor, Tensor]:
        """As `encode`, of what `chunks` returned."""
        weights = torch.tensor([[weight for _, weight in pairs] for pairs in chunks], dtype=torch.float64)
        weighted = bool((weights != 1).any())
        batch = [*chunks, self._empty] if weighted else chunks
        ids = torch.tensor([[index for index, _ in pairs] for pairs in batch], device=_device(self.network))

        features, pooled = self.network(ids)
        if not features.isfinite().all():
            raise T2VError("prompt: the text encoder gave non-finite features; its weights are damaged or overflow")
        if weighted:
            features = _emphasise(features[:-1], features[-1], weights)
            if not features.isfinite().all():
                raise T2VError(self._unusable_weight(chunks))
        return features.flatten(0, 1)[None], pooled[:1]

    def _unusable_weight(self, chunks: list[list[WeightedId]]) -> str:
        """The message about the weight farthest from a usable one, and the words in a row that have it."""
        pairs = [pair for pairs in chunks for pair in pairs]
        _, weight = max(pairs, key=lambda pair: math.inf if math.isnan(pair[1]) else abs(pair[1]))
        same = [index for index, other in pairs if other == weight or (math.isnan(other) and math.isnan(weight))]
        where = " ".join(self.tokenizer.word(index) for index in same)[:40]
        return f"prompt: weight {weight:g} of {where!r} is out of range; a usable weight is near 1, as in (word:1.3)"


def _emphasise(features: Tensor, empty: Tensor, weights: Tensor) -> Tensor:
    """Scale the way from `empty [length, dim]` to `features [n, length, dim]` by `weights [n, length]`; 1 is exact."""
    exact = torch.promote_types(features.dtype, torch.float32)  # 1.3 is not 1.3 in half precision
    scale = weights.to(features.device, exact)[..., None]
    return torch.where(scale == 1, features, ((features - empty) * scale + empty).to(features.dtype))


def _device(network: object) -> torch.device:
    """Where a module's parameters are; the CPU for any other callable."""
    parameters = network.parameters() if isinstance(network, torch.nn.Module) else iter(())
    return next((parameter.device for parameter in parameters), torch.device("cpu"))
