"""What a GPU has to show, in checks of a minute or less; on a CPU the same code at tiny sizes."""

import os

import torch

from agentrl.serving.process import prepare_process

ON_GPU = torch.cuda.is_available()
DEVICE = "cuda" if ON_GPU else "cpu"

# As a run does; torch's allocator reads one of its variables, too.
prepare_process()
# Both are read when a library starts: Triton's interpreter takes a CPU's tensors; cuBLAS repeats.
if ON_GPU:
    os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")
else:
    os.environ.setdefault("TRITON_INTERPRET", "1")
