"""An expression that was checked, as closures that evaluate it within a budget. Pure.

A closure takes the variables by name; the budget is the one without a name. Straight code costs its
number of nodes, paid at once; a turn of a loop costs the nodes of the loop again; what looks
through a text or a list pays in functions.py. So no expression outlives its budget, whatever the
values are, and the same values always cost the same.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any

from arktos_ray.api.cel import ast, functions
from arktos_ray.api.cel.values import (
    NONE,
    Budget,
    CelError,
    CostExceeded,
    Optional,
    Type,
    UInt,
    no_overload,
)  # fmt: skip

# Of one expression, in UTF-8. The checker takes 4 us a byte.
EXPRESSION_BYTES_MAX = 16_384
NODES_MAX = 20_000  # after macros are expanded
# `x.optMap(v, ...)` stands for two of x: a chain of 20 makes the parser expand a million.
DOUBLINGS_MAX = 8
# What one evaluation may cost unless its caller says less: 0.1 us a unit in plain loops, 0.6 us at
# worst (benchmarks/structural.py), so 20 to 120 ms. A hundred items compared in pairs cost 150,000.
COST_MAX = 200_000
# All expressions of one object: a rule takes 0.5 ms to compile and 14 us more for each byte, in one
# step of a partition that has others to serve. Those in wide use stay below 15 KB and 150.
EXPRESSIONS_BYTES_MAX = 65_536
EXPRESSIONS_MAX = 1_000
# Compiled expressions of all tenants, by text, and the nodes of them all: 500 bytes each, 100 MB.
_PROGRAMS = 4_096
_NODES = 200_000

Closure = Callable[[dict[str, Any]], Any]

# What is a type when it stands for itself.
_TYPES = frozenset(
    [
        "bool", "bytes", "double", "google.protobuf.Duration", "google.protobuf.Timestamp", "int",
        "kubernetes.NamedFormat", "kubernetes.Quantity", "kubernetes.Semver", "kubernetes.URL",
        "list", "map", "net.CIDR", "net.IP", "null_type", "optional_type", "string", "type", "uint",
    ]
)  # fmt: skip
_KNOWN_NAMES = {"NULL": "null_type", "BOOL": "bool", "INT": "int", "UINT": "uint", "DOUBLE": "double"}  # fmt: skip  # noqa: E501


class Program:
    """One expression. `result` is its type: bool, string, list<int>, dyn, ..."""

    __slots__ = ("_run", "cost_min", "expression", "names", "result", "tree")

    def __init__(
        self,
        expression: str,
        result: str,
        tree: ast.Expr,
        run: Closure,
        cost_min: int,
        names: frozenset[str],
    ) -> None:
        self.expression = expression
        self.tree = tree
        self.result = result
        self.cost_min = cost_min
        self.names = names  # variables that it reads
        self._run = run

    def evaluate(self, values: Mapping[str, Any], budget: Budget | None = None) -> Any:
        """The value for these values of the variables, which are not changed. CelError when there
        is none; CostExceeded when the budget does not reach (several evaluations may share one)."""
        if budget is None:
            budget = Budget(COST_MAX)
        budget.charge(self.cost_min)
        try:
            return self._run({**values, "": budget})
        except CelError:
            raise
        except RecursionError:
            raise CostExceeded from None  # Values that are nested deeper than we walk.
        except (TypeError, AttributeError, ValueError, ArithmeticError, LookupError) as error:
            # A call with values of other types than the checker could know: dyn is all of them.
            raise CelError(f"no such overload: {type(error).__name__}") from None


def compile(expression: str, variables: Mapping[str, str]) -> Program:  # noqa: A001
    """A program. `variables` are declared with their types (`dyn`, `int`, `list(string)`).

    CelError has the position of the first fault, and all of them in its text."""
    key = expression, tuple(sorted(variables.items()))
    program = _known.get(key)
    if program is None:
        program = _known.keep(key, _compile(*key))
    return program


class _Known:
    """What was compiled. When it is too much, what was longest here goes."""

    def __init__(self) -> None:
        self._programs: dict[Any, Program] = {}
        self.nodes = 0
        self.get = self._programs.get

    def keep(self, key: Any, program: Program) -> Program:
        self._programs[key] = program
        self.nodes += program.cost_min
        while self.nodes > _NODES or len(self._programs) > _PROGRAMS:
            self.nodes -= self._programs.pop(next(iter(self._programs))).cost_min
        return program


_known = _Known()


def too_many(expressions: Iterable[str]) -> str:
    """Why these are more than one object may have; "" when they are not."""
    sizes = [len(text.encode(errors="replace")) for text in expressions]
    if len(sizes) > EXPRESSIONS_MAX:
        return f"{len(sizes)} expressions are too many: one object has at most {EXPRESSIONS_MAX}"
    if sum(sizes) > EXPRESSIONS_BYTES_MAX:
        return (
            f"expressions of {sum(sizes)} bytes are too much: those of one object have at most"
            f" {EXPRESSIONS_BYTES_MAX}"
        )
    return ""


def _compile(expression: str, variables: tuple[tuple[str, str], ...]) -> Program:
    from arktos_ray.api.cel import declarations

    try:
        size = len(expression.encode())
    except UnicodeEncodeError:
        raise CelError("expression is no valid UTF-8") from None
    if size > EXPRESSION_BYTES_MAX:
        raise CelError(
            f"expression code point size exceeds limit: size: {size}, limit {EXPRESSION_BYTES_MAX}"
        )
    if expression.count("optMap") + expression.count("optFlatMap") > DOUBLINGS_MAX:
        raise CelError(f"optMap and optFlatMap may be used {DOUBLINGS_MAX} times in an expression")
    if "\0" in expression:
        raise CelError(
            "ERROR: <input>:1:1: Syntax error: token recognition error at: '\\x00'", 1, 1
        )
    serialized, result = declarations.check(expression, variables)
    tree = ast.decode(serialized)
    nodes = ast.size(tree)
    if nodes > NODES_MAX:
        raise CelError(f"Maximum expression node count exceeded: {NODES_MAX}")
    maker = _Maker(frozenset(name for name, _ in variables))
    run = maker.make(tree, {})
    return Program(expression, result.lower(), tree, run, nodes, frozenset(maker.read))


class _Maker:
    """From trees to closures. `scope` says under which name a loop's variable is kept: names may
    hide each other in the text, and do not in the values."""

    def __init__(self, declared: frozenset[str]) -> None:
        self._declared = declared
        self._loops = 0
        self.read: set[str] = set()

    def loop_name(self) -> str:
        """A new one. No name in an expression begins with a digit."""
        self._loops += 1
        return str(self._loops)

    def make(self, expr: ast.Expr, scope: dict[str, str]) -> Closure:
        match expr:
            case ast.Const(kind, value):
                constant = UInt(value) if kind == "uint" else value
                return lambda variables: constant
            case ast.Ident(name):
                return self._ident(name, scope)
            case ast.Select():
                return self._select(expr, scope)
            case ast.Call():
                return self._call(expr, scope)
            case ast.MakeList():
                return self._list(expr, scope)
            case ast.MakeMap():
                return self._map(expr, scope)
            case ast.Comprehension():
                return self._loop(expr, scope)
        raise CelError(f"undeclared reference to '{expr.name}' (in container '')")

    def _ident(self, name: str, scope: dict[str, str]) -> Closure:
        kept = scope.get(name)
        if kept is None:
            name = name.removeprefix(".")
            if name not in self._declared:
                if name not in _TYPES:
                    raise CelError(f"undeclared reference to '{name}' (in container '')")
                constant = Type(name)
                return lambda variables: constant
            self.read.add(name)
            kept = name

        def ident(variables: dict[str, Any]) -> Any:
            value = variables.get(kept, _MISSING)
            if type(value) is Lazy:
                return value.get()
            if value is _MISSING:
                raise CelError(f"no such attribute(s): {kept}")
            if type(value) is CelError:
                raise value
            return value

        return ident

    def _select(self, expr: ast.Select, scope: dict[str, str]) -> Closure:
        operand = self.make(expr.operand, scope)
        field, plain = expr.field, unescape(expr.field)

        def find(whole: Any) -> Any:
            """Properties are found by their escaped name as well as by their own."""
            if type(whole) is not dict:
                raise no_overload()
            value = whole.get(field, _MISSING)
            if value is _MISSING:
                value = whole.get(plain, _MISSING)
            return value.get() if type(value) is Lazy else value

        if expr.test:

            def has(variables: dict[str, Any]) -> Any:
                whole = operand(variables)
                if type(whole) is Optional:
                    if not whole.present:
                        return False
                    whole = whole.value
                return find(whole) is not _MISSING

            return has

        def select(variables: dict[str, Any]) -> Any:
            whole = operand(variables)
            if type(whole) is Optional:
                return _optional_select(whole, find)
            value = find(whole)
            if value is _MISSING:
                raise CelError(f"no such key: {field}")
            return value

        return select

    def _call(self, expr: ast.Call, scope: dict[str, str]) -> Closure:
        name = expr.function
        if name == "_?._":
            return self._optional_field(expr, scope)
        args = [self.make(arg, scope) for arg in expr.args]
        if name in _LAZY:
            return _LAZY[name](*args)
        function = functions.FUNCTIONS.get(name)
        if function is None:
            raise CelError(f"undeclared reference to '{name}' (in container '')")
        if len(args) == 1:
            (only,) = args
            return lambda variables: function(variables[""], only(variables))
        if len(args) == 2:
            first, second = args
            return lambda variables: function(variables[""], first(variables), second(variables))
        return lambda variables: function(variables[""], *[arg(variables) for arg in args])

    def _optional_field(self, expr: ast.Call, scope: dict[str, str]) -> Closure:
        operand = self.make(expr.args[0], scope)
        assert isinstance(expr.args[1], ast.Const)
        field = expr.args[1].value
        plain = unescape(field)

        def find(whole: Any) -> Any:
            if type(whole) is not dict:
                raise no_overload()
            value = whole.get(field, _MISSING)
            if value is _MISSING:
                value = whole.get(plain, _MISSING)
            return value.get() if type(value) is Lazy else value

        def select(variables: dict[str, Any]) -> Optional:
            whole = operand(variables)
            return _optional_select(whole if type(whole) is Optional else Optional(whole), find)

        return select

    def _list(self, expr: ast.MakeList, scope: dict[str, str]) -> Closure:
        elements = [self.make(element, scope) for element in expr.elements]
        optional = expr.optional
        if not optional:
            return lambda variables: [element(variables) for element in elements]

        def make(variables: dict[str, Any]) -> list[Any]:
            out = []
            for at, element in enumerate(elements):
                value = element(variables)
                if at in optional:
                    if type(value) is not Optional:
                        raise no_overload()
                    if not value.present:
                        continue
                    value = value.value
                out.append(value)
            return out

        return make

    def _map(self, expr: ast.MakeMap, scope: dict[str, str]) -> Closure:
        entries = [
            (self.make(entry.key, scope), self.make(entry.value, scope), entry.optional)
            for entry in expr.entries
        ]

        def make(variables: dict[str, Any]) -> dict[Any, Any]:
            out: dict[Any, Any] = {}
            for make_key, make_value, optional in entries:
                key, value = functions.key_of(make_key(variables)), make_value(variables)
                if optional:
                    if type(value) is not Optional:
                        raise no_overload()
                    if not value.present:
                        continue
                    value = value.value
                if key in out:
                    raise CelError(f"Failed with repeated key: {key}")
                out[key] = value
            return out

        return make

    def _loop(self, expr: ast.Comprehension, scope: dict[str, str]) -> Closure:
        appending = _appending(expr, self, scope)
        if appending is not None:
            return appending
        over = self.make(expr.over, scope)
        start = self.make(expr.start, scope)
        name = self.loop_name()
        item, total = f"{name}.item", f"{name}.total"
        after = {**scope, expr.total: total}
        within = {**after, expr.variable: item}
        condition = self.make(expr.condition, within)
        step = self.make(expr.step, within)
        result = self.make(expr.result, after)
        turn = 1 + ast.size(expr.condition) + ast.size(expr.step)

        def loop(variables: dict[str, Any]) -> Any:
            whole = over(variables)
            if type(whole) not in (list, dict):
                raise no_overload()
            charge = variables[""].charge
            variables[total] = start(variables)
            for variables[item] in whole:
                charge(turn)
                if condition(variables) is not True:
                    break
                try:
                    variables[total] = step(variables)
                except CostExceeded:
                    raise
                except CelError as error:
                    # A later turn of `exists` or `all` may decide all the same.
                    variables[total] = error
            return result(variables)

        return loop


def _appending(expr: ast.Comprehension, maker: _Maker, scope: dict[str, str]) -> Closure | None:
    """`map` and `filter` in one pass: as the macros expand, each turn copies the list so far."""
    match expr:
        case ast.Comprehension(
            _, _, total, ast.MakeList(()), ast.Const("bool", True), step, ast.Ident(result)
        ) if result == total:
            pass
        case _:
            return None
    wanted: ast.Expr | None = None
    if isinstance(step, ast.Call) and step.function == "_?_:_" and step.args[2] == ast.Ident(total):
        wanted, step = step.args[0], step.args[1]
    match step:
        case ast.Call("_+_", (ast.Ident(left), ast.MakeList((element,), optional))) if (
            left == total and not optional
        ):
            pass
        case _:
            return None
    over = maker.make(expr.over, scope)
    item = f"{maker.loop_name()}.item"
    within = {**scope, expr.variable: item}
    make = maker.make(element, within)
    test = maker.make(wanted, within) if wanted is not None else None
    turn = 1 + ast.size(expr.step)

    def loop(variables: dict[str, Any]) -> list[Any]:
        whole = over(variables)
        if type(whole) not in (list, dict):
            raise no_overload()
        charge = variables[""].charge
        out = []
        for variables[item] in whole:
            charge(turn)
            if test is not None:
                chosen = test(variables)
                if chosen is False:
                    continue
                if chosen is not True:
                    raise no_overload()
            out.append(make(variables))
        return out

    return loop


_MISSING = object()


class Lazy:
    """A variable whose value is worked out when it is first read, and kept."""

    __slots__ = ("_make", "_value")

    def __init__(self, make: Callable[[], Any]) -> None:
        self._make: Callable[[], Any] | None = make
        self._value: Any = None

    def get(self) -> Any:
        if self._make is not None:
            try:
                self._value = self._make()
            except CelError as error:
                self._value = error
            self._make = None
        if isinstance(self._value, CelError):
            raise self._value
        return self._value


def _optional_select(whole: Optional, find: Callable[[Any], Any]) -> Optional:
    if not whole.present:
        return NONE
    value = find(whole.value)
    return NONE if value is _MISSING else Optional(value)


# ---------------------------------------------- what does not evaluate all of its arguments at once


def _and(left: Closure, right: Closure) -> Closure:
    return _logic(left, right, decided=False)


def _or(left: Closure, right: Closure) -> Closure:
    return _logic(left, right, decided=True)


def _logic(left: Closure, right: Closure, *, decided: bool) -> Closure:
    """Either side may decide; then an error of the other does not matter."""

    def apply(variables: dict[str, Any]) -> bool:
        error: CelError | None = None
        for side in (left, right):
            try:
                value = side(variables)
            except CostExceeded:
                raise
            except CelError as caught:
                error = error or caught
            except (TypeError, AttributeError, ValueError, ArithmeticError, LookupError):
                error = error or no_overload()
            else:
                if value is decided:
                    return bool(decided)
                if type(value) is not bool:
                    error = error or no_overload()
        if error is not None:
            raise error
        return not decided

    return apply


def _choice(test: Closure, yes: Closure, no: Closure) -> Closure:
    def apply(variables: dict[str, Any]) -> Any:
        chosen = test(variables)
        if chosen is True:
            return yes(variables)
        if chosen is False:
            return no(variables)
        raise no_overload()

    return apply


def _not_strictly_false(value: Closure) -> Closure:
    """The condition of `all` and `exists`: go on also after an error."""

    def apply(variables: dict[str, Any]) -> bool:
        try:
            return value(variables) is not False
        except CostExceeded:
            raise
        except CelError:
            return True

    return apply


def _or_optional(left: Closure, right: Closure) -> Closure:
    def apply(variables: dict[str, Any]) -> Any:
        value = left(variables)
        if type(value) is not Optional:
            raise no_overload()
        return value if value.present else right(variables)

    return apply


def _or_value(left: Closure, right: Closure) -> Closure:
    def apply(variables: dict[str, Any]) -> Any:
        value = left(variables)
        if type(value) is not Optional:
            raise no_overload()
        return value.value if value.present else right(variables)

    return apply


_LAZY: dict[str, Callable[..., Closure]] = {
    "_&&_": _and,
    "_||_": _or,
    "_?_:_": _choice,
    "@not_strictly_false": _not_strictly_false,
    "or": _or_optional,
    "orValue": _or_value,
}


def fields_of(program: Program, variable: str) -> set[str]:
    """Which fields of that variable a program names."""
    found: set[str] = set()
    _fields_of(program.tree, variable, found)
    return found


def _fields_of(expr: ast.Expr, variable: str, out: set[str]) -> None:
    match expr:
        case ast.Select(ast.Ident(name), field):
            if name == variable:
                out.add(field)
        case ast.Select(operand):
            _fields_of(operand, variable, out)
        case ast.Call(_, args) | ast.MakeList(args):
            for arg in args:
                _fields_of(arg, variable, out)
        case ast.MakeMap(entries):
            for entry in entries:
                _fields_of(entry.key, variable, out)
                _fields_of(entry.value, variable, out)
        case ast.Comprehension(_, over, _, start, condition, step, result):
            for one in (over, start, condition, step, result):
                _fields_of(one, variable, out)


# ------------------------------------------------------------------------------------------- names

RESERVED = frozenset(
    [
        "as", "break", "const", "continue", "else", "false", "for", "function", "if", "import",
        "in", "let", "loop", "namespace", "null", "package", "return", "true", "var", "void",
        "while",
    ]
)  # fmt: skip
_ESCAPES = {"underscores": "__", "dot": ".", "dash": "-", "slash": "/"}


def unescape(name: str) -> str:
    """The property that an expression calls by this name: `x__dash__y` is `x-y`."""
    if "__" not in name:
        return name
    if name.startswith("__") and name.endswith("__") and name[2:-2] in RESERVED:
        return name[2:-2]
    parts = name.split("__")
    out, at = parts[0], 1
    while at < len(parts):
        found = _ESCAPES.get(parts[at])
        if found is None or at + 1 >= len(parts):
            return name
        out += found + parts[at + 1]
        at += 2
    return out
