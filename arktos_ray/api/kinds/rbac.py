"""Role, ClusterRole and their bindings: who may what, said by tenants about their own.

What a rule means is in tenancy/rbac.py; here is only what one may look like. Pure.
"""

from __future__ import annotations

from arktos_ray.api import scheme
from arktos_ray.api.kinds import syntax
from arktos_ray.api.kinds.causes import Cause, bad, required, unsupported
from arktos_ray.api.kinds.generic import Object, Rules

USER, GROUP, ACCOUNT = "User", "Group", "ServiceAccount"
_ROLES = ("Role", "ClusterRole")


class RoleRules(Rules):
    def check(self, obj: Object, out: list[Cause]) -> None:
        for i, rule in enumerate(obj.get("rules") or ()):
            self._rule(rule, f"rules[{i}]", out)

    def _rule(self, rule: Object, at: str, out: list[Cause]) -> None:
        if not rule.get("verbs"):
            out.append(required(f"{at}.verbs", "verbs must contain at least one value"))
        paths = rule.get("nonResourceURLs")
        if paths:
            where = f"{at}.nonResourceURLs"
            if self.resource.namespaced:
                why = "namespaced rules cannot apply to non-resource URLs"
                out.append(bad(where, paths, why))
            if rule.get("apiGroups") or rule.get("resources") or rule.get("resourceNames"):
                why = "rules cannot apply to both regular resources and non-resource URLs"
                out.append(bad(where, paths, why))
            return
        if not rule.get("apiGroups"):
            why = "resource rules must supply at least one api group"
            out.append(required(f"{at}.apiGroups", why))
        if not rule.get("resources"):
            why = "resource rules must supply at least one resource"
            out.append(required(f"{at}.resources", why))


class ClusterRoleRules(RoleRules):
    def check(self, obj: Object, out: list[Cause]) -> None:
        super().check(obj, out)
        aggregation = obj.get("aggregationRule")
        if aggregation is None:
            return
        at = "aggregationRule.clusterRoleSelectors"
        chosen = aggregation.get("clusterRoleSelectors")
        if not chosen:
            why = "at least one clusterRoleSelector required if aggregationRule is non-nil"
            out.append(required(at, why))
        for i, selector in enumerate(chosen or ()):
            syntax.label_selector(selector, f"{at}[{i}]", out)


class RoleBindingRules(Rules):
    roles: tuple[str, ...] = _ROLES

    def default(self, obj: Object) -> None:
        role = obj.get("roleRef")
        if role is not None and not role.get("apiGroup"):
            role["apiGroup"] = scheme.RBAC
        for subject in obj.get("subjects") or ():
            if not subject.get("apiGroup") and subject.get("kind") in (USER, GROUP):
                subject["apiGroup"] = scheme.RBAC

    def check(self, obj: Object, out: list[Cause]) -> None:
        role = obj.get("roleRef") or {}
        if role.get("apiGroup") != scheme.RBAC:
            group = role.get("apiGroup") or ""
            out.append(unsupported("roleRef.apiGroup", group, (scheme.RBAC,)))
        if role.get("kind") not in self.roles:
            out.append(unsupported("roleRef.kind", role.get("kind") or "", self.roles))
        syntax.check_name(role.get("name"), "roleRef.name", syntax.path_segment, out)
        for i, subject in enumerate(obj.get("subjects") or ()):
            self._subject(subject, f"subjects[{i}]", out)

    def _subject(self, subject: Object, at: str, out: list[Cause]) -> None:
        kind, group, name = subject.get("kind"), subject.get("apiGroup") or "", subject.get("name")
        if not name:
            out.append(required(f"{at}.name"))
        if kind == ACCOUNT:
            wrong = syntax.dns_subdomain(name) if name else ""
            if wrong:
                out.append(bad(f"{at}.name", name, wrong))
            if group:
                out.append(unsupported(f"{at}.apiGroup", group, ("",)))
            if not self.resource.namespaced and not subject.get("namespace"):
                out.append(required(f"{at}.namespace"))
        elif kind in (USER, GROUP):
            if group != scheme.RBAC:
                out.append(unsupported(f"{at}.apiGroup", group, (scheme.RBAC,)))
        else:
            out.append(unsupported(f"{at}.kind", kind or "", (ACCOUNT, USER, GROUP)))

    def check_update(self, obj: Object, old: Object, out: list[Cause]) -> None:
        self.check(obj, out)
        if obj.get("roleRef") != old.get("roleRef"):
            out.append(bad("roleRef", obj.get("roleRef"), "cannot change roleRef"))


class ClusterRoleBindingRules(RoleBindingRules):
    roles = ("ClusterRole",)
