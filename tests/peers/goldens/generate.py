#!/usr/bin/env python3
"""Write a folder of golden files of our own, with other sizes for every seed: `make test-golden GOLDENS=OUT` reads it.

Needs the environment of `make peers`. All texts and models are made here; what the golden tests do not find in OUT
(SmolLM2, stories260K, bitsandbytes, HQQ, task metrics) they say they skip.
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
import real  # noqa: E402
import trained  # noqa: E402
from folder import Folder  # noqa: E402

PARTS = {"families": families, "generation": generation, "losses": losses, "optim": optim, "tokenizers": trained,
         "quant": quant, "real": real}


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--scale", type=int, default=1, help="some widths and vocabularies are so many times as large")
    parser.add_argument("--only", default=",".join(PARTS), metavar="PART,PART", help="of " + ", ".join(PARTS))
    parser.add_argument("out", metavar="OUT")
    arguments = parser.parse_args()
    if arguments.scale < 1 or arguments.seed < 0:
        parser.error("the scale must be at least 1, the seed at least 0")
    parts = arguments.only.split(",")
    for name in parts:
        if name not in PARTS:
            parser.error("there is no part %s" % name)
    torch.set_num_threads(1)
    logging.disable_progress_bar()
    out = Folder(arguments.out)
    for name in parts:
        if PARTS[name].write(out, arguments.seed, arguments.scale) is not False:
            print("%s: written" % name, flush=True)
    return 0


if __name__ == "__main__":
    sys.exit(main())
