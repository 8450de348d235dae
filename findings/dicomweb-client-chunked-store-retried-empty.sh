#!/usr/bin/env bash
# dicomweb-client 0.61.2: an upload larger than chunk_size (a million bytes unless set otherwise)
# that the server answers with 503 is sent again with an empty body, as the generator of its chunks
# has been read to its end by then. If the second answer is 200, store_instances returns as after a
# success; below chunk_size the second try carries the whole file. Matters to who sends through a
# busy server or a gateway: what was stored must be asked for afterwards, or the retry be switched
# off by set_http_retry_params(retry=False). The server here is on the loopback. 28 November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dicomweb-client==0.61.2 numpy==2.4.6 pydicom==3.0.2 \
    requests==2.34.2
cd "$work"
venv/bin/python - <<'PYTHON'
import http.server
import threading

import pydicom
import requests
from dicomweb_client import DICOMwebClient
from pydicom.data import get_testdata_file

received, codes = [], []


class Server(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *arguments):
        pass

    def body(self):
        if self.headers.get("Transfer-Encoding") != "chunked":
            return self.rfile.read(int(self.headers["Content-Length"]))
        chunks = []
        while size := int(self.rfile.readline(), 16):
            chunks.append(self.rfile.read(size))
            self.rfile.readline()
        self.rfile.readline()
        return b"".join(chunks)

    def do_POST(self):
        received.append(len(self.body()))
        self.send_response(codes.pop(0))
        self.send_header("Content-Type", "application/dicom+json")
        self.send_header("Content-Length", "2")
        self.end_headers()
        self.wfile.write(b"{}")


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
for chunk_size in (10_000, 1_000_000):
    client = DICOMwebClient(f"http://127.0.0.1:{server.server_port}/dw", chunk_size=chunk_size)
    client.set_http_retry_params(wait_exponential_multiplier=1)
    received.clear()
    codes[:] = [503, 200]
    answer = client.store_instances([image])
    print(f"chunk_size {chunk_size}: bytes received at each try: {received}, returned: {answer!r}")
    first, second = received
    assert first > 39_000 and second == (0 if chunk_size == 10_000 else first)

client = DICOMwebClient(f"http://127.0.0.1:{server.server_port}/dw", chunk_size=10_000)
client.set_http_retry_params(retry=False)
codes[:] = [503]
try:
    client.store_instances([image])
    raise AssertionError("503 taken for a success")
except requests.HTTPError as error:
    print("without retry:", error.response.status_code)
PYTHON
