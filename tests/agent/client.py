"""A client of the Edge Agent as people wrote them: stubs from the .proto file, grpcio over the unix socket, shared memory.

Takes one JSON document a line and answers each with one. Arguments: the socket, the .proto file, a folder for the stubs.
"""

import hashlib
import json
import sys
import threading
from multiprocessing import resource_tracker, shared_memory
from pathlib import Path

import grpc
from grpc_tools import protoc

socket, proto, stubs = sys.argv[1:4]
proto = Path(proto)
made = protoc.main(
    ["protoc", f"-I{proto.parent}", f"--python_out={stubs}", f"--grpc_python_out={stubs}", proto.name]
)
assert made == 0, "the stubs cannot be made"
sys.path.insert(0, stubs)
import edge_agent_pb2 as pb2  # noqa: E402
import edge_agent_pb2_grpc as pb2_grpc  # noqa: E402

# As a client must say that wants a large mask within the answer.
OPTIONS = [("grpc.max_receive_message_length", 64 << 20), ("grpc.max_send_message_length", 64 << 20)]


def segment(size):
    """Shared memory of our own, which Python's tracker is not to remove."""
    memory = shared_memory.SharedMemory(create=True, size=size)
    resource_tracker.unregister(memory._name, "shared_memory")
    return memory


def pixels(order):
    """Grey from the left, white for the rest, row by row."""
    width, height = order["width"], order["height"]
    grey = round(width * order.get("grey_share", 1.0))
    row = bytes([order["grey"]]) * 3 * grey + b"\xff" * 3 * (width - grey)
    if order.get("padded"):
        row += b"\x7f" * (-len(row) % 4)
    return row * height


def detect(stub, order):
    data = order.get("raw")
    data = bytes(data) if data is not None else pixels(order)
    bitmap = pb2.Bitmap(width=order["width"], height=order["height"])
    segments = []
    try:
        if order.get("picture") == "memory":
            offset = order.get("offset", 0)
            memory = segment(offset + len(data) + 4096)
            segments.append(memory)
            memory.buf[offset : offset + len(data)] = data
            handle = pb2.SharedMemoryHandle(name=memory._name, size=len(data), offset=offset)
            for key, value in order.get("handle", {}).items():
                setattr(handle, key, value)
            bitmap.shared_memory_handle.CopyFrom(handle)
        elif order.get("picture") != "none":
            bitmap.byte_data = data
        request = pb2.DetectAnomaliesRequest(model_component=order["component"], bitmap=bitmap)
        mask_size = order["width"] * order["height"] * 3
        if order.get("mask") == "memory":
            memory = segment(mask_size + 4096)
            segments.append(memory)
            memory.buf[:] = b"\x11" * memory.size
            handle = pb2.SharedMemoryHandle(name=memory._name, size=order.get("mask_size", mask_size), offset=1024)
            request.anomaly_mask_params.shared_memory_handle.CopyFrom(handle)
        result = stub.DetectAnomalies(request).detect_anomaly_result
        answer = {
            "is_anomalous": result.is_anomalous,
            "confidence": result.confidence,
            "score": result.anomaly_score,
            "threshold": result.anomaly_threshold,
            "anomalies": [
                [one.name, one.pixel_anomaly.total_percentage_area, one.pixel_anomaly.hex_color]
                for one in result.anomalies
            ],
            "mask": result.anomaly_mask.WhichOneof("data"),
        }
        mask = result.anomaly_mask.byte_data
        if order.get("mask") == "memory" and answer["mask"] == "shared_memory_handle":
            around = bytes(memory.buf[:1024]) + bytes(memory.buf[1024 + mask_size :])
            answer["is_untouched_around"] = set(around) == {0x11}
            mask = bytes(memory.buf[1024 : 1024 + mask_size])
        if mask:
            answer["mask_sha256"] = hashlib.sha256(mask).hexdigest()
            answer["mask_bytes"] = len(mask)
            answer["mask_size"] = [result.anomaly_mask.width, result.anomaly_mask.height]
            answer["red_share"] = mask[0::3].count(255) / (len(mask) // 3) - mask[1::3].count(255) / (len(mask) // 3)
        return answer
    finally:
        for memory in segments:
            memory.close()
            # Its own removal would tell the tracker again.
            shared_memory._posixshmem.shm_unlink(memory._name)


def models(stub, order):
    status = pb2.ModelStatus.Name
    call, component = order["call"], order.get("component", "")
    if call == "list":
        listed = stub.ListModels(pb2.ListModelsRequest()).models
        return [[one.model_component, one.lookout_vision_model_arn, status(one.status), one.status_message] for one in listed]
    if call == "describe":
        one = stub.DescribeModel(pb2.DescribeModelRequest(model_component=component)).model_description
        return [one.model_component, one.lookout_vision_model_arn, status(one.status), one.status_message]
    if call == "start":
        return status(stub.StartModel(pb2.StartModelRequest(model_component=component)).status)
    return status(stub.StopModel(pb2.StopModelRequest(model_component=component)).status)


def answered(stub, order):
    try:
        return {"answer": detect(stub, order) if order["call"] == "detect" else models(stub, order)}
    except grpc.RpcError as error:
        return {"code": error.code().name, "details": error.details()}


def at_once(orders):
    """Each by a client of its own."""
    answers = [None] * len(orders)

    def one(place, order):
        with grpc.insecure_channel(f"unix://{socket}", options=OPTIONS) as channel:
            stub = pb2_grpc.EdgeAgentStub(channel)
            answers[place] = [answered(stub, order) for _ in range(order.get("times", 1))]

    threads = [threading.Thread(target=one, args=order) for order in enumerate(orders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return {"answer": answers}


with grpc.insecure_channel(f"unix://{socket}", options=OPTIONS) as channel:
    stub = pb2_grpc.EdgeAgentStub(channel)
    for line in sys.stdin:
        order = json.loads(line)
        answer = at_once(order["orders"]) if order["call"] == "at_once" else answered(stub, order)
        print(json.dumps(answer), flush=True)
