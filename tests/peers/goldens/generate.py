#!/usr/bin/env python3
"""Write a folder of golden files of our own, with other sizes for every seed: `make test-golden GOLDENS=OUT` reads it.

Needs the environment of `make peers`. All texts and models are made here; what the golden tests do not find in OUT
(real models, bitsandbytes, HQQ, task metrics) they say they skip.
"""
import argparse
import os
import sys

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ.setdefault("HF_HUB_OFFLINE", "1")
os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")

import torch  # noqa: E402: reads the environment
from transformers.utils import logging  # noqa: E402

import families  # noqa: E402
import generation  # noqa: E402
import losses  # noqa: E402
import optim  # noqa: E402
import quant  # noqa: E402
import trained  # noqa: E402
from folder import Folder  # noqa: E402

PARTS = {"families": families, "generation": generation, "losses": losses, "optim": optim, "tokenizers": trained,
         "quant": quant}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=int, default=1, help="some widths and vocabularies are so many times as large")
    parser.add_argument("--only", nargs="+", choices=sorted(PARTS), help="these parts (generation needs families)")
    parser.add_argument("out", metavar="OUT")
    arguments = parser.parse_args()
    if arguments.scale < 1 or arguments.seed < 0:
        parser.error("the scale must be at least 1, the seed at least 0")
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    out = Folder(arguments.out)
    for name in arguments.only or PARTS:
        PARTS[name].write(out, arguments.seed, arguments.scale)
        print("%s: written" % name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
