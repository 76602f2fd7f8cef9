"""Other people's judges of texts behind HTTP, as judges of ours. One that fails is a failure of the guard."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from langchain_vlmguard.errors import UpstreamError, extra

with extra("serve"):
    import httpx

if TYPE_CHECKING:
    from collections.abc import Sequence


class ModerationJudge:
    """Asks a moderation endpoint in OpenAI's form: the risk of a text is its highest score, and 1 if it is flagged."""

    def __init__(self, url: str, model: str | None = None, key: str | None = None, seconds: float = 10.0) -> None:
        """Ask `url` (up to and with `/v1`).

        Args:
            url: Where the server is.
            model: Which model judges; the server's own if it is `None`.
            key: The API key.
            seconds: Most seconds of a call.
        """
        headers = {} if key is None else {"authorization": f"Bearer {key}"}
        self._url, self._model = f"{url.rstrip('/')}/moderations", model
        self._client = httpx.Client(timeout=seconds, headers=headers, trust_env=False)

    @property
    def identity(self) -> str:
        """What a verdict calls this judge."""
        return f"moderation:{self._model or 'default'}"

    def judge_texts(self, texts: Sequence[str]) -> list[float]:
        """Return the risk of each text in [0, 1].

        Raises:
            UpstreamError: The server gave no answer that can be used.
        """
        body = {"input": [*texts], **({} if self._model is None else {"model": self._model})}
        try:
            response = self._client.post(self._url, json=body)
            given = response.json() if response.status_code == httpx.codes.OK else None
        except (httpx.HTTPError, ValueError) as error:
            msg = f"the moderation endpoint gave no answer ({type(error).__name__})"
            raise UpstreamError(msg) from error
        results = given.get("results") if isinstance(given, dict) else None
        if not isinstance(results, list) or len(results) != len(texts):
            msg = f"the moderation endpoint gave no answer for each text (status {response.status_code})"
            raise UpstreamError(msg)
        return [_risk(one) for one in results]


def _risk(result: object) -> float:
    given = result if isinstance(result, dict) else {}
    scores, flagged = given.get("category_scores"), given.get("flagged")
    numbers = [*scores.values()] if isinstance(scores, dict) else []
    whole = all(isinstance(one, int | float) and math.isfinite(one) and 0 <= one <= 1 for one in numbers)
    if not isinstance(flagged, bool) or not whole:
        msg = "the moderation endpoint's answer has no form that is known"
        raise UpstreamError(msg)
    return 1.0 if flagged else max(numbers, default=0.0)
