"""What inference workloads share: arrays in, arrays out, from the same weights."""

import io
import os
import warnings


def served(v, model, x):
    """A call that gives what `model` of pynn or PyTorch makes of x; ONNX Runtime runs PyTorch's, exported."""
    if v.library == "pynn":
        session = model.session()
        return lambda: session.predict(x)
    import torch

    model, t = model.eval(), torch.from_numpy(x)
    if v.library == "onnxruntime":
        return served_onnx(model, t)
    if v.fused and t.ndim == 4:
        model, t = (a.to(memory_format=torch.channels_last) for a in (model, t))

    def call():
        with torch.inference_mode():
            return model(t).numpy()

    return call


def served_onnx(model, t):
    import onnxruntime
    import torch

    warnings.filterwarnings("ignore", category=torch.jit.TracerWarning)  # sizes are the same in each call
    torch.set_num_threads(1)
    file = io.BytesIO()
    torch.onnx.export(model, t, file, input_names=["x"], dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = int(os.environ["OMP_NUM_THREADS"])
    session = onnxruntime.InferenceSession(file.getvalue(), options, providers=["CPUExecutionProvider"])
    return lambda: session.run(None, {"x": t.numpy()})[0]
