"""What reviews of credentials say about a user. Pure."""

from __future__ import annotations

from arktos_ray.api.calls import User
from arktos_ray.api.kinds.generic import Object

# Beside what credentials say of the user.
TENANT = "arktos.futurewei.com/tenant"


def user_info(user: User) -> Object:
    info: Object = {"username": user.name, "groups": list(user.groups)}
    if user.uid:
        info["uid"] = user.uid
    extra = {key: list(values) for key, values in user.extra}
    if user.tenant:
        extra[TENANT] = [user.tenant]
    return {**info, "extra": extra} if extra else info
