"""Expressions of numbers, such as `1.0+0.2*sin(2*pi*t/30)`: parsed once, computed for many frames at once.

Parsing is Dijkstra's shunting-yard algorithm: a loop and a stack of its own, so depth costs no recursion. The tree is
kept in postfix order, operands before their operator; hashing, comparing and computing it are loops too.
"""

from __future__ import annotations

import difflib
from collections.abc import Collection
from dataclasses import dataclass
from typing import NamedTuple

from .functions import ALIASES, CONSTANTS, FUNCTIONS, VARIABLES, WORDS
from .lexer import SMART_QUOTES, Lexer
from .source import Slip, Source

MAX_DEPTH = 200  # brackets inside brackets
MAX_OPERATIONS = 2000  # numbers, names and operators of one expression


class Operation(NamedTuple):
    """One node of the tree, with `count` operands.

    `kind` is number, constant, name, call, prefix, binary, compare, select (c ? a : b) or choose (a if c else b);
    `value` the number, the name or the sign, or for compare the signs of the chain.
    """

    kind: str
    value: object
    count: int = 0


@dataclass(frozen=True)
class Expression:
    """A parsed expression in postfix order; `at` is its index in the text it stands in, and no part of its identity."""

    operations: tuple[Operation, ...]
    at: int = 0

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Expression) and self.operations == other.operations

    def __hash__(self) -> int:
        return hash(self.operations)

    @property
    def number(self) -> float | None:
        """The value of a plain number, which may have a sign or be in brackets; None for everything else."""
        (kind, value, _), *signs = self.operations
        if kind != "number" or len(signs) > 1 or (signs and signs[0].kind != "prefix"):
            return None
        sign = signs[0].value if signs else "+"
        return {"+": value, "-": -value}.get(sign)


class _Pending(NamedTuple):
    """An operator that waits for its right operand, or an open bracket, call, `?` or `if`, which holds others back."""

    precedence: int  # BARRIER for those that hold others back
    kind: str
    value: object
    count: int
    position: int


BARRIER = 0
CONDITIONAL, OR, AND, NOT, COMPARISON, BIT_OR, BIT_AND, SUM, PRODUCT, SIGN, POWER = range(1, 12)
_BINARY = {"or": OR, "and": AND, "|": BIT_OR, "&": BIT_AND, "+": SUM, "-": SUM, "*": PRODUCT, "/": PRODUCT}
_BINARY |= {"//": PRODUCT, "%": PRODUCT, "**": POWER}
_BINARY |= dict.fromkeys(("<", ">", "<=", ">=", "==", "!="), COMPARISON)
_PREFIX = {"-": SIGN, "+": SIGN, "~": SIGN, "not": NOT}
_SLIPS = {
    "^": "powers are written **: x**2",
    "=": "equality is written ==",
    "&&": "write: and",
    "||": "write: or",
    "!": "write: not",
    ";": "entries are separated by commas",
    "/*": "a comment is written: # to the end of the line",
    "[": "use round brackets: ( )",
    "{": "use round brackets: ( )",
}


def parse_expression(lexer: Lexer, source: Source, names: Collection[str] = ()) -> Expression:
    """Read an expression up to the first token that cannot belong to it; `names` are known besides the built-in ones.

    Unknown names and wrong numbers of arguments are noted in `source` and reading goes on; anything after which the
    expression makes no sense raises Slip.
    """
    return _Parser(lexer, source, names).parse()


class _Parser:
    def __init__(self, lexer: Lexer, source: Source, names: Collection[str]):
        self.lexer, self.source, self.names = lexer, source, names
        self.output: list[Operation] = []
        self.pending: list[_Pending] = []
        self.bits = -1  # length of the output when a `&` or `|` was last put there
        self.brackets: list[int] = []  # where each open one stands

    def parse(self) -> Expression:
        start = self.lexer.start
        while True:
            self.operand()
            if not self.operator():
                break
            if len(self.output) + len(self.pending) > MAX_OPERATIONS:
                raise Slip(self.lexer.start, f"this expression has more than {MAX_OPERATIONS} numbers and operators")
        self.reduce(CONDITIONAL)
        if self.pending:
            self.unfinished()
        return Expression(tuple(self.output), start)

    def operand(self) -> None:
        """Read prefixes and open brackets, then a number or a name."""
        lexer = self.lexer
        while True:
            kind, text = lexer.kind, lexer.text
            if kind == "number":
                self.number(text)
                return
            if kind == "name" and text not in WORDS:
                if not self.name(text):
                    return
            elif text in _PREFIX:
                self.push(_PREFIX[text], "prefix", text, 1)
                lexer.advance()
            elif text == "(":
                self.open("bracket", "(", 1)
            else:
                raise self.no_operand()

    def push(self, precedence: int, kind: str, value: object, count: int) -> None:
        if len(self.pending) > MAX_OPERATIONS:
            raise Slip(self.lexer.start, f"this expression has more than {MAX_OPERATIONS} numbers and operators")
        self.pending.append(_Pending(precedence, kind, value, count, self.lexer.start))

    def number(self, text: str) -> None:
        value = float(text)
        if value == float("inf"):
            self.source.error(self.lexer.start, "this number is too large", "numbers reach to 1.7e308")
        self.output.append(Operation("number", value))
        self.lexer.advance()

    def name(self, name: str) -> bool:
        """Read a name; True if it opened the brackets of a call that has arguments."""
        lexer, start = self.lexer, self.lexer.start
        lexer.advance()
        if lexer.text == "(":
            if name not in FUNCTIONS:
                self.unknown(name, start, called=True)
            hidden = ("t", "fps") if name == "beat" else ()
            self.output += [Operation("name", variable) for variable in hidden]
            self.open("call", (name, start, len(hidden)), 1)
            if lexer.text == ")":
                self.check_count(name, start, 0)
                raise Slip(lexer.start, f"expected a value, found {lexer.describe()}")
            return True
        if name in CONSTANTS:
            self.output.append(Operation("constant", CONSTANTS[name]))
        else:
            if name not in VARIABLES and name not in self.names:
                self.unknown(name, start, called=False)
            self.output.append(Operation("name", name))
        return False

    def open(self, kind: str, value: object, count: int) -> None:
        if len(self.brackets) == MAX_DEPTH:
            raise Slip(self.lexer.start, f"more than {MAX_DEPTH} brackets inside each other")
        self.brackets.append(self.lexer.start)
        self.push(BARRIER, kind, value, count)
        self.lexer.advance()

    def operator(self) -> bool:
        """Read closing brackets and one operator; False where the expression ends."""
        lexer = self.lexer
        while lexer.text == ")" and self.brackets:
            self.close()
        text = lexer.text if lexer.kind in ("sign", "name") else ""
        if text in _BINARY:
            self.binary(text, _BINARY[text])
        elif text in ("?", "if"):
            self.reduce(CONDITIONAL + 1)
            self.push(BARRIER, text, text, 3)
        elif text in (":", "else") and self.answers(text):
            pass
        elif text == "," and self.brackets:
            self.argument()
        elif self.brackets and text not in (":", "}", "@") and lexer.kind != "end":
            raise self.no_operator()
        else:
            return False
        lexer.advance()
        return True

    def binary(self, text: str, precedence: int) -> None:
        # Left to right, but powers, which group from the right, and comparisons, which chain.
        self.reduce(precedence + (precedence in (POWER, COMPARISON)))
        if precedence == COMPARISON:
            self.no_bits()
            if self.pending and self.pending[-1].precedence == COMPARISON:
                last = self.pending.pop()
                self.push(COMPARISON, "compare", (*last.value, text), last.count + 1)
            else:
                self.push(COMPARISON, "compare", (text,), 2)
        else:
            self.push(precedence, "binary", text, 2)

    def no_bits(self) -> None:
        """Python reads `t>3 & t<9` as `t > (3&t) < 9`, and C otherwise; nobody means it."""
        if self.bits == len(self.output):
            raise Slip(
                self.lexer.start,
                "a comparison beside `&` or `|` without brackets",
                "write (t>3) & (t<9), or: t>3 and t<9",
            )

    def reduce(self, least: int) -> None:
        """Put out the operators on the stack that bind at least as tightly as `least`, the last first."""
        while self.pending and self.pending[-1].precedence >= least:
            done = self.pending.pop()
            if done.kind == "compare":
                self.no_bits()
            self.output.append(Operation(done.kind, done.value, done.count))
            if done.value in ("&", "|"):
                self.bits = len(self.output)

    def answers(self, text: str) -> bool:
        """Whether this `:` or `else` belongs to the `?` or `if` before it; if so, that is now a whole operator."""
        self.reduce(CONDITIONAL)
        if not self.pending or self.pending[-1].kind != {":": "?", "else": "if"}[text]:
            return False
        self.pending.pop()
        self.push(CONDITIONAL, "select" if text == ":" else "choose", None, 3)
        return True

    def argument(self) -> None:
        self.reduce(CONDITIONAL)
        last = self.pending[-1]
        if last.kind in ("?", "if"):
            self.unfinished()
        if last.kind != "call":
            message = "this bracket is not closed before the comma"
            raise Slip(self.brackets[-1], message, "only the arguments of a function have commas")
        self.pending[-1] = last._replace(count=last.count + 1)

    def close(self) -> None:
        self.reduce(CONDITIONAL)
        last = self.pending[-1]
        if last.kind in ("?", "if"):
            self.unfinished()
        self.pending.pop()
        self.brackets.pop()
        if last.kind == "call":
            name, position, hidden = last.value
            self.check_count(name, position, last.count)
            self.output.append(Operation("call", name, last.count + hidden))
        self.bits = -1
        self.lexer.advance()

    def check_count(self, name: str, position: int, count: int) -> None:
        function = FUNCTIONS.get(name)
        if function is None or (function.least <= count and (function.most is None or count <= function.most)):
            return
        given = f"{count} value{'s' * (count != 1)} given"
        self.source.error(position, f"expected {function.shape}, found `{name}` with {given}")

    def unfinished(self) -> None:
        """The innermost bracket, `?` or `if` has no end."""
        last = self.pending[-1]
        found = self.lexer.describe()
        if last.kind == "?":
            raise Slip(self.lexer.start, f"expected `:` and the other value, found {found}", "condition ? a : b")
        if last.kind == "if":
            raise Slip(self.lexer.start, f"expected `else`, found {found}", "a if condition else b")
        raise Slip(self.brackets[-1], "this bracket is never closed", f"a `)` is missing before {found}")

    def unknown(self, name: str, position: int, called: bool) -> None:
        known = sorted([*FUNCTIONS] if called else [*VARIABLES, *CONSTANTS, *self.names])
        hint = f"known are: {', '.join(known)}"
        near = [ALIASES[name.lower()]] if name.lower() in ALIASES else []
        near = near or difflib.get_close_matches(name.lower()[:40], known, 1)
        if not called and name in FUNCTIONS:
            hint = f"a function needs brackets: {FUNCTIONS[name].shape}"
        elif called and (name in VARIABLES or name in CONSTANTS or name in self.names):
            hint = f"is a `*` missing: {name}*(...)?"
        elif near:
            hint = f"did you mean `{near[0]}`?"
        kind = "function" if called else "name"
        self.source.error(position, f"unknown {kind} `{name[:40]}`", hint)

    def no_operand(self) -> Slip:
        lexer = self.lexer
        hint = _SLIPS.get(lexer.text, "") if lexer.kind == "sign" else ""
        if lexer.kind == "other" and lexer.text in SMART_QUOTES:
            hint = 'typographic quotes: write "'
        elif lexer.kind == "string":
            hint = "a number or an expression stands without quotes"
        elif lexer.kind == "open":
            hint = "closing quote missing"
        return Slip(lexer.start, f"expected a number, a name or `(`, found {lexer.describe()}", hint)

    def no_operator(self) -> Slip:
        lexer = self.lexer
        hint = _SLIPS.get(lexer.text, "") if lexer.kind == "sign" else ""
        if lexer.kind in ("number", "name") or lexer.text == "(":
            hint = "is a `*` or a comma missing?"
        return Slip(lexer.start, f"expected an operator, `,` or `)`, found {lexer.describe()}", hint)
