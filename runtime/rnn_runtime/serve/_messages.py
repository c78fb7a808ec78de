"""The messages of the Open Inference Protocol over gRPC, as protobuf classes.

The specification: https://github.com/kserve/open-inference-protocol. They are declared here in a pool of their own,
so that they meet no other package's declaration of the same messages in this process.
"""

from __future__ import annotations

import functools
import re
from typing import Any

PACKAGE = "inference"
SERVICE = f"{PACKAGE}.GRPCInferenceService"

# Fields are numbered from 1 in this order. "*" repeats; a capital is a message; Parameters is a map of text to
# InferParameter; the fields of InferParameter exclude each other.
_MESSAGES = {
    "ServerLiveRequest": "",
    "ServerLiveResponse": "live:bool",
    "ServerReadyRequest": "",
    "ServerReadyResponse": "ready:bool",
    "ModelReadyRequest": "name:string version:string",
    "ModelReadyResponse": "ready:bool",
    "ServerMetadataRequest": "",
    "ServerMetadataResponse": "name:string version:string extensions:string*",
    "ModelMetadataRequest": "name:string version:string",
    "ModelMetadataResponse": "name:string versions:string* platform:string inputs:ModelMetadataResponse.TensorMetadata*"
    " outputs:ModelMetadataResponse.TensorMetadata*",
    "ModelMetadataResponse.TensorMetadata": "name:string datatype:string shape:int64*",
    "InferParameter": "bool_param:bool int64_param:int64 string_param:string double_param:double uint64_param:uint64",
    "InferTensorContents": "bool_contents:bool* int_contents:int32* int64_contents:int64* uint_contents:uint32*"
    " uint64_contents:uint64* fp32_contents:float* fp64_contents:double* bytes_contents:bytes*",
    "ModelInferRequest": "model_name:string model_version:string id:string parameters:Parameters"
    " inputs:ModelInferRequest.InferInputTensor* outputs:ModelInferRequest.InferRequestedOutputTensor*"
    " raw_input_contents:bytes*",
    "ModelInferRequest.InferInputTensor": "name:string datatype:string shape:int64* parameters:Parameters"
    " contents:InferTensorContents",
    "ModelInferRequest.InferRequestedOutputTensor": "name:string parameters:Parameters",
    "ModelInferResponse": "model_name:string model_version:string id:string parameters:Parameters"
    " outputs:ModelInferResponse.InferOutputTensor* raw_output_contents:bytes*",
    "ModelInferResponse.InferOutputTensor": "name:string datatype:string shape:int64* parameters:Parameters"
    " contents:InferTensorContents",
    "ModelStreamInferResponse": "error_message:string infer_response:ModelInferResponse",
}


@functools.cache
def messages() -> dict[str, Any]:
    """Name -> message class."""
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    types = descriptor_pb2.FieldDescriptorProto.Type
    file = descriptor_pb2.FileDescriptorProto(name="rnn_runtime_serve.proto", package=PACKAGE, syntax="proto3")
    declared: dict[str, Any] = {}
    for name, fields in _MESSAGES.items():
        outer, _, inner = name.rpartition(".")
        message = declared[outer].nested_type.add() if outer else file.message_type.add()
        declared[name] = message
        message.name = inner
        if name == "InferParameter":
            message.oneof_decl.add(name="parameter_choice")
        for number, (field_name, kind, many) in enumerate(re.findall(r"(\w+):([\w.]+)(\*?)", fields), 1):
            field = message.field.add(name=field_name, number=number)
            field.label = field.LABEL_REPEATED if many or kind == "Parameters" else field.LABEL_OPTIONAL
            if name == "InferParameter":
                field.oneof_index = 0
            if kind == "Parameters":
                kind = f"{name}.ParametersEntry"
                entry = message.nested_type.add(name="ParametersEntry")
                entry.options.map_entry = True
                entry.field.add(name="key", number=1, type="TYPE_STRING", label="LABEL_OPTIONAL")
                value = entry.field.add(name="value", number=2, type="TYPE_MESSAGE", label="LABEL_OPTIONAL")
                value.type_name = f".{PACKAGE}.InferParameter"
            if kind[0].isupper():
                field.type, field.type_name = types.Value("TYPE_MESSAGE"), f".{PACKAGE}.{kind}"
            else:
                field.type = types.Value(f"TYPE_{kind.upper()}")
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }
