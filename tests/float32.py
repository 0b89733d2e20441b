"""The same arithmetic on every processor: float32, also where it multiplies in bfloat16.

To import this is enough. What bfloat16 does to predictions is tested in test_predict.
"""

import torch

from hvsa_cvat.segmentation import device

native = device.computes_in_bfloat16


def computes_in_bfloat16(where: torch.device) -> bool:
    return where.type == "cuda" and native(where)


device.computes_in_bfloat16 = computes_in_bfloat16
