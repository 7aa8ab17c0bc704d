"""``python -m nodeagent.signing NODE``: makes a key and prints ``{"key": PEM, "csr": PEM}``.

A process of its own, since the cryptography library would stay in the agent's memory for the sake of one moment in a
node's life.
"""

import json
import sys

from milpa_ray.pki import make_csr

if __name__ == "__main__":
    csr, key = make_csr(sys.argv[1][:64])
    json.dump({"key": key.decode(), "csr": csr.decode()}, sys.stdout)
