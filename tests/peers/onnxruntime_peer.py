"""onnxruntime on one thread, told what to do line by line: `cargo xtask peers` starts it.

Arguments: pairs of an ONNX file and its input (raw f32). Commands on standard input, answers on standard output:
`time INDEX REPEATS` runs a network so often after one run that is not counted and answers with the seconds of each;
`logits INDEX FILE` writes its output there as raw f32.
"""

import sys
import time

import numpy
import onnxruntime

options = onnxruntime.SessionOptions()
options.intra_op_num_threads = 1
options.inter_op_num_threads = 1
options.log_severity_level = 3
networks = []
for model, frame in zip(sys.argv[1::2], sys.argv[2::2]):
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    shape = session.get_inputs()[0].shape
    networks.append((session, {"input": numpy.fromfile(frame, numpy.float32).reshape(shape)}))
print(onnxruntime.__version__, flush=True)

for line in sys.stdin:
    command, index, what = line.split(maxsplit=2)
    session, feed = networks[int(index)]
    answer = session.run(None, feed)[0]
    if command == "logits":
        answer.tofile(what.strip())
        print("written", flush=True)
        continue
    seconds = []
    for _ in range(int(what)):
        started = time.perf_counter()
        session.run(None, feed)
        seconds.append(time.perf_counter() - started)
    print(*seconds, flush=True)
