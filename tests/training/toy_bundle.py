"""A bundle whose step is a few lines of JAX in place of a codec's HLO: it compiles in a second."""

import json

import numpy as np
from PIL import Image
from tiny_training import photograph

from training.settings import DEFAULTS, resolve
from training.xla import bundle, files

NAMES = ["hyper/kernel", "hyper/bias", "frozen/kernel"]
PRIOR = ("matrix_0", "bias_0", "matrix_1", "bias_1", "matrix_2", "bias_2", "matrix_3", "bias_3")
PRIOR += ("factor_0", "factor_1", "factor_2")
COLUMNS = [
    *("step", "hours", "loss", "bpp_y", "bpp_z", "psnr", "learning_rate", "gradient_norm"),
    *("pixels_per_second", "waiting", "refused", "lmbda"),
]


def _prior():
    """An untrained prior of z with 2 channels, by name."""
    widths, made = (1, 3, 3, 3, 1), {}
    for i in range(4):
        made[f"matrix_{i}"] = np.full((2, widths[i + 1], widths[i]), 0.5, np.float32)
        made[f"bias_{i}"] = np.full((2, widths[i + 1], 1), 0.1 * i, np.float32)
        if i < 3:
            made[f"factor_{i}"] = np.zeros((2, widths[i + 1], 1), np.float32)
    return {f"entropy_bottleneck/{name}": value for name, value in made.items()}


def make(folder, *, shares=(0.75, 0.25), **given):
    """Writes the bundle and returns its folder; ``given`` are settings."""
    wanted = {"steps": 8, "batch": 2, "patch": 64, "warmup": 2, "lmbda": [0.002, 0.02]}
    wanted.update({"precision": "float32", "lmbda_start": 0.2, "optimizer": "adam", **given})
    settings = resolve({**dict.fromkeys(DEFAULTS), **wanted}, None)
    rng, names = np.random.default_rng(1), [*NAMES, *_prior()]
    shapes = {"hyper/kernel": (1, 1, 4, 3), "hyper/bias": (3,), "frozen/kernel": (1, 1, 2, 2)}
    start = {name: rng.normal(size=shape).astype(np.float32) for name, shape in shapes.items()}
    start.update(_prior())
    start["entropy_bottleneck/quantiles"] = np.tile(np.float32([[[-10, 0, 10]]]), (2, 1, 1))
    last = {**settings, "quantisation": "rounded", "lmbda_start": None, "schedule": "cosine"}
    stages = [
        {
            "share": share,
            "parts": [{"end": 1.0, "step": chosen["quantisation"], "settings": chosen}],
        }
        for share, chosen in zip(shares, (settings, last))
    ]
    described = {"losses": ["loss", "bpp_y", "bpp_z", "mse"], "reached": NAMES[:2]}
    record = {
        "version": bundle.VERSION,
        "id": "toy",
        "settings": settings,
        "stages": stages,
        "steps": {
            "noise": {**described, "inputs": ["delta"]},
            "rounded": {**described, "inputs": ["delta", "quantiles"]},
        },
        "names": names,
        "factors": {"hyper/kernel": [4, 3]},
        "drawn": None,
        "half": False,
        "columns": COLUMNS,
        "photographs": 3,
    }
    for name in (bundle.STEPS, bundle.PHOTOGRAPHS):
        (folder / name).mkdir(parents=True)
    for kind in record["steps"]:
        (folder / bundle.STEPS / f"{kind}.hlo").write_bytes(kind.encode())
    for k in range(3):
        pixels = photograph(k, 70, 80)
        Image.fromarray(pixels).save(folder / bundle.PHOTOGRAPHS / f"{k:06d}.png")
    files.write_arrays(folder / bundle.START, start, {})
    (folder / bundle.NAME).write_text(json.dumps(record))
    return folder


def load(hlo, broken=()):
    """In place of ``training.xla.step.load``: the step; not finite at the numbers ``broken``."""
    import jax
    import jax.numpy as jnp

    def losses(kernel, bias, x, number, lmbda, delta):
        seen = jnp.mean(x.astype(jnp.float32) / 255, axis=(1, 2))  # (batch, 3)
        noise = jax.random.uniform(jax.random.PRNGKey(number), seen.shape)
        wanted = jnp.tanh(jnp.concatenate([seen, delta[:, None]], axis=1) @ kernel[0, 0] + bias)
        mse = jnp.mean((wanted - seen - 0.01 * noise) ** 2, axis=1)
        bad = jnp.any(jnp.asarray([-1, *broken]) == number)
        loss = jnp.where(bad, jnp.nan, jnp.mean(lmbda * mse * 255**2))
        return loss, jnp.mean(mse)

    def step(*arguments):
        weights, (x, number, lmbda, delta, *quantiles) = arguments[:14], arguments[14:]
        assert len(quantiles) == (hlo == b"rounded")
        both = jax.value_and_grad(losses, argnums=(0, 1), has_aux=True)
        (loss, mse), gradients = both(*weights[:2], x, number, lmbda, delta)
        return (loss, mse, mse, 255**2 * mse, *gradients)

    return step
