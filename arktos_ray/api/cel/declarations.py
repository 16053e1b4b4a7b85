"""Parsing and type checking: cel-expr-python with the declarations of Kubernetes.

Its evaluator is not used: it bounds the iterations of loops, and not what each may cost in time
and memory; and it cannot hold the types that Kubernetes adds. So no function here has a body.
Importing the package costs 35 ms and the first environment 45 ms: nobody pays who has no CEL.
"""

from __future__ import annotations

import re
from functools import cache, lru_cache
from typing import Any

from arktos_ray.api.cel import formats
from arktos_ray.api.cel.values import CelError

# Few different sets of variables are declared, by the code and not by tenants; 10 KB each.
_ENVIRONMENTS = 64
_PLACE = re.compile(r"ERROR: <input>:(-?\d+):(-?\d+): ")

# A function: name, then overloads `receiver.(parameters)->result` or `(parameters)->result`.
# Q quantity, U url, I ip, C cidr, V semver, F format; L<x> list of x, O<x> optional.
_DECLARED = """
quantity (s)->Q
isQuantity (s)->b
sign Q.()->i
isInteger Q.()->b
asInteger Q.()->i
asApproximateFloat Q.()->d
add Q.(Q)->Q Q.(i)->Q
sub Q.(Q)->Q Q.(i)->Q
isLessThan Q.(Q)->b V.(V)->b
isGreaterThan Q.(Q)->b V.(V)->b
compareTo Q.(Q)->i V.(V)->i
semver (s)->V (s,b)->V
isSemver (s)->b (s,b)->b
major V.()->i
minor V.()->i
patch V.()->i
url (s)->U
isURL (s)->b
getScheme U.()->s
getHost U.()->s
getHostname U.()->s
getPort U.()->s
getEscapedPath U.()->s
getQuery U.()->M
ip (s)->I C.()->I
isIP (s)->b
ip.isCanonical (s)->b
family I.()->i
isUnspecified I.()->b
isLoopback I.()->b
isLinkLocalMulticast I.()->b
isLinkLocalUnicast I.()->b
isGlobalUnicast I.()->b
cidr (s)->C
isCIDR (s)->b
containsIP C.(I)->b C.(s)->b
containsCIDR C.(C)->b C.(s)->b
masked C.()->C
prefixLength C.()->i
string (s)->s (b)->s (i)->s (u)->s (d)->s (B)->s (D)->s (T)->s (I)->s (C)->s
isSorted Li.()->b Lu.()->b Ld.()->b Lb.()->b Ls.()->b LB.()->b LD.()->b LT.()->b
sum Li.()->i Lu.()->u Ld.()->d LD.()->D
min Li.()->i Lu.()->u Ld.()->d Lb.()->b Ls.()->s LB.()->B LD.()->D LT.()->T
max Li.()->i Lu.()->u Ld.()->d Lb.()->b Ls.()->s LB.()->B LD.()->D LT.()->T
indexOf L?.(?)->i s.(s)->i s.(s,i)->i
lastIndexOf L?.(?)->i s.(s)->i s.(s,i)->i
charAt s.(i)->s
format s.(L?)->s
join Ls.()->s Ls.(s)->s
lowerAscii s.()->s
upperAscii s.()->s
strings.quote (s)->s
replace s.(s,s)->s s.(s,s,i)->s
split s.(s)->Ls s.(s,i)->Ls
substring s.(i)->s s.(i,i)->s
trim s.()->s
reverse s.()->s
find s.(s)->s
findAll s.(s)->Ls s.(s,i)->Ls
sets.contains (L?,L?)->b
sets.equivalent (L?,L?)->b
sets.intersects (L?,L?)->b
format.named (s)->OF
validate F.(s)->OLs
"""


def check(expression: str, variables: tuple[tuple[str, str], ...]) -> tuple[bytes, str]:
    """(the checked tree, serialized; the name of its type). CelError when it has faults."""
    environment = _environment(variables)
    try:
        # Its own limits: 32 levels, 100,000 nodes.
        compiled = environment.compile(expression)
        return compiled.serialize(), compiled.return_type().name()
    except (RuntimeError, UnicodeError, ValueError) as error:
        raise _error(str(error)) from None


def _error(text: str) -> CelError:
    text = text.strip().removesuffix("]").rpartition(" [")[0] or text
    start = re.match(r"[A-Z_]+: ", text)
    if start is not None and not text.startswith("ERROR: "):
        text = text[start.end() :]
    place = _PLACE.search(text)
    if place is None:
        return CelError(text)
    return CelError(text, max(0, int(place[1])), max(0, int(place[2])))


@lru_cache(maxsize=_ENVIRONMENTS)
def _environment(variables: tuple[tuple[str, str], ...]) -> Any:
    from cel_expr_python import cel
    from cel_expr_python.ext import ext_optional

    return cel.NewEnv(
        # Declared below, with more overloads.
        config=cel.NewEnvConfigFromYaml("stdlib: {exclude_functions: [{name: string}]}"),
        variables={name: cel.Type(kind) for name, kind in variables},
        extensions=[ext_optional.ExtOptional()],
        functions=_functions(),
    )


@cache
def _functions() -> list[Any]:
    from cel_expr_python import cel

    kinds = cel.Type
    simple = {
        "b": kinds.BOOL, "i": kinds.INT, "u": kinds.UINT, "d": kinds.DOUBLE, "s": kinds.STRING,
        "B": kinds.BYTES, "D": kinds.DURATION, "T": kinds.TIMESTAMP, "?": kinds.DYN,
        "M": kinds.Map(kinds.STRING, kinds.List(kinds.STRING)),
        "Q": kinds.AbstractType("kubernetes.Quantity"), "U": kinds.AbstractType("kubernetes.URL"),
        "I": kinds.AbstractType("net.IP"), "C": kinds.AbstractType("net.CIDR"),
        "V": kinds.AbstractType("kubernetes.Semver"),
        "F": kinds.AbstractType("kubernetes.NamedFormat"),
    }  # fmt: skip

    def kind(text: str) -> Any:
        if text[0] == "L":
            return kinds.List(kind(text[1:]))
        if text[0] == "O":
            return kinds.DYN  # The package cannot declare one that its own functions take.
        return simple[text]

    def overload(name: str, text: str) -> Any:
        receiver, parameters, result = re.fullmatch(r"(?:(.+)\.)?\((.*)\)->(.+)", text).groups()  # type: ignore[union-attr]
        taken = [kind(one) for one in parameters.split(",") if one]
        return cel.Overload(
            # No overload of the libraries is called like these.
            f"kubernetes:{name}:{text}",
            return_type=kind(result),
            parameters=[kind(receiver), *taken] if receiver else taken,
            is_member=bool(receiver),
        )

    lines = _DECLARED.split("\n")[1:-1] + [f"format.{name} ()->F" for name in formats.NAMED]
    return [
        cel.FunctionDecl(name, [overload(name, text) for text in overloads])
        for name, *overloads in (line.split() for line in lines)
    ]
