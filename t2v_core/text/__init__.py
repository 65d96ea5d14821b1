"""Prompts to conditioning, with ComfyUI's emphasis, escapes and long-prompt chunks."""

from .chunks import chunk
from .emphasis import parse_emphasis
from .encode import PromptEncoder
from .tokenizer import WordTokenizer

__all__ = ["PromptEncoder", "WordTokenizer", "chunk", "parse_emphasis"]
