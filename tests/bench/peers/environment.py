"""A virtual environment with PyTorch, and the variables that make it fast.

The package of PyTorch for Linux computes on CPUs and NVIDIA GPUs. Its loader wants 11 GPU libraries of
4 GB that a CPU never calls; here they are empty stand-ins which only have the names it looks for.
"""
import collections
import ctypes.util
import json
import os
import pathlib
import re
import subprocess
import sys

# Asked by Intel's MKL, which runs its AVX-512 kernels only where the answer is yes: 2.3 times as
# fast in f32 on AMD processors.
MKL_VENDOR = "int mkl_serv_intel_cpu_true(void) { return 1; }\nint mkl_serv_intel_cpu(void) { return 1; }\n"
ALLOCATOR = "oversize_threshold:0,narenas:1,dirty_decay_ms:-1,muzzy_decay_ms:-1,thp:always"
GPU_SYMBOL = re.compile(r"cu(blas|dnn|fft|file|solver|sparse)|nvrtc|nccl|pnccl|nvshmem|nvJit", re.I)


def run(*arguments, **more):
    return subprocess.run([str(argument) for argument in arguments], check=True, text=True,
                          stdout=subprocess.PIPE, **more).stdout


def compile_library(path, code, *flags):
    run("cc", "-shared", "-fPIC", "-w", "-x", "c", "-", "-o", path, *flags, input=code)


def make_stand_ins(torch_libraries, folder):
    """One library for each that torch needs and nobody calls, with the names that it looks up."""
    folder.mkdir(exist_ok=True)
    needed, versions = set(), collections.defaultdict(set)
    for file in torch_libraries.glob("*.so"):
        needed |= set(re.findall(r"NEEDED.*\[(.*)\]", run("readelf", "-d", file)))
        for line in run("nm", "-D", "--undefined-only", file).splitlines():
            name, _, version = line.split()[-1].partition("@")
            if GPU_SYMBOL.match(name):
                versions[version].add(name)
    code = "".join(f"long {name}(void) {{ return 1; }}\n"
                   for names in versions.values() for name in sorted(names))
    script = folder / "versions"
    script.write_text("".join(f"{version} {{ {'; '.join(sorted(names))}; }};\n"
                              for version, names in versions.items() if version))
    for library in needed:
        if re.match(r"lib(cu|nv|nccl)", library) and not re.match(r"lib(cuda|cudart|cupti)\.", library):
            compile_library(folder / library, code, f"-Wl,-soname,{library}",
                            f"-Wl,--version-script={script}")


def prepare(folder):
    """The python of the environment; makes it where it is missing (about 600 MB are fetched)."""
    folder = folder.resolve()
    python = folder / "env/bin/python"
    done = folder / "ready"
    if not done.exists():
        print("making an environment with PyTorch in", folder, flush=True)
        run(sys.executable, "-m", "venv", folder / "env")
        pip = [python, "-m", "pip", "install", "--quiet"]
        run(*pip, "--no-deps", "torch")
        query = "import importlib.metadata as m, json; print(json.dumps(m.requires('torch')))"
        requirements = json.loads(run(python, "-c", query))
        wanted = [text.split(";")[0] for text in requirements
                  if not re.match(r"nvidia|cuda|triton", text) and "extra ==" not in text]
        # The two small GPU libraries that are called when torch looks whether there is a GPU.
        wanted += [re.sub(r"\[.*\]", "[cudart,cupti]", text.split(";")[0])
                   for text in requirements if text.startswith("cuda-toolkit")]
        run(*pip, "numpy", *wanted)
        libraries = next(folder.glob("env/lib/python*/site-packages/torch/lib"))
        make_stand_ins(libraries, folder / "stand-ins")
        compile_library(folder / "libvendor.so", MKL_VENDOR)
        done.write_text("")
    return python


def variables(folder, tuned):
    """The environment of a worker, and what of it is worth telling."""
    folder = folder.resolve()
    values = {key: value for key, value in os.environ.items() if not key.startswith("OPENBLAS_")}
    cudart = next(folder.glob("env/lib/python*/site-packages/nvidia/*/lib/libcudart.so*")).parent
    told = {"LD_LIBRARY_PATH": f"{folder}/stand-ins:{cudart}"}
    if tuned:
        preload = [str(folder / "libvendor.so")]
        allocator = ctypes.util.find_library("jemalloc")
        if allocator:
            preload.append(allocator)
            told["MALLOC_CONF"] = ALLOCATOR
        told |= {"LD_PRELOAD": ":".join(preload), "OMP_WAIT_POLICY": os.environ.get("OMP_WAIT_POLICY", "active")}
    values |= told
    # Compiled kernels are kept, so that a second run starts quickly.
    values["TORCHINDUCTOR_CACHE_DIR"] = str(folder / "inductor")
    return values, told
