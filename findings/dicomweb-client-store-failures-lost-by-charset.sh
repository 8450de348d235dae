#!/usr/bin/env bash
# dicomweb-client 0.61.2: store_instances returns the server's account of what it did not store
# (FailedSOPSequence) only if the answer's Content-Type is, to the letter, application/dicom+json
# (or one of three more). With a parameter, as "application/dicom+json; charset=utf-8", which HTTP
# allows, the same body is thrown away and an empty Dataset returned, just as after a success with
# an empty answer. A partial failure (202) then looks like a success, to every caller that looks for
# FailedSOPSequence. 28 November 2026.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet dicomweb-client==0.61.2 numpy==2.4.6 pydicom==3.0.2 \
    requests==2.34.2
cd "$work"
venv/bin/python - <<'PYTHON'
import http.server
import json
import threading

import pydicom
from dicomweb_client import DICOMwebClient
from pydicom.data import get_testdata_file

image = pydicom.dcmread(get_testdata_file("CT_small.dcm"))
refused = {
    "00081150": {"vr": "UI", "Value": [image.SOPClassUID]},
    "00081155": {"vr": "UI", "Value": [image.SOPInstanceUID]},
    "00081197": {"vr": "US", "Value": [0x0110]},
}
body = json.dumps({"00081198": {"vr": "SQ", "Value": [refused]}}).encode()
content_type = ""


class Server(http.server.BaseHTTPRequestHandler):
    def log_message(self, *arguments):
        pass

    def do_POST(self):
        self.rfile.read(int(self.headers["Content-Length"]))
        self.send_response(202)
        self.send_header("Content-Type", content_type)
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)


server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Server)
threading.Thread(target=server.serve_forever, daemon=True).start()
client = DICOMwebClient(f"http://127.0.0.1:{server.server_port}/dw")
seen = []
for content_type in ("application/dicom+json", "application/dicom+json; charset=utf-8"):
    answer = client.store_instances([image])
    seen.append("FailedSOPSequence" in answer)
    print(f"{content_type}: elements returned: {len(answer)}, FailedSOPSequence: {seen[-1]}")
assert seen == [True, False] and len(answer) == 0
PYTHON
