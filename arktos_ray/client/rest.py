"""Plain HTTP to the front door, for the command line: one request, one answer, standard library.

Not the Client port: no objects, no watches, no retries. It must import fast.
"""

from __future__ import annotations

import http.client
import json
import ssl
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from arktos_ray.api import errors


@dataclass(frozen=True, slots=True)
class Rest:
    """server: `https://host:port`; a client certificate or a token says who asks."""

    server: str
    ca: Path | None = None
    certificate: Path | None = None
    key: Path | None = None
    token: str = ""
    deadline_s: float = 10.0

    def request(self, method: str, path: str, body: dict[str, Any] | None = None) -> Any:
        """The decoded JSON; a PATCH is a merge patch.

        Raises a Failure: the server's own, or Unavailable without one.
        """
        headers = {"Accept": "application/json", "User-Agent": "arktos"}
        if self.token:
            headers["Authorization"] = f"Bearer {self.token}"
        content = None
        if body is not None:
            content = json.dumps(body).encode()
            patch = method == "PATCH"
            headers["Content-Type"] = f"application/{'merge-patch+' if patch else ''}json"
        try:
            connection = self._connection()
            try:
                connection.request(method, path, content, headers)
                response = connection.getresponse()
                code, raw = response.status, response.read()
            finally:
                connection.close()
        except (OSError, http.client.HTTPException) as error:
            raise errors.Unavailable(f"{self.server} does not answer: {error}") from error
        try:
            decoded = json.loads(raw) if raw else {}
        except ValueError:
            raise errors.Internal(f"{method} {path}: {code}, and not JSON: {raw[:200]!r}") from None
        if code >= 400:
            if not isinstance(decoded, dict) or decoded.get("kind") != "Status":
                decoded = {"code": code, "message": f"{method} {path}: {code} {decoded}"}
            raise errors.decode(decoded)
        return decoded

    def _connection(self) -> http.client.HTTPConnection:
        where = urlsplit(self.server)
        host, port = where.hostname or "", where.port
        if where.scheme != "https":
            return http.client.HTTPConnection(host, port, timeout=self.deadline_s)
        context = ssl.create_default_context(cafile=str(self.ca) if self.ca else None)
        if self.certificate is not None:
            context.load_cert_chain(self.certificate, self.key)
        return http.client.HTTPSConnection(host, port, timeout=self.deadline_s, context=context)
