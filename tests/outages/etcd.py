"""What the test cluster's etcd holds: the only place that shows in which version an object is stored."""

from __future__ import annotations

import base64
import json
import ssl
import urllib.request
from typing import Any

from lora_operator.naming import GROUP

from tests.cluster.pki import CA_FILE
from tests.cluster.settings import Paths

RANGE = "https://127.0.0.1:2379/v3/kv/range"


def stored(paths: Paths, plural: str, *names: str) -> dict[str, Any]:
    """A custom object as it is stored. `names` are its namespace, where it has one, and its name."""
    key = "/".join(("/registry", GROUP, plural, *names))
    context = ssl.create_default_context(cafile=str(paths.pki / CA_FILE))
    context.load_cert_chain(paths.pki / "apiserver-etcd.crt", paths.pki / "apiserver-etcd.key")
    body = json.dumps({"key": base64.b64encode(key.encode()).decode()}).encode()
    with urllib.request.urlopen(urllib.request.Request(RANGE, data=body), context=context, timeout=10) as answer:
        (found,) = json.load(answer)["kvs"]
    return json.loads(base64.b64decode(found["value"]))
