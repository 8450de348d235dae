"""The client of docs/deploy.md, against a server that is only its protocol and ONNX Runtime."""

import re
from pathlib import Path

import numpy as np
import onnxruntime
import pytest
import tritonclient.grpc
from google.protobuf import text_format as protobuf
from tritonclient.grpc import model_config_pb2, service_pb2

from wsseg.export.triton import TritonOptions, add_version
from wsseg.serve.manifest import FILE_NAME, load_model

DOCS = Path(__file__).parents[2] / "docs" / "deploy.md"
TYPES = {"TYPE_FP32": "FP32", "TYPE_UINT8": "UINT8", "TYPE_INT64": "INT64"}


class Protocol:
    """Checks requests against config.pbtxt as Triton does, and answers with its own messages."""

    def __init__(self, version):
        text = (version.parent / "config.pbtxt").read_text()
        self.config = protobuf.Parse(text, model_config_pb2.ModelConfig())
        self.session = onnxruntime.InferenceSession(
            version / "model.onnx", providers=["CPUExecutionProvider"]
        )

    def get_model_config(self, name):
        assert name == self.config.name
        return service_pb2.ModelConfigResponse(config=self.config)

    def infer(self, name, inputs, outputs):
        assert name == self.config.name
        (given,), (tensor,) = inputs, self.config.input
        shape = given.shape()
        assert (given.name(), given.datatype()) == (tensor.name, kind(tensor))
        assert shape[0] <= self.config.max_batch_size
        for side, allowed in zip(shape[1:], tensor.dims, strict=True):
            assert allowed in {side, -1}
        pixels = np.frombuffer(given._get_content(), np.float32).reshape(shape)
        asked = [output.name() for output in outputs]
        arrays = self.session.run(asked, {tensor.name: pixels})
        return self.answer(dict(zip(asked, arrays, strict=True)))

    def answer(self, arrays):
        response = service_pb2.ModelInferResponse()
        kinds = {output.name: kind(output) for output in self.config.output}
        for name, array in arrays.items():
            response.outputs.add(name=name, datatype=kinds[name], shape=array.shape)
            response.raw_output_contents.append(array.tobytes())
        return tritonclient.grpc.InferResult(response)


def kind(tensor):
    return TYPES[model_config_pb2.DataType.Name(tensor.data_type)]


@pytest.fixture
def version(exported, tmp_path):
    manifest, out, _ = exported
    folder = tmp_path / "model"
    folder.mkdir()
    (folder / "model.onnx").write_bytes((out / "model.onnx").read_bytes())
    named = manifest.model_copy(update={"name": "organs", "engines": manifest.engines[:1]})
    (folder / FILE_NAME).write_text(named.model_dump_json())
    return add_version(folder, tmp_path / "models", TritonOptions())


def test_the_client_in_the_docs_gets_the_ratios_that_onnx_runtime_computes(
    version, slices, monkeypatch, capsys
):
    server = Protocol(version)
    monkeypatch.setattr(tritonclient.grpc, "InferenceServerClient", lambda address: server)
    (example,) = re.findall(r"```python\n(.*?)```", DOCS.read_text(), re.DOTALL)
    pixels = np.stack([slices[0], slices[0][:, ::-1]])
    scope = {"slices": np.ascontiguousarray(pixels)}
    exec(example, scope)  # the text of our own docs
    mask, area = server.session.run(["mask", "pixel_area"], {"pixels": scope["slices"]})
    np.testing.assert_array_equal(scope["mask"], mask)
    np.testing.assert_array_equal(scope["fraction"], area / (64 * 64))
    classes = load_model(version)[0].classes
    assert [line.split()[0] for line in capsys.readouterr().out.splitlines()] == list(classes)
