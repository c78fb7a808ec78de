"""The rows of the problems that people reported: where, what, and what kind of a case it is."""

from __future__ import annotations

from typing import NamedTuple


class Row(NamedTuple):
    """One row.

    Attributes:
        thread: where it was reported.
        problem: in one line.
        kind: C runs on two processor cores, L is a check of the graph, G needs a GPU, N another product.
        left: what of it is not shown here, and why.
    """

    thread: str
    problem: str
    kind: str
    left: str = ""


GPU = "the half that needs a GPU is not shown here"

ROWS = {
    "B1": Row("pytorch/pytorch#45653", "a warning about batch and initial state instead of a verdict", "C"),
    "B2": Row("microsoft/onnxruntime#19270", "the axis map misses a state, so the traced batch alone runs", "C"),
    "B4": Row("pytorch/pytorch#151582", "an example of batch 1 or one step freezes the axis", "C"),
    "B5": Row("pytorch/pytorch#149151", "verification replays the example's sizes alone", "C"),
    "B6": Row("pytorch/pytorch#72399", "two BiLSTM blocks with linear layers, all axes dynamic", "C"),
    "B7": Row("pytorch/pytorch#89615", "a CRNN's neck, at old opsets and new ones", "C"),
    "B9": Row("llvm/torch-mlir#4741", "constant initial states of batch 1 are miscompiled downstream", "L"),
    "T1": Row("pytorch/pytorch#59530", "an LSTMCell loop keeps the traced number of steps", "C"),
    "T2": Row("pytorch/pytorch#122588", "cells of one's own with a dynamic number of steps", "C"),
    "T4": Row("pytorch/pytorch#126339", "torch.export refuses a dynamic sequence", "C"),
    "T5": Row("google-ai-edge/litert-torch#1062", "a BiLSTM over text keeps the traced length", "C"),
    "T6": Row("microsoft/onnxscript#2546", "plain nn.RNN, tanh and relu", "C"),
    "T7": Row("pytorch/pytorch#25533", "cells export on the CPU but not on CUDA", "G", GPU),
    "T8": Row("pytorch/pytorch#118740", "forward calls flatten_parameters()", "C"),
    "T9": Row("NVIDIA/DeepLearningExamples#954", "encoder and decoder step cut apart, and driven", "C"),
    "T10": Row("microsoft/onnxruntime#27796", "loops and unrolled graphs where one operator would do", "C"),
    "T11": Row("pytorch/pytorch#42235", "how many nodes a graph has", "L"),
    "T12": Row("Xilinx/brevitas#1544", "an LSTM inside an autograd.Function vanishes", "C"),
    "P1": Row("pytorch/pytorch#171978", "torch.export cannot take pack, LSTM, pad", "C"),
    "P2": Row("pytorch/pytorch#62240", "a packed LSTM at another batch", "C"),
    "P4": Row("microsoft/onnxruntime#11830", "packed with zeros given as the state, at another batch", "C"),
    "P5": Row("microsoft/onnxruntime#10768", "lengths frozen at the trace", "C"),
    "P6": Row("pytorch/pytorch#144207", "eager trims to the longest row, the graph does not", "C"),
    "P7": Row("pytorch/pytorch#28423", "padding_value is ignored", "C"),
    "P8": Row("pytorch/pytorch#48460", "pack and pad with nothing between becomes a no-op", "C"),
    "P10": Row("pytorch/pytorch#7870", "int32 for ONNX, int64 for PyTorch", "C"),
    "P13": Row("PaddlePaddle/PaddleOCR#8149", "right at batch 1 and wrong above, for the padding", "C"),
    "S1": Row("microsoft/onnxruntime#11085", "each run starts from zero", "C"),
    "S2": Row("pytorch/pytorch#60828", "state in a buffer or attribute is dropped in silence", "C"),
    "S3": Row("DLR-RM/stable-baselines3#1125", "a recurrent policy with episode starts", "C"),
    "S4": Row("isaac-sim/IsaacLab#3008", "policies with an LSTM and with a GRU", "C"),
    "S6": Row("Denys88/rl_games#316", "the loop that never feeds states back", "C"),
    "S7": Row("ray-project/ray#50166", "a list of tensors as the state", "C"),
    "S8": Row("livekit/agents-js#944", "the state read from a wrong output", "C"),
    "S10": Row("snakers4/silero-vad#571", "streams that mix in one model", "C"),
    "S11": Row("snakers4/silero-vad#426", "a step graph and a sequence graph", "C"),
    "S12": Row("Rikorose/DeepFilterNet#655", "hidden GRU states, and drift over time", "C"),
    "S13": Row(
        "triton-inference-server/server#5446",
        "several states whose names sort differently",
        "L",
        "a config.pbtxt is not written here",
    ),
    "S14": Row("xlite-dev/lite.ai.toolkit#60", "state that goes to the host and back each step", "G", GPU),
    "S15": Row("mlcommons/inference#637", "an optional tuple of states", "C"),
    "S16": Row("unit8co/darts#2617", "warm-up over a history, then the own outputs", "C"),
    "S17": Row("k2-fsa/sherpa#170", "stacking and selecting states; h and c in one tensor", "C"),
    "O1": Row("pytorch/pytorch#189225", "GRU with the other reset gate", "C"),
    "O2": Row("k2-fsa/icefall#621", "LSTM with a projection", "C"),
    "O3": Row("microsoft/onnxruntime#1607", "bidirectional RNN with h_0 and batch_first", "C"),
    "O4": Row("microsoft/onnxruntime#3893", "GRU without biases at batch 3 and more", "C"),
    "O5": Row("openvinotoolkit/openvino#37820", "layout=1 is refused or ignored", "L"),
    "O7": Row("openvinotoolkit/openvino#33023", "unbatched input and batch 1: ranks and squeezes", "C"),
    "O8": Row("pytorch/pytorch#24824", "dropout and training mode", "C"),
    "O10": Row("CrispStrobe/CrispASR#106", "gate orders, and where a reversed short row starts", "C"),
    "O11": Row("onnx/onnx#7935", "a reference evaluator that ignored the direction; clip", "C"),
    "J1": Row("pytorch/pytorch#34256", "the zero state stays on the trace's device", "G", GPU),
    "J2": Row("pytorch/pytorch#15319", "a trace of packed input fixes the batch", "C"),
    "J3": Row("pytorch/pytorch#56183", "scripting a bare nn.LSTM, and as a child", "C"),
    "J5": Row("pytorch/pytorch#33491", "the trace checker complains of a plain LSTM", "C"),
    "J6": Row("pytorch/pytorch#17656", "other numbers after saving and loading", "C", GPU),
    "J7": Row("pytorch/pytorch#21282", "lengths that vary, in TorchScript", "C"),
    "J8": Row("pytorch/pytorch#38472", "TorchScript is deprecated: what then", "C"),
    "R1": Row("microsoft/onnxruntime#28339", "a float64 LSTM loads and fails when it runs", "C"),
    "R2": Row("microsoft/onnxruntime#9796", "int8: LSTM alone, and errors nobody knows", "C"),
    "R3": Row("pytorch/pytorch#35536", "an LSTM that PyTorch quantised cannot be exported", "C"),
    "R4": Row("commaai/openpilot#22736", "a small model at a few Hz burns whole cores", "C"),
    "R6": Row("dmarzzz/VoxTerm#166", "memory that grows with each call", "C"),
    "R7": Row("microsoft/onnxruntime#1400", "garbage past short rows", "G", GPU),
    "R8": Row("microsoft/onnxruntime#24920", "lengths above the sequence", "C"),
    "R9": Row("microsoft/onnxruntime#11831", "float16 on the CPU, and its tolerance", "C"),
    "R10": Row("microsoft/onnxruntime#27188", "a GRU kernel that became slower between versions", "C"),
    "R11": Row("microsoft/onnxruntime#13571", "one session and many threads", "C"),
    "R12": Row(
        "microsoft/onnxruntime#23083",
        "browsers: operators, opset, empty names",
        "L",
        "no browser: onnxruntime-web's WebAssembly runs in Node.js in `make test-targets`",
    ),
    "R13": Row("microsoft/onnxruntime#3242", "sizes of -1 for readers in C", "L"),
    "D1": Row(
        "NVIDIA/TensorRT#3310",
        "TensorRT with a dynamic batch or both directions",
        "N",
        "TensorRT itself is not run: the operators are those that its parser's documentation lists",
    ),
    "D2": Row(
        "openvinotoolkit/openvino#11730",
        "dynamic files that hang or are slow",
        "N",
        "OpenVINO runs them in `make test-targets`, not here",
    ),
    "D3": Row("Rikorose/DeepFilterNet#651", "a target without GRU and LSTM", "C"),
    "D4": Row("Unity-Technologies/ml-agents#5773", "a target without both directions", "C"),
    "D5": Row("onnxsim/onnxsim#87", "a simplifier that freezes axes", "C"),
    "D6": Row("JaidedAI/EasyOCR#196", "a CRNN of any width", "C"),
    "D7": Row("flairNLP/flair#3687", "a BiLSTM-CRF tagger", "C"),
    "D8": Row("hexgrad/kokoro#87", "speech whose length depends on values", "C"),
    "D10": Row("huggingface/lerobot#3146", "one command that exports and validates", "C"),
    "D11": Row("sdatkinson/neural-amp-modeler#82", "audio in blocks of any size", "C"),
    "N1": Row("seen while probing", "a second export of one process loses the time axis", "C"),
}
