"""A condition over the columns of a table, such as "mask_overlap >= 0.7 and clip_target - clip_source >= 0.1".

Names are columns; numbers, quoted texts, comparisons (also chained), + - * /, and, or, not and brackets mean the same
as in Python. Nothing else is allowed, and nothing is executed: the text is parsed and its tree evaluated.
"""

import ast
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from p2pz_ray.errors import ConfigError, first_line

_COMPARISONS: dict[type[ast.AST], str] = {
    ast.Eq: "equal",
    ast.NotEq: "not_equal",
    ast.Lt: "less",
    ast.LtE: "less_equal",
    ast.Gt: "greater",
    ast.GtE: "greater_equal",
}
_ARITHMETIC: dict[type[ast.AST], str] = {
    ast.Add: "add",
    ast.Sub: "subtract",
    ast.Mult: "multiply",
    ast.Div: "divide",
}
_LOGIC: dict[type[ast.AST], str] = {ast.And: "and_kleene", ast.Or: "or_kleene"}


class Condition:
    """`text` split into parts that must all hold. Raises ConfigError if it isn't a condition."""

    def __init__(self, text: str) -> None:
        self.text = text
        try:
            tree = ast.parse(text.strip(), mode="eval").body
        except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
            raise ConfigError(f"pairs.filter {text!r} is not a condition ({first_line(error)}).") from None
        conjuncts = tree.values if isinstance(tree, ast.BoolOp) and isinstance(tree.op, ast.And) else [tree]
        self._parts = [(ast.unparse(part), part) for part in conjuncts]
        for _, part in self._parts:
            self._check(part)

    def passed(self, table: pa.Table) -> list[tuple[str, np.ndarray]]:
        """Each part with the rows, (N,) bool, where it holds; it doesn't where a value is null or NaN."""
        return [(text, self._rows(text, part, table)) for text, part in self._parts]

    def _rows(self, text: str, part: ast.expr, table: pa.Table) -> np.ndarray:
        try:
            result = self._value(part, table)
            if isinstance(result, pa.ChunkedArray):
                result = result.combine_chunks()
            if not isinstance(result, pa.Array | pa.ChunkedArray) or not pa.types.is_boolean(result.type):
                raise TypeError("it compares nothing")
        except (pa.ArrowException, TypeError, RecursionError) as error:
            raise ConfigError(f"{text} in pairs.filter can't be evaluated ({first_line(error)}).") from None
        return np.asarray(pc.fill_null(result, False).to_numpy(zero_copy_only=False), dtype=bool)

    def _check(self, node: ast.expr) -> None:
        """Raise ConfigError for an expression that isn't allowed, before any table is read."""
        match node:
            case ast.BoolOp(values=inner):
                pass
            case ast.UnaryOp(op=ast.Not() | ast.USub(), operand=operand):
                inner = [operand]
            case ast.Compare(left=left, ops=ops, comparators=others) if all(type(op) in _COMPARISONS for op in ops):
                inner = [left, *others]
            case ast.BinOp(left=left, op=op, right=right) if type(op) in _ARITHMETIC:
                inner = [left, right]
            case ast.Name():
                inner = []
            case ast.Constant(value=bool() | int() | float() | str()):
                inner = []
            case _:
                raise ConfigError(
                    f"pairs.filter holds {ast.unparse(node)!r}, which isn't understood: write comparisons of columns "
                    "and numbers, joined by and, or, not."
                )
        for child in inner:
            self._check(child)

    def _value(self, node: ast.expr, table: pa.Table) -> Any:
        call: Callable[..., Any]
        match node:
            case ast.BoolOp(op=op, values=values):
                call = getattr(pc, _LOGIC[type(op)])
                result = self._value(values[0], table)
                for value in values[1:]:
                    result = call(result, self._value(value, table))
                return result
            case ast.UnaryOp(op=op, operand=operand):
                return (pc.invert if isinstance(op, ast.Not) else pc.negate)(self._value(operand, table))
            case ast.Compare(left=left, ops=ops, comparators=others):
                values = [self._value(part, table) for part in [left, *others]]
                result = None
                for comparison, left_value, right_value in zip(ops, values, values[1:], strict=False):
                    holds = getattr(pc, _COMPARISONS[type(comparison)])(left_value, right_value)
                    result = holds if result is None else pc.and_kleene(result, holds)
                return result
            case ast.BinOp(left=left, op=op, right=right):
                return getattr(pc, _ARITHMETIC[type(op)])(self._value(left, table), self._value(right, table))
            case ast.Name(id=name):
                if name not in table.column_names:
                    raise ConfigError(
                        f"pairs.filter names {name}, which no pair has: the columns are "
                        f"{', '.join(sorted(table.column_names))}."
                    )
                return table.column(name)
            case ast.Constant(value=value):
                return pa.scalar(value)
        raise AssertionError("unreachable")
