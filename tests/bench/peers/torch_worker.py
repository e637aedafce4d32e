"""Trains one model in PyTorch, a few steps whenever told to.

Reads lines "text 3" or "random 2": what the tokens are, and how many steps to make. Answers each with
one line of JSON: time and loss of every step, peak memory since the last answer.
"""
import argparse
import json
import os
import pathlib
import sys
import time

import torch

import torch_model


def high_water_mark():
    status = pathlib.Path("/proc/self/status").read_text()
    return int(status.split("VmHWM:")[1].split()[0]) * 1024


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("checkpoint")
    parser.add_argument("--context", type=int, required=True)
    parser.add_argument("--rows", type=int, required=True)
    parser.add_argument("--window", type=int, default=0)
    parser.add_argument("--precision", choices=["f32", "bf16"], required=True)
    parser.add_argument("--text", required=True, help="file whose bytes are tokens, a row a line")
    parser.add_argument("--learning-rate", type=float, default=1e-4)
    parser.add_argument("--set", action="append", default=[], metavar="SETTING=VALUE")
    arguments = parser.parse_args()

    settings = torch_model.Settings(
        dtype=torch.float32 if arguments.precision == "f32" else torch.bfloat16)
    for text in arguments.set:
        name, value = text.split("=")
        setattr(settings, name, type(getattr(settings, name))(
            int(value) if value.isdigit() else value))
    torch.set_num_threads(len(os.sched_getaffinity(0)))
    torch.manual_seed(1)
    tensors = torch_model.read_checkpoint(arguments.checkpoint)
    model = torch_model.Model(tensors, arguments.context, arguments.window, settings)
    vocabulary = tensors["embedding.weight"].shape[0]
    lines = pathlib.Path(arguments.text).read_bytes().splitlines()
    ids = {"text": torch.tensor([list(line) for line in lines], dtype=torch.int64),
           "random": torch.randint(vocabulary, (arguments.rows, arguments.context + 1))}
    batches = {kind: (rows[:, :-1].contiguous(), rows[:, 1:].contiguous())
               for kind, rows in ids.items()}

    # What decays and what does not is as in model/autograd/parameter.h.
    flat = lambda name: name.endswith(("norm.weight", "bias", "A_log", ".D"))
    groups = [{"params": [model.of(n) for n in tensors if not flat(n)], "weight_decay": 0.1},
              {"params": [model.of(n) for n in tensors if flat(n)], "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=arguments.learning_rate, betas=(0.9, 0.95), eps=1e-8,
                                  fused=True)

    def step(tokens, targets):
        optimizer.zero_grad(set_to_none=True)
        loss = model.loss(tokens, targets)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        return loss.item()

    parameters = sum(parameter.numel() for parameter in model.parameters())
    print(json.dumps({"torch": torch.__version__, "parameters": parameters,
                      "loaded": high_water_mark()}), flush=True)
    for line in sys.stdin:
        seconds, processor, losses = [], [], []
        kind, count = line.split()
        for _ in range(int(count)):
            begin, used = time.perf_counter(), time.process_time()
            losses.append(step(*batches[kind]))
            seconds.append(time.perf_counter() - begin)
            processor.append(time.process_time() - used)
        print(json.dumps({"seconds": seconds, "processor_seconds": processor, "losses": losses,
                          "peak": high_water_mark()}), flush=True)
        # The next answer's peak is that of its own steps, not of compiling.
        pathlib.Path("/proc/self/clear_refs").write_text("5")


if __name__ == "__main__":
    main()
