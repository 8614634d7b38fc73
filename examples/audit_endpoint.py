"""A model behind a URL, asked within a budget; asked again, it is not asked at all.

    python examples/audit_endpoint.py

The service speaks as TensorFlow Serving and KServe do: `{"instances": […]}` gets `{"predictions": […]}`.
"""

import json
import subprocess
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from threading import Thread

import numpy as np
from sklearn.datasets import load_breast_cancer
from sklearn.tree import DecisionTreeClassifier

REPOSITORY_ROOT = Path(__file__).parents[1]
ALL_INPUTS, ALL_LABELS = load_breast_cancer(return_X_y=True)
RECORD_ORDER = np.random.default_rng(0).permutation(len(ALL_LABELS))
AUDITED_MODEL = DecisionTreeClassifier(random_state=0).fit(
    ALL_INPUTS[RECORD_ORDER[:284]], ALL_LABELS[RECORD_ORDER[:284]]
)


class Service(BaseHTTPRequestHandler):
    def do_POST(self) -> None:
        instances = json.loads(self.rfile.read(int(self.headers["Content-Length"])))["instances"]
        self.send_response(200)
        self.end_headers()
        self.wfile.write(json.dumps({"predictions": AUDITED_MODEL.predict_proba(instances).tolist()}).encode())
        print(f"asked about {len(instances)} records", flush=True)

    def log_message(self, *words: object) -> None:
        pass


def main() -> None:
    np.savez("in.npz", features=ALL_INPUTS[RECORD_ORDER[:284]], labels=ALL_LABELS[RECORD_ORDER[:284]])
    np.savez("out.npz", features=ALL_INPUTS[RECORD_ORDER[284:]], labels=ALL_LABELS[RECORD_ORDER[284:]])
    server = ThreadingHTTPServer(("127.0.0.1", 0), Service)
    Thread(target=server.serve_forever, daemon=True).start()
    endpoint = f"endpoint=http://127.0.0.1:{server.server_port}/predict budget=600 batch=100"
    run(f"evaluate.py audit=endpoint {endpoint} members=in.npz nonmembers=out.npz attack=quick")
    run(f"evaluate.py audit=endpoint {endpoint} members=in.npz nonmembers=out.npz threat=label_only")


def run(command: str) -> None:
    print(f"\n$ python {command}", flush=True)
    script, *words = command.split()
    subprocess.run([sys.executable, REPOSITORY_ROOT / script, *words], check=True)


if __name__ == "__main__":
    main()
