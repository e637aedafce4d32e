"""The models of this project in PyTorch, as fast as PyTorch on a CPU is known to make them.

Layers follow a checkpoint of ours: names and shapes of its tensors say what the model is. Weights
and sums are f32; `dtype` is the type of activations and operands of products, as under autocast.
`Settings` holds every choice that was tried; tests/bench/peers/README.md says which won.
"""
import dataclasses
import json
import math
import pathlib

import numpy
import torch
import torch.nn.functional as F


@dataclasses.dataclass
class Settings:
    dtype: torch.dtype = torch.float32
    compile: bool = True  # torch.compile of everything but the loop over chunks of a scan
    scan: str = "compiled"  # compiled | eager: the steps within a chunk
    chunk: int = 32  # tokens of a chunk of the scan, whose states are kept in the cache
    window: str = "sdpa"  # sdpa | matrix | mask: chunks of queries, or one masked matrix
    window_queries: int = 512
    loss_rows: int = 512  # rows of logits at a time; 0: all at once, plain cross-entropy


def read_checkpoint(folder):
    """Tensors of a checkpoint as docs/formats.md defines it, without their "model/"."""
    folder = pathlib.Path(folder)
    tensors = {}
    for tensor in json.loads((folder / "manifest.json").read_text())["tensors"]:
        if tensor["name"].startswith("model/"):
            values = numpy.fromfile(folder / tensor["file"], dtype="<f4", offset=tensor["offset"],
                                    count=tensor["bytes"] // 4)
            tensors[tensor["name"][6:]] = torch.from_numpy(values.reshape(tensor["shape"]))
    return tensors


# Selective scan. Layout [batch, time, ...]; states [batch, N, E]. One chunk of time forward and
# backward; a chunk's states are never seen outside, so memory is flat and the cache is used.


def chunk_forward(h, u, delta, z, b, c, a, d, bias):
    dt = F.softplus(delta.float() + bias)
    u, b, c = u.float(), b.float(), c.float()
    x = dt * u
    rows = []
    for t in range(u.shape[1]):
        h = torch.exp(dt[:, t, None] * a) * h + x[:, t, None] * b[:, t, :, None]
        rows.append((h * c[:, t, :, None]).sum(1))
    y = torch.stack(rows, 1) + d * u
    return (y * F.silu(z.float())).to(z.dtype), h


def chunk_backward(g, h, dout, u, delta, z, b, c, a, d, bias):
    raw = delta.float() + bias
    dt = F.softplus(raw)
    u, b, c, z32, dout = u.float(), b.float(), c.float(), z.float(), dout.float()
    x = dt * u
    length = u.shape[1]
    decays, before, states = [], [], []
    for t in range(length):
        decays.append(torch.exp(dt[:, t, None] * a))
        before.append(decays[-1] * h)
        h = before[-1] + x[:, t, None] * b[:, t, :, None]
        states.append(h)
    y = torch.stack([(states[t] * c[:, t, :, None]).sum(1) for t in range(length)], 1) + d * u
    gate = torch.sigmoid(z32)
    dz = dout * y * gate * (1 + z32 * (1 - gate))
    dy = dout * z32 * gate
    da = torch.zeros_like(a)
    db, dc, dx, ddt = [None] * length, [None] * length, [None] * length, [None] * length
    for t in reversed(range(length)):
        g = g + dy[:, t, None] * c[:, t, :, None]
        dc[t] = (dy[:, t, None] * states[t]).sum(-1)
        db[t] = (x[:, t, None] * g).sum(-1)
        dx[t] = (g * b[:, t, :, None]).sum(1)
        moved = g * before[t]
        ddt[t] = (moved * a).sum(1)
        da = da + (moved * dt[:, t, None]).sum(0)
        g = decays[t] * g
    dx, ddt = torch.stack(dx, 1), torch.stack(ddt, 1)
    du = d * dy + dt * dx
    draw = (u * dx + ddt) * torch.sigmoid(raw)
    dtype = delta.dtype
    return (g, du.to(dtype), draw.to(dtype), dz.to(dtype), torch.stack(db, 1).to(dtype),
            torch.stack(dc, 1).to(dtype), da, (dy * u).sum((0, 1)), draw.sum((0, 1)))


# The same with many tokens in one call of PyTorch and products for what is summed over channels:
# the fastest form without a compiler.


def eager_states(h, dt, x, b, a):
    decay = torch.exp(dt.transpose(0, 1)[:, :, None] * a)  # [Q, B, N, E]
    states = x.transpose(0, 1)[:, :, None] * b.transpose(0, 1)[..., None]
    for t in range(states.shape[0]):
        h = states[t].addcmul_(decay[t], h)
    return decay, states


def eager_forward(h, u, delta, z, b, c, a, d, bias):
    dt = F.softplus(delta.float() + bias)
    u, b, c = u.float(), b.float(), c.float()
    _, states = eager_states(h, dt, dt * u, b, a)
    y = torch.matmul(c.transpose(0, 1)[:, :, None], states)[:, :, 0].transpose(0, 1) + d * u
    return (y * F.silu(z.float())).to(z.dtype), states[-1].clone()


def eager_backward(g, h, dout, u, delta, z, b, c, a, d, bias):
    raw = delta.float() + bias
    dt = F.softplus(raw)
    u, b, c, z32, dout = u.float(), b.float(), c.float(), z.float(), dout.float()
    x = dt * u
    decay, states = eager_states(h, dt, x, b, a)
    first = lambda tensor: tensor.transpose(0, 1)  # time first, as the states are
    y = torch.matmul(first(c)[:, :, None], states)[:, :, 0].transpose(0, 1) + d * u
    gate = torch.sigmoid(z32)
    dz = dout * y * gate * (1 + z32 * (1 - gate))
    dy = dout * z32 * gate
    dc = torch.matmul(states, first(dy)[..., None])[..., 0].transpose(0, 1)
    gs = first(dy)[:, :, None] * first(c)[..., None]
    gs[-1] += g
    for t in reversed(range(gs.shape[0] - 1)):
        gs[t].addcmul_(decay[t + 1], gs[t + 1])
    g = decay[0] * gs[0]
    db = torch.matmul(gs, first(x)[..., None])[..., 0].transpose(0, 1)
    dx = torch.matmul(first(b)[:, :, None], gs)[:, :, 0].transpose(0, 1)
    before = torch.cat([h[None], states[:-1]]).mul_(decay).mul_(gs)
    ddt = (before * a).sum(2).transpose(0, 1)
    da = (before * first(dt)[:, :, None]).sum((0, 1))
    du = d * dy + dt * dx
    draw = (u * dx + ddt) * torch.sigmoid(raw)
    dtype = delta.dtype
    return (g, du.to(dtype), draw.to(dtype), dz.to(dtype), db.to(dtype), dc.to(dtype), da,
            (dy * u).sum((0, 1)), draw.sum((0, 1)))


class Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx, u, delta, z, b, c, a, d, bias, forward, backward, chunk):
        batch, length, width = u.shape
        h = torch.zeros(batch, a.shape[0], width)
        starts, out = [], torch.empty_like(u)
        for t in range(0, length, chunk):
            starts.append(h)
            part = slice(t, t + chunk)
            out[:, part], h = forward(h, u[:, part], delta[:, part], z[:, part], b[:, part],
                                      c[:, part], a, d, bias)
        ctx.save_for_backward(u, delta, z, b, c, a, d, bias, *starts)
        ctx.backward_of_chunk, ctx.chunk = backward, chunk
        return out

    @staticmethod
    def backward(ctx, dout):
        u, delta, z, b, c, a, d, bias, *starts = ctx.saved_tensors
        grads = [torch.empty(x.shape, dtype=x.dtype) for x in (u, delta, z, b, c)]
        sums = [torch.zeros_like(x) for x in (a, d, bias)]
        g = torch.zeros_like(starts[0])
        for i in reversed(range(len(starts))):
            part = slice(i * ctx.chunk, (i + 1) * ctx.chunk)
            g, *rest = ctx.backward_of_chunk(g, starts[i], dout[:, part], u[:, part], delta[:, part],
                                             z[:, part], b[:, part], c[:, part], a, d, bias)
            for grad, value in zip(grads, rest[:5]):
                grad[:, part] = value
            for total, value in zip(sums, rest[5:]):
                total += value
        return (*grads, *sums, None, None, None)


# Head and cross-entropy by rows of logits, whose gradient is formed in the forward pass.


def logits_gradient(logits, targets, count):
    logits = logits.float()
    lse = torch.logsumexp(logits, -1, keepdim=True)
    loss = (lse[:, 0] - logits.gather(1, targets[:, None])[:, 0]).sum()
    hit = torch.arange(logits.shape[1])[None] == targets[:, None]
    return loss, (torch.exp(logits - lse) - hit.float()) / count


class HeadLoss(torch.autograd.Function):
    @staticmethod
    def forward(ctx, x, weight, targets, rows, gradient):
        low = weight.to(x.dtype)
        dx, dw, loss = torch.empty_like(x), torch.zeros_like(weight), torch.zeros(())
        for i in range(0, x.shape[0], rows):
            part, dlogits = gradient(x[i:i + rows] @ low.t(), targets[i:i + rows], x.shape[0])
            loss += part
            dlogits = dlogits.to(x.dtype)
            torch.mm(dlogits, low, out=dx[i:i + rows])
            if x.dtype == dw.dtype:
                dw.addmm_(dlogits.t(), x[i:i + rows])
            else:
                dw += dlogits.t() @ x[i:i + rows]
        ctx.save_for_backward(dx, dw)
        return loss / x.shape[0]

    @staticmethod
    def backward(ctx, grad):
        dx, dw = ctx.saved_tensors
        return dx * grad.to(dx.dtype), dw * grad, None, None, None


class Model(torch.nn.Module):
    def __init__(self, tensors, context, window, settings):
        super().__init__()
        self.names = {name: name.replace(".", "_") for name in tensors}
        for name, tensor in tensors.items():
            self.register_parameter(self.names[name], torch.nn.Parameter(tensor.clone()))
        self.blocks = 1 + max(int(name.split(".")[1]) for name in tensors if name.startswith("blocks"))
        self.context, self.window, self.settings = context, window, settings
        angle = torch.outer(torch.arange(context, dtype=torch.float64),
                            10000.0**-(torch.arange(32, dtype=torch.float64) / 32))
        self.cos, self.sin = angle.cos().float(), angle.sin().float()
        if window:
            self.mask = self.window_mask()
        s = settings
        maybe = (lambda f: torch.compile(f, dynamic=False)) if s.compile else (lambda f: f)
        self.before_scan = maybe(self.before_scan)
        self.after_scan = maybe(self.after_scan)
        self.attention_block = maybe(self.attention_block)
        self.gradient = maybe(logits_gradient)
        self.final_norm = maybe(self.norm)
        if s.scan == "compiled":
            self.scan_forward = torch.compile(chunk_forward, dynamic=False)
            self.scan_backward = torch.compile(chunk_backward, dynamic=False)
        else:
            self.scan_forward, self.scan_backward = eager_forward, eager_backward

    def of(self, name):
        return getattr(self, self.names[name])

    def weights_of(self, block):
        prefix = f"blocks.{block}."
        return {name[len(prefix):]: self.of(name) for name in self.names if name.startswith(prefix)}

    def linear(self, x, weight):
        return F.linear(x, weight.to(x.dtype))

    def norm(self, x, weight):
        x = x.float()
        y = x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5) * weight
        return y.to(self.settings.dtype)

    def feed_forward(self, x, w):
        gate, up = self.linear(self.norm(x, w["feed_forward_norm.weight"]),
                               w["feed_forward.gate_up.weight"]).chunk(2, -1)
        return x + self.linear(F.silu(gate) * up, w["feed_forward.down.weight"])

    def before_scan(self, x, w):
        u, z = self.linear(self.norm(x, w["mixer_norm.weight"]),
                           w["mixer.in_proj.weight"]).chunk(2, -1)
        taps = w["mixer.conv.weight"]
        padded = F.pad(u, (0, 0, taps.shape[1] - 1, 0))
        conv = w["mixer.conv.bias"] + sum(
            padded[:, i:i + u.shape[1]].float() * taps[:, i] for i in range(taps.shape[1]))
        u = F.silu(conv).to(u.dtype)
        states = w["mixer.A_log"].shape[1]
        low = self.linear(u, w["mixer.x_proj.weight"])
        r, b, c = low.split([low.shape[-1] - 2 * states, states, states], -1)
        delta = self.linear(r, w["mixer.dt_proj.weight"])
        return u, delta, z, b, c, -torch.exp(w["mixer.A_log"].t()).contiguous()

    def after_scan(self, x, y, w):
        return self.feed_forward(x + self.linear(y, w["mixer.out_proj.weight"]), w)

    def rotate(self, x):
        a, b = x.float().chunk(2, -1)
        return torch.cat([a * self.cos - b * self.sin, b * self.cos + a * self.sin], -1).to(x.dtype)

    def window_mask(self):
        if self.settings.window == "mask":
            query = torch.arange(self.context)[:, None]
            key = torch.arange(self.context)[None]
            return (key <= query) & (key > query - self.window)
        q = self.settings.window_queries
        pieces = self.context // q
        key = torch.arange(q + self.window)[None] - self.window
        query = torch.arange(q)[:, None]
        near = (key <= query) & (key > query - self.window)
        mask = near[None].repeat(pieces, 1, 1)
        for i in range(pieces):  # keys before the row
            mask[i, :, :max(0, self.window - i * q)] = False
        return mask[None, :, None]

    def windows(self, q, k, v):
        """Every piece of queries with the keys it can see: [pieces, heads, queries, 64]."""
        batch, heads, length, width = q.shape
        rows = self.settings.window_queries
        pieces = length // rows
        cut = lambda x: F.pad(x, (0, 0, self.window, 0)).unfold(2, rows + self.window, rows)
        take = lambda x: cut(x).permute(0, 2, 1, 4, 3).contiguous()
        q = q.view(batch, heads, pieces, rows, width).transpose(1, 2)
        k, v = take(k), take(v)
        if self.settings.window == "sdpa":
            mask = self.mask.expand(batch, -1, -1, -1, -1).reshape(-1, 1, *self.mask.shape[-2:])
            out = F.scaled_dot_product_attention(q.reshape(-1, *q.shape[2:]), k.flatten(0, 1),
                                                 v.flatten(0, 1), attn_mask=mask)
            out = out.view(batch, pieces, heads, rows, width)
        else:
            scores = (q @ k.transpose(-1, -2)).float() / math.sqrt(width)
            scores = scores.masked_fill(~self.mask, -math.inf)
            out = torch.softmax(scores, -1).to(v.dtype) @ v
        return out.transpose(1, 2).reshape(batch, heads, length, width)

    def attention_block(self, x, w):
        batch, length, _ = x.shape
        qkv = self.linear(self.norm(x, w["mixer_norm.weight"]), w["mixer.qkv.weight"])
        q, k, v = qkv.view(batch, length, 3, -1, 64).permute(2, 0, 3, 1, 4)
        q, k = self.rotate(q), self.rotate(k)
        if self.window and self.settings.window != "mask" and self.window < length:
            y = self.windows(q, k, v)
        elif self.window:
            y = F.scaled_dot_product_attention(q, k, v, attn_mask=self.mask)
        else:
            y = F.scaled_dot_product_attention(q, k, v, is_causal=True)
        x = x + self.linear(y.transpose(1, 2).reshape(batch, length, -1), w["mixer.out_proj.weight"])
        return self.feed_forward(x, w)

    def loss(self, tokens, targets):
        s = self.settings
        x = F.embedding(tokens, self.of("embedding.weight"))
        for block in range(self.blocks):
            w = self.weights_of(block)
            if "mixer.A_log" in w:
                u, delta, z, b, c, a = self.before_scan(x, w)
                y = Scan.apply(u, delta, z, b, c, a, w["mixer.D"], w["mixer.dt_bias"],
                               self.scan_forward, self.scan_backward, s.chunk)
                x = self.after_scan(x, y, w)
            else:
                x = self.attention_block(x, w)
        x = self.final_norm(x, self.of("final_norm.weight")).flatten(0, 1)
        head = self.of("embedding.weight")
        if s.loss_rows:
            return HeadLoss.apply(x, head, targets.flatten(), s.loss_rows, self.gradient)
        return F.cross_entropy(self.linear(x, head).float(), targets.flatten())
