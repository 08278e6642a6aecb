"""
Signatures as they stand in the source: `inspect` writes them in another way in each Python.
"""

import ast
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any


def signature(name: str, value: Any) -> str:
    """How *value*, a class or a function, is called by this *name*."""
    definition = _definition(value)
    if isinstance(definition, ast.FunctionDef | ast.AsyncFunctionDef):
        returned = "" if definition.returns is None else ast.unparse(definition.returns)
        returned = returned.strip("'")
        return f"{name}({_arguments(definition)})" + (
            "" if returned in {"", "None"} else f" -> {returned}"
        )
    for node in definition.body:
        if isinstance(node, ast.FunctionDef) and node.name == "__init__":
            return f"{name}({_arguments(node)})"
    fields = ", ".join(_fields(definition))
    return f"{name}({fields})" if fields else name


def _definition(value: Any) -> ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef:
    node = ast.parse(textwrap.dedent(inspect.getsource(value))).body[0]
    if not isinstance(node, ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
        raise TypeError(type(node).__name__)
    return node


def _arguments(function: ast.FunctionDef | ast.AsyncFunctionDef) -> str:
    """The arguments of *function*, without `self`, `cls` and the types of options."""
    arguments = function.args
    positional = arguments.posonlyargs or arguments.args
    if positional and positional[0].arg in {"self", "cls"}:
        del positional[0]
    if arguments.kwarg is not None:
        arguments.kwarg.annotation = None
    shown = re.sub(r"(: [^=]*?)=", r"\1 = ", ast.unparse(arguments))
    return re.sub(r": '([^']+)'", r": \1", shown)


def _fields(definition: ast.ClassDef) -> Iterator[str]:
    """The fields of a dataclass as arguments."""
    is_keyword = False
    for node in definition.body:
        if not isinstance(node, ast.AnnAssign):
            continue
        options = _options(node.value)
        if options.get("init") == "False":
            continue
        if options.get("kw_only") == "True" and not is_keyword:
            is_keyword = True
            yield "*"
        default = "…" if "default_factory" in options else options.get("default")
        shown = f"{ast.unparse(node.target)}: {ast.unparse(node.annotation)}"
        yield shown if default is None else f"{shown} = {default}"


def _options(value: ast.expr | None) -> dict[str, str]:
    """What `field(…)` is called with; any other *value* is a default."""
    match value:
        case None:
            return {}
        case ast.Call(func=ast.Name(id="field"), keywords=keywords):
            return {one.arg: ast.unparse(one.value) for one in keywords if one.arg is not None}
        case _:
            return {"default": ast.unparse(value)}
