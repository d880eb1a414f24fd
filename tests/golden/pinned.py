"""The installed commands, with arithmetic that depends as little on the machine as torch allows.

    python tests/golden/pinned.py COMMAND ARGUMENT...     runs one command
    python tests/golden/pinned.py < requests > answers    runs one command per request, each in a forked process

The bits of a training depend on the number of threads, on the vector instructions for which kernels are chosen, and on
the libraries for convolutions and matrices. Here there is one thread, kernels use the basic instructions that all
processors of a family share, oneDNN and NNPACK are off, and MKL computes what it computes everywhere. The standard
library of C and torch itself are still those of the machine: the command `probe` prints a digest of what they compute.

It imports nothing of this repository, so it also runs an older version, with the interpreter of its environment.
A request is a line of JSON, {"arguments": [...], "folder": ...}; the answer is {"code", "out", "err"}.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from importlib.metadata import entry_points
from pathlib import Path
from typing import Any

PINNED = {
    "OMP_NUM_THREADS": "1",
    "MKL_NUM_THREADS": "1",
    "ATEN_CPU_CAPABILITY": "default",
    "MKL_CBWR": "COMPATIBLE",
    "NO_COLOR": "1",
    "COLUMNS": "100",
}

#: Libraries that choose kernels by the processor, without a variable that stops them.
LIBRARIES = ("mkldnn", "nnpack")


def pin() -> None:
    """Pin the arithmetic of this process; torch must not have been imported yet."""
    os.environ.update(PINNED)
    for name in ("FLUXFLOW_PLUGINS", "WORLD_SIZE"):
        os.environ.pop(name, None)
    import torch

    torch.set_num_threads(1)
    for library in LIBRARIES:
        getattr(torch.backends, library).set_flags(False)


def command(name: str, arguments: Sequence[str]) -> int:
    """Run an installed command and return its exit code."""
    if name == "probe":
        print(json.dumps(probe()))
        return 0
    (script,) = entry_points(group="console_scripts", name=name)
    sys.argv[0] = name
    try:
        script.load()(list(arguments))
    except SystemExit as left:
        return left.code if isinstance(left.code, int) else 70
    return 0


def probe() -> dict[str, str]:
    """Digest short trainings made of the operations of the golden runs, and name what they were computed with."""
    import torch

    digest = sha256()
    for tensor in (*convolutions(), *attention(), *functions()):
        digest.update(tensor.detach().contiguous().numpy().tobytes())
    return {"torch": torch.__version__, "digest": digest.hexdigest()}


def convolutions() -> list[Any]:
    """Train a small autoencoder against a critic, which is penalized for its gradient, and return their weights."""
    import torch
    from torch import nn
    from torch.nn.utils import parametrizations

    torch.manual_seed(0)
    encoder = [nn.PixelUnshuffle(2), nn.Conv2d(12, 4, 3, padding=1), nn.GroupNorm(2, 4), nn.SiLU()]
    halving = [nn.Conv2d(4, 8, 4, stride=2, padding=1), nn.BatchNorm2d(8), nn.SiLU()]
    decoder = [nn.Upsample(scale_factor=2), nn.Conv2d(8, 12, 3, padding=1), nn.PixelShuffle(2), nn.Tanh()]
    net = nn.Sequential(*encoder, *halving, *decoder)
    first = parametrizations.spectral_norm(nn.Conv2d(3, 4, 4, stride=2, padding=1))
    critic = nn.Sequential(first, nn.LeakyReLU(0.2), parametrizations.spectral_norm(nn.Conv2d(4, 1, 3, padding=1)))
    nets = (net, critic)
    optimizers = [torch.optim.AdamW(each.parameters(), fused=True) for each in nets]
    average = [parameter.detach().clone() for parameter in net.parameters()]
    image = torch.randn(4, 3, 16, 16, generator=torch.Generator().manual_seed(1)).requires_grad_()
    for _ in range(6):
        (gradient,) = torch.autograd.grad(critic(image).mean((1, 2, 3)).sum(), image, create_graph=True)
        judged = torch.relu(1 - critic(image)).mean() + torch.relu(1 + critic(net(image).detach())).mean()
        loss = (net(image) - image).abs().mean() - 0.1 * critic(net(image)).mean()
        penalty = gradient.square().sum((1, 2, 3)).mean()
        for each, optimizer, total in zip(nets, optimizers, (loss, judged + penalty), strict=True):
            optimizer.zero_grad()
            total.backward(inputs=list(each.parameters()))
            nn.utils.clip_grad_norm_(each.parameters(), 0.1)
        for optimizer in optimizers:
            optimizer.step()
        with torch.no_grad():
            torch._foreach_lerp_(average, list(net.parameters()), 0.1)
    return [*average, *net.state_dict().values(), *critic.state_dict().values()]


def attention() -> list[Any]:
    """Train a small transformer over embedded words, and return its weights."""
    import torch
    from torch import nn
    from torch.nn import functional

    torch.manual_seed(0)
    words, inner, out = nn.Embedding(8, 8), nn.Linear(8, 24), nn.Linear(8, 8)
    norm, wide, narrow = nn.LayerNorm(8), nn.Linear(8, 32), nn.Linear(32, 8)
    parameters = [p for module in (words, inner, out, norm, wide, narrow) for p in module.parameters()]
    optimizer = torch.optim.AdamW(parameters, fused=True)
    mask = (torch.arange(6) < 5).reshape(1, 1, 1, 6)
    for _ in range(6):
        x = words(torch.arange(24).reshape(4, 6) % 7)
        q, k, v = inner(norm(x)).reshape(4, 6, 3, 2, 4).permute(2, 0, 3, 1, 4)
        x = x + out(functional.scaled_dot_product_attention(q, k, v, attn_mask=mask).transpose(1, 2).reshape(4, 6, 8))
        x = x + narrow(functional.gelu(wide(norm(x)), approximate="tanh"))
        x = x + functional.silu(narrow(functional.gelu(wide(x))))
        (x.square().mean() + torch.softmax(x, -1).log().mean()).backward()
        nn.utils.clip_grad_norm_(parameters, 0.1)
        optimizer.step()
        optimizer.zero_grad()
    return parameters


def functions() -> list[Any]:
    """Evaluate functions that kernels approximate, sums, and random numbers."""
    import torch
    from torch.nn import functional

    generator = torch.Generator().manual_seed(0)
    x = torch.randn(1001, generator=generator)
    table = x[:1000].reshape(10, 10, 10)
    random_numbers = [
        torch.rand(1001, generator=generator),
        torch.randint(2**40, (101,), generator=generator),
        torch.randperm(101, generator=generator),
    ]
    named = (torch.exp, torch.sin, torch.cos, torch.tanh, torch.erf, torch.sigmoid, functional.softplus)
    positive = (torch.sqrt, torch.rsqrt, torch.log, torch.log2, torch.log10)
    values = [*(f(x) for f in named), *(f(x.abs()) for f in positive), x.abs() ** 0.3]
    sums = [
        x.mean(),
        x.double().sum(),
        x.norm(),
        x.std(),
        x.cumsum(0),
        table.mean(1),
        functional.mse_loss(x, x.flip(0)),
    ]
    products = [torch.bmm(table, table), torch.cdist(table, table.flip(0)), functional.avg_pool2d(table, 3)]
    mixed = [torch.lerp(x, x.flip(0), 0.1), torch.addcmul(x, x, x.flip(0), value=0.1)]
    return [*random_numbers, *values, *sums, *products, *mixed]


def serve() -> None:
    """Answer requests until there are no more."""
    import torch

    # The first random number on the meta device imports torch's compiler, which takes seconds: once for all commands.
    torch.nn.init.normal_(torch.empty(1, device="meta"))
    for each in entry_points(group="fluxflow"):
        each.load()
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        print(json.dumps(answer(json.loads(line))), file=answers, flush=True)
    os._exit(0)  # taking down what was imported takes longer than a command


def answer(request: dict[str, Any]) -> dict[str, Any]:
    """Run one command in a forked process."""
    with tempfile.TemporaryDirectory() as folder:
        out, err = Path(folder, "out"), Path(folder, "err")
        child = os.fork()
        if child == 0:
            os.chdir(request["folder"])
            for target, path in ((0, os.devnull), (1, out), (2, err)):
                os.dup2(os.open(path, os.O_RDWR | os.O_CREAT), target)
            code = 70
            try:
                name, *arguments = request["arguments"]
                code = command(name, arguments)
            except BaseException:
                import traceback

                traceback.print_exc()
            sys.stdout.flush()
            sys.stderr.flush()
            os._exit(code)
        _, status = os.waitpid(child, 0)
        return {"code": os.waitstatus_to_exitcode(status), "out": out.read_text(), "err": err.read_text()}


if __name__ == "__main__":
    pin()
    if len(sys.argv) == 1:
        serve()
    else:
        sys.exit(command(sys.argv[1], sys.argv[2:]))
