"""HTTP of worlds that live elsewhere."""

from collections.abc import Collection
from typing import Any

import httpx2


def http_client(url: str) -> httpx2.AsyncClient:
    """One for each world; whatever takes long, the episode's own time ends."""
    # To read the certificates takes 60 ms.
    return httpx2.AsyncClient(base_url=url, timeout=None, verify=url.startswith("https:"))


async def ask(
    client: httpx2.AsyncClient, route: str, body: Any = None, absent: Collection[int] = ()
) -> Any:
    """The JSON at a route, POST where there is a body; None for a status that says it is absent.

    Raises RuntimeError, in a sentence, for what else goes wrong.
    """
    try:
        reply = await client.request("GET" if body is None else "POST", route, json=body)
        if reply.status_code in absent:
            return None
        if reply.is_error:
            raise ValueError(f"{reply.status_code} {reply.text[:500]}")
        return reply.json()
    except (httpx2.HTTPError, ValueError) as error:
        said = f"{type(error).__name__} {error}" if isinstance(error, httpx2.HTTPError) else error
        raise RuntimeError(f"{client.base_url}{route} does not answer: {said}".strip()) from error
