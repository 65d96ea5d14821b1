"""Random and mutated schedules, the same ones for the same seed."""

from __future__ import annotations

import random

SEEDS = [
    "0:(1.0), 30:(1.0+0.2*sin(2*pi*t/30))",
    '{"0": "a red circle", "30": "a (blue:1.3) circle --neg blurry"}',
    '"0": "one `0.5+0.3*sin(t)`", "max_f-1": "two \\"quoted\\" \\u00e9",',
    '0:8 = "held", 8: = "from here", -1 = "last" @slerp @smoothstep',
    '0:("Euler a"), "max_f-2":("DDIM")',
    "50%: (min(1, 2, t)), 2.5s: 3 @bezier(0.4, 0, 0.2, 1), 0.75: t>3 ? 1 : 0",
    "1 if t % 2 == 0 and not t >= 9 else where(noise(t, 3) > 0, ~(t > 3), t // 2 & 3)",
    "0:'Cat'\n5:'Dog' # comment\n",
    "plain text, (word:1.2), 16:9 `t` --neg bad",
    "9**9**9 - beat(120, 0.5)",
]
PIECES = [*"0123456789.,:;=\"'`()[]{}@#?%&|~^<>!*/+-\\ \n\t\r_té“”日", "\ud800", "\x00", "\u2028", "\ufeff"]
PIECES += ["nan", "inf", "sin(", "if", "else", "and", "not", "**", "--neg", "@hold", "@bezier(", "\\u00", "0:("]
PIECES += ["1e999", "max_f", '"0":"']
ALPHABET = [chr(code) for code in range(32, 127)] + PIECES


def mutated(random_numbers: random.Random) -> str:
    """A text out of this family."""
    draw = random_numbers
    if draw.random() < 0.2:
        return "".join(draw.choices(ALPHABET, k=draw.randint(0, 60)))
    text = draw.choice(SEEDS)
    for _ in range(draw.randint(1, 6)):
        at, other = draw.randint(0, len(text)), draw.choice(SEEDS)
        width = draw.randint(0, 8)
        cut = draw.randint(0, len(other))
        text = draw.choice(
            [
                text[:at] + draw.choice(PIECES) + text[at:],
                text[:at] + text[at + width :],
                text[:at] + text[at : at + width] * 3 + text[at:],
                text[:at] + other[cut : cut + 2 * width] + text[at + width :],
                text[:at] + draw.choice(PIECES) * draw.choice([1, 2, 50]) + text[at + 1 :],
            ]
        )
    return text
