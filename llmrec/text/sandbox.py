"""Jinja for templates that strangers wrote: they reach nothing, and they end.

Jinja's own sandbox keeps a template away from Python's internals; it does not keep it from looping for days or from
filling the memory (loops within loops, a text doubled forty times, a number with a width of a billion). Here each
rendering has a budget of steps, which loops, calls, filters and text that is put out take from, and every value has
a greatest size. What goes beyond ends with a `jinja2.TemplateError`.
"""

from __future__ import annotations

import functools
import json
import re
import threading
from collections.abc import Callable, Generator, Iterable, Iterator, Sized
from contextlib import contextmanager
from datetime import datetime
from typing import Any

import jinja2
from jinja2 import nodes
from jinja2.ext import Extension
from jinja2.parser import Parser
from jinja2.runtime import Context, LoopContext
from jinja2.sandbox import ImmutableSandboxedEnvironment

LONGEST_SOURCE = 200_000
"""Characters of one template; the longest of published models has a tenth of it."""
STEPS = 300_000
"""Loops, calls and characters of one rendering; a prompt takes some thousands."""
LARGEST = 100_000
"""Characters of a text, or values of a list, that a template may make."""
_WORK = 10_000_000
"""Size of a value times the size of what it is widened, replaced or joined by."""
_CALL, _POWER = 8, 64
_WIDTH = re.compile(r"\d{5,}")
_WIDE_FIELD = re.compile(r"\d{5,}|\{[^{}]*\{")  # a field within a field gives a width as well
_WIDE = "it asks for a width of more than 9,999 characters"
_GLOBALS = ("range", "dict", "namespace", "cycler", "joiner")


class TooMuch(jinja2.TemplateRuntimeError):
    """A template does more than a prompt needs."""


class BoundedSandbox(ImmutableSandboxedEnvironment):
    """Jinja's sandbox with a budget for each rendering; takes the arguments of a `jinja2.Environment`."""

    intercepted_binops = frozenset(["+", "*", "**", "%"])

    def __init__(self, **options: Any) -> None:
        self._left = threading.local()
        super().__init__(finalize=self._put_out, **options)
        # Jinja's `lipsum` and whatever an application adds make text without bound.
        self.globals = {name: value for name, value in self.globals.items() if name in _GLOBALS}
        self.filters = {name: self._filter(given) for name, given in self.filters.items()}
        self.filters |= {"_counted": self._counted, "_bounded": self._bounded}
        self._macro = 0

    @contextmanager
    def budget(self, steps: int = STEPS) -> Iterator[None]:
        """Within, templates of this environment may take so many steps together."""
        self._left.steps = steps
        try:
            yield
        finally:
            del self._left.steps

    def add_filter(self, name: str, given: Callable[..., Any]) -> None:
        """Adds a filter within the bounds of the others."""
        self.filters[name] = self._filter(given)

    def spend(self, steps: int) -> None:
        """Takes steps from the budget of the rendering."""
        left = getattr(self._left, "steps", None)
        if left is None:  # at compile time: constants are folded
            return
        self._left.steps = left - steps
        if left < steps:
            raise TooMuch(f"it takes more than {STEPS:,} steps")

    def get_template(self, name: Any, *arguments: Any, **options: Any) -> jinja2.Template:
        """As Jinja's; each template that is included or imported costs its length."""
        self.spend(100)
        return super().get_template(name, *arguments, **options)

    def call(self, context: Context, called: Any, *arguments: Any, **options: Any) -> Any:
        """Calls a macro, a method or a function of the sandbox."""
        self.spend(_CALL + self._macro)
        if isinstance(called, LoopContext) and arguments:
            # A recursive loop calls itself with new values, which no rewritten loop head counts.
            arguments = (self._counted(arguments[0]), *arguments[1:])
        owner = getattr(called, "__self__", None)
        if isinstance(owner, str | list | dict | tuple):
            self._check_work(owner, (*arguments, *options.values()))
        return self._bounded(super().call(context, called, *arguments, **options))

    def call_binop(self, context: Context, operator: str, left: Any, right: Any) -> Any:
        """+, *, ** and % within bounds."""
        if operator == "*":
            self._check_repeated(left, right)
        if operator == "**" and not (_is_number(left) and _is_number(right) and max(abs(left), abs(right)) <= _POWER):
            raise TooMuch(f"it uses {operator} on what may become large")
        if operator == "%" and isinstance(left, str):
            self._check_work(left, right if isinstance(right, tuple) else (right,))
        return self._bounded(super().call_binop(context, operator, left, right))

    def wrap_str_format(self, value: Any) -> Callable[..., str] | None:
        """The method `format` of a text, within bounds."""
        if isinstance(getattr(value, "__self__", None), str) and _WIDE_FIELD.search(value.__self__):
            raise TooMuch(_WIDE)
        return super().wrap_str_format(value)

    def _parse(self, source: str, name: str | None, filename: str | None) -> nodes.Template:
        if len(source) > LONGEST_SOURCE:
            raise jinja2.TemplateSyntaxError(f"it has more than {LONGEST_SOURCE:,} characters", 1, name, filename)
        tree = super()._parse(source, name, filename)
        # Each turn costs the text within it as well: output is made between the calls that are counted.
        for loop in list(tree.find_all(nodes.For)):
            cost = nodes.Const(1 + _data(loop))
            loop.iter = nodes.Filter(loop.iter, "_counted", [cost], [], None, None, lineno=loop.lineno)
        self._macro = max([self._macro, *map(_data, tree.find_all((nodes.Macro, nodes.CallBlock)))])
        _Wrap().visit(tree)
        tree.set_environment(self)
        return tree

    def _filter(self, given: Callable[..., Any]) -> Callable[..., Any]:
        @functools.wraps(given)
        def bounded(*arguments: Any, **options: Any) -> Any:
            place = 1 if hasattr(given, "jinja_pass_arg") else 0
            value, more = arguments[place], (*arguments[place + 1 :], *options.values())
            if isinstance(value, Iterator):
                arguments = (*arguments[:place], self._counted(value), *arguments[place + 1 :])
            else:
                self.spend(1 + self._weight(value))
            self._check_work(value, more)
            return self._bounded(given(*arguments, **options))

        return bounded

    def _counted(self, values: Iterable[Any], cost: int = 1) -> Generator[Any]:
        for value in values:
            self.spend(cost)
            yield value

    def _bounded(self, value: Any) -> Any:
        """`value`, if it is not too large; takes its size from the budget."""
        if isinstance(value, str | list | tuple | dict | set):
            self.spend(self._weight(value))
        # Numbers of a million digits take minutes to be written out.
        elif isinstance(value, int) and value.bit_length() > 64:
            raise TooMuch("it makes a number beyond 64 bits")
        return value

    def _put_out(self, value: Any) -> Any:
        return self._bounded(value)

    def _weight(self, value: Any, left: int = LARGEST) -> int:
        """Characters and values in `value`, what stands in it twice counted twice."""
        if isinstance(value, str):
            size = len(value)
        elif isinstance(value, dict):
            size = len(value)
            for pair in value.items():
                size += sum(self._weight(part, left - size) for part in pair)
        elif isinstance(value, list | tuple | set | frozenset):
            size = len(value)
            for part in value:
                size += self._weight(part, left - size)
        else:
            size = 1
        if size > left:
            raise TooMuch(f"it makes a value of more than {LARGEST:,} characters or parts")
        return size

    def _check_work(self, value: Any, more: Iterable[Any]) -> None:
        """Refuses what would widen, fill, replace or format `value` into something large."""
        size = len(value) if isinstance(value, Sized) else 1
        for argument in more:
            by = argument if isinstance(argument, int) else len(argument) if isinstance(argument, Sized) else 1
            # Checked before the work is done: afterwards the memory is gone already.
            if (size + 1) * (abs(by) + 1) > _WORK or abs(by) > LARGEST:
                raise TooMuch("it widens or replaces text into something too large")
        if isinstance(value, str) and ("%" in value or "{" in value) and _WIDTH.search(value):
            raise TooMuch(_WIDE)

    def _check_repeated(self, left: Any, right: Any) -> None:
        times = [side for side in (left, right) if isinstance(side, int)]
        size = sum(self._weight(side) for side in (left, right) if isinstance(side, str | list | tuple))
        if size and times and size * times[0] > LARGEST:
            raise TooMuch(f"it repeats text or lists to more than {LARGEST:,}")


class _Wrap(jinja2.visitor.NodeTransformer):
    """Bounds what is put together: texts by ~, and lists, tuples and dictionaries that are written out."""

    def visit_Concat(self, node: nodes.Concat) -> nodes.Node:
        self.generic_visit(node)
        node.nodes = [_wrapped(part) for part in node.nodes]
        return _wrapped(node)

    def visit_List(self, node: nodes.List) -> nodes.Node:
        self.generic_visit(node)
        return _wrapped(node)

    def visit_Tuple(self, node: nodes.Tuple) -> nodes.Node:
        self.generic_visit(node)
        return _wrapped(node) if node.ctx == "load" else node

    def visit_Dict(self, node: nodes.Dict) -> nodes.Node:
        self.generic_visit(node)
        return _wrapped(node)


def _wrapped(node: nodes.Expr) -> nodes.Expr:
    return nodes.Filter(node, "_bounded", [], [], None, None, lineno=node.lineno)


def _data(node: nodes.Node) -> int:
    """Characters that stand in a part of a template as they are."""
    return sum(len(text.data) for text in node.find_all(nodes.TemplateData))


def _is_number(value: object) -> bool:
    return isinstance(value, int | float)


def try_chat_template(source: str, **values: Any) -> None:
    """Renders a chat template within bounds, as transformers would do without.

    Raises:
        jinja2.TemplateError: it does too much, or fails.
    """

    def refuse(message: str) -> None:
        raise jinja2.TemplateRuntimeError(message)

    extensions = [_Generation, "jinja2.ext.loopcontrols"]
    environment = BoundedSandbox(trim_blocks=True, lstrip_blocks=True, extensions=extensions)
    environment.add_filter("tojson", _as_json)
    environment.globals |= {"raise_exception": refuse, "strftime_now": lambda form: datetime.now().strftime(form)}
    template = environment.from_string(source)
    with environment.budget():
        template.render(values)


def _as_json(value: Any, **options: Any) -> str:
    return json.dumps(value, **{"ensure_ascii": False, **options})


class _Generation(Extension):
    """The tag `generation` of chat templates, which marks what an assistant says: its text alone."""

    tags = {"generation"}  # noqa: RUF012 (Jinja's own way)

    def parse(self, parser: Parser) -> list[nodes.Node]:
        """The statements between the tags."""
        next(parser.stream)
        return parser.parse_statements(("name:endgeneration",), drop_needle=True)
