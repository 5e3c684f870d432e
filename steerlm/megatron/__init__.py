"""Training on megatron-core: the only room that imports megatron, and the only one that says "cuda" (`device.py`).

Knows tensor, sequence, pipeline and data parallelism, distributed checkpoints, and how Hugging Face weights map onto
all that. Knows nothing of data sets, objectives' formulas or pipelines: it implements `training.engine.Engine`.
"""

import warnings

# Without Transformer Engine and Apex megatron warns five times per process that it falls back to torch, as it should;
# and it calls torch.distributed by names that are to be replaced in some later torch.
warnings.filterwarnings("ignore", category=UserWarning, module=r"megatron\.")
warnings.filterwarnings("ignore", category=FutureWarning, module=r"(megatron|torch\.distributed)\.")
