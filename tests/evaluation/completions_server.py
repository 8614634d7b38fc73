"""A server that speaks the OpenAI completions form: a model of characters, counted on texts, and its public base.

python completions_server.py base.txt members.txt: prints its port, then serves `base` and `tuned`.
"""

from __future__ import annotations

import json
import math
import sys
from collections import Counter
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path

CONTEXT_LENGTH, ALPHABET_SIZE = 9, 64


class CountedModel:
    """p(next | last characters), interpolated over orders."""

    def __init__(self, texts: list[str]) -> None:
        self.counts: dict[str, Counter[str]] = {}
        for text in texts:
            for place, letter in enumerate(text):
                for order in range(min(CONTEXT_LENGTH, place) + 1):
                    self.counts.setdefault(text[place - order : place], Counter())[letter] += 1

    def law(self, context: str) -> dict[str, float]:
        law = dict.fromkeys(self.counts[""], 1 / ALPHABET_SIZE)
        for order in range(min(CONTEXT_LENGTH, len(context)) + 1):
            seen = self.counts.get(context[len(context) - order :])
            if seen:
                total = seen.total()
                law = {letter: (p + 2 * seen[letter]) / (1 + 2 * total) for letter, p in law.items()}
        return law

    def logprobs(self, text: str) -> dict[str, list]:
        laws = [self.law(text[:place]) for place in range(1, len(text))]
        own = [math.log(law.get(letter, 1e-6)) for law, letter in zip(laws, text[1:], strict=True)]
        best = [max(law, key=law.get) for law in laws]
        top = [{letter: math.log(law[letter])} for law, letter in zip(laws, best, strict=True)]
        return {
            "tokens": list(text), "token_logprobs": [None, *own], "top_logprobs": [None, *top],
            "text_offset": list(range(len(text))),
        }  # fmt: skip


class CompletionsService(BaseHTTPRequestHandler):
    models: dict[str, CountedModel]

    def do_POST(self) -> None:
        asked = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
        if self.path != "/v1/completions" or not asked.get("echo") or asked.get("model") not in self.models:
            self.send_error(404)
            return
        model = self.models[asked["model"]]
        pairs = enumerate(asked["prompt"])
        choices = [{"index": i, "text": text, "logprobs": model.logprobs(text)} for i, text in pairs]
        body = json.dumps({"object": "text_completion", "model": asked["model"], "choices": choices}).encode()
        self.send_response(200)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)

    def log_message(self, *words: object) -> None:
        pass


if __name__ == "__main__":
    base, members = (Path(path).read_text().splitlines() for path in sys.argv[1:3])
    CompletionsService.models = {"base": CountedModel(base), "tuned": CountedModel([*base, *members])}
    server = HTTPServer(("127.0.0.1", 0), CompletionsService)
    print(server.server_port, flush=True)
    server.serve_forever()
