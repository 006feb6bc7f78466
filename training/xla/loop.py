"""The loop around the compiled steps: stages, parts, the clock, the log, checkpoints.

A training has one or two stages, each with a schedule of its own: the settings' own, and a last one
on rounded latents, which starts from the moving averages of the first. A stage has a part for each
size of crops. Crops, lambdas and schedules are those of train.py, by the same modules; what is
uniform noise there is here, too, but other numbers, as XLA draws them.
"""

from __future__ import annotations

import concurrent.futures
import math
import time

import jax
import numpy as np

import factorized_prior
from errors import GlicError
from pictures.metrics import PEAK, to_db
from training import schedule
from training.signals import Signals
from training.table import Table
from training.xla import files, steps
from training.xla.bundle import CHECKPOINT, LOG, WEIGHTS
from variables import QUANTILES

LOG_EVERY = 50  # steps, averaged in a row of the log; a call's steps stay together
REFUSALS_IN_A_ROW = 5  # steps that are not finite before the training stops
RESERVE = 3.0  # seconds of a limited call that are kept for the end, and twice a saving's
ROUNDING = 0.001  # seconds by which the sum of a stage's steps may miss the deadline


class Trainer:
    """A training in a bundle.

    Attributes:
      progress: dict that a checkpoint keeps: stage, step (of all stages), stage_step, seconds and
        hours (the length, where it is by the clock: the bundle's, with a deadline what the call
        leaves) of each stage, pixels, refused, compile_seconds (of all calls), flops_per_pixel.
    """

    def __init__(self, bundle, photographs, options, deadline=None):
        """Loads the checkpoint, or starts.

        Args:
          bundle: ``bundle.Bundle``.
          photographs: ``training.photographs.Photographs``.
          options: argparse.Namespace of chunk, refresh, save_minutes and peak.
          deadline: of ``time.monotonic()``: when the call has to end, or None.
        """
        self._bundle, self._photographs, self._options = bundle, photographs, options
        self._deadline, self._signals, self._clock = deadline, Signals(), time.monotonic()
        self._shared_out = False  # whether the hours are those that this call's deadline leaves
        self._start, record = bundle.start(), bundle.record
        self._names, self._stages = record["names"], record["stages"]
        count = len(self._stages)
        self.progress = dict.fromkeys(("stage", "step", "stage_step", "pixels", "refused"), 0)
        hours = bundle.settings["hours"]
        lengths = [hours and hours * stage["share"] for stage in self._stages]
        self.progress.update(seconds=[0.0] * count, hours=list(lengths))
        self.progress.update(compile_seconds=0.0, flops_per_pixel=None)
        found = bundle.checkpoint()
        if found:
            self.progress.update(found[1]["progress"])
            if deadline is None:  # a call that had one left the lengths that were its own
                k = self.progress["stage"]
                self.progress["hours"][k:] = lengths[k:]
            print(f"Resumed at step {self.progress['step']}.", flush=True)
        self._begin_stage(found[0] if found else None)
        self._log = Table(bundle.results / LOG, record["columns"], self.progress["step"])
        self._rows, self._waited, self._saving = [], 0.0, 0.0
        self._refused = []  # losses of the steps in a row, up to the last, that were not finite
        self._pool = concurrent.futures.ThreadPoolExecutor(1)  # compiles
        self._crops = concurrent.futures.ThreadPoolExecutor(1)
        self._ahead = (None, None)

    # --- Stages ---------------------------------------------------------------------------------

    @property
    def complete(self):
        """Whether all stages are done."""
        return self.progress["stage"] >= len(self._stages)

    def _stage(self):
        return self._stages[min(self.progress["stage"], len(self._stages) - 1)]

    def _settings(self, part):
        """A part's settings with the length of its stage."""
        share, hours = self._stage()["share"], self.progress["hours"][self.progress["stage"]]
        steps = None if hours else max(1, round(self._bundle.settings["steps"] * share))
        return {**part["settings"], "hours": hours, "steps": steps}

    def _fraction(self, settings, ahead=0):
        k = self.progress["stage"]
        seconds = self.progress["seconds"][k]
        return schedule.fraction_done(settings, self.progress["stage_step"] + ahead, seconds)

    def _begin_stage(self, arrays=None):
        """State and quantiles of the stage: of a checkpoint's arrays, or at its start."""
        settings = self._stage()["parts"][0]["settings"]
        if arrays is not None:
            weights = {n: arrays[f"weights/{n}"] for n in self._names}
        elif self.progress["stage"]:
            weights = self.weights()
        else:
            weights = {n: self._start[n] for n in self._names}
        described = self._bundle.record["steps"][self._stage()["parts"][0]["step"]]
        shapes = {n: weights[n].shape for n in described["reached"]}
        factors = self._bundle.record["factors"]
        self._optimiser = steps.make_optimiser(settings, shapes, factors, self._options.refresh)
        self._state = steps.start_state(self._optimiser, weights, settings["average"])
        if arrays is not None:
            leaves, tree = jax.tree.flatten({k: self._state[k] for k in ("norm", "optimiser")})
            read = [arrays[f"state/{k}"] for k in range(len(leaves))]
            self._state.update(jax.tree.unflatten(tree, map(jax.numpy.asarray, read)))
            average = {n: arrays[f"average/{n}"] for n in self._state["average"]}
            self._state["average"] = jax.tree.map(jax.numpy.asarray, average)
        self._quantiles = self._start[QUANTILES]
        if arrays is not None:
            self._quantiles = arrays[QUANTILES]
        elif settings["quantisation"] != "noise":
            self._quantiles = factorized_prior.solve_quantiles(factorized_prior.weights_of(weights))

    def weights(self):
        """The weights that count, a dict of name to float32 array: the averages, if any."""
        chosen = self._state["average"] or self._state["weights"]
        return {name: np.asarray(value) for name, value in chosen.items()}

    # --- Compiling ------------------------------------------------------------------------------

    def _compile(self, stage, part):
        record, settings = self._bundle.record, part["settings"]
        described, batch, patch = (
            record["steps"][part["step"]],
            settings["batch"],
            settings["patch"],
        )
        weights = {n: self._start[n] for n in self._names}
        shapes = {n: weights[n].shape for n in described["reached"]}
        optimiser = steps.make_optimiser(settings, shapes, record["factors"], self._options.refresh)
        state = jax.eval_shape(
            lambda w: steps.start_state(optimiser, w, settings["average"]), weights
        )
        columns = {"x": (batch, patch, patch, 3), "lmbda": (batch,), "delta": (batch,)}
        columns.update(dict.fromkeys(("number", "active", "rate", "pace"), ()))
        columns["quantiles"] = self._start[QUANTILES].shape
        made = steps.Steps(
            self._bundle.step(part["step"]),
            described,
            self._names,
            settings,
            optimiser,
            state,
            columns,
            self._options.chunk,
        )
        of = f"{settings['quantisation']}, {batch} crops of {patch}x{patch}"
        print(f"Compiled ({of}) in {made.compile_seconds:.1f} s.", flush=True)
        self.progress["compile_seconds"] += made.compile_seconds
        if made.flops:
            self.progress["flops_per_pixel"] = round(made.flops / (batch * patch**2))
        return made

    def _compile_ahead(self):
        """Starts to compile what is to come, in order; {(stage, part): future}."""
        return {
            (s, p): self._pool.submit(self._compile, stage, part)
            for s, stage in enumerate(self._stages)
            for p, part in enumerate(stage["parts"])
            if s >= self.progress["stage"]
        }

    # --- Training -------------------------------------------------------------------------------

    def train(self):
        """Trains to the end, or until a signal or the deadline; saves then.

        Returns:
          Whether the training is complete.

        Raises:
          GlicError: several steps in a row were not finite.
        """
        compiled = self._compile_ahead()
        try:
            with self._signals:
                self.save()  # while that goes on: a disk that takes nothing is known at once
                while not self.complete and not self._stopped():
                    self._train_stage(compiled)
        finally:
            for future in compiled.values():
                future.cancel()
            for pool in (self._pool, self._crops):
                pool.shutdown(wait=False, cancel_futures=True)
            self._log.close()
        return self.complete

    def _stopped(self):
        late = self._deadline is not None and self._clock > self._deadline + ROUNDING
        return bool(self._signals.stop) or late

    def _train_stage(self, compiled):
        parts, k = self._stage()["parts"], self.progress["stage"]
        for p, part in enumerate(parts):
            made = self._awaited(compiled[k, p])
            if made is None:
                break
            self._train_part(made, part)
        if self._fraction(self._settings(parts[-1])) >= 1:
            self.progress.update(stage=k + 1, stage_step=0)
            if not self.complete:
                self._begin_stage()
        self.save()

    def _train_part(self, made, part):
        self._share_out_time()
        settings = self._settings(part)
        self._row_clock = saved = self._clock
        resumed = False
        while self._fraction(settings) < part["end"] and not self._stopped():
            if resumed or self._saving_is_due(saved):
                self.save()
                self._share_out_time()
                settings, saved, resumed = self._settings(part), self._clock, False
            else:
                resumed = self._turn(made, settings, part["end"])
        if self._rows:
            self._report(settings)

    def _saving_is_due(self, saved):
        """Whether the last one was long ago; one at the end comes in any case."""
        left = math.inf if self._deadline is None else self._deadline - self._clock
        long_ago = self._clock - saved >= 60 * self._options.save_minutes
        return long_ago and left > RESERVE + self._saving

    def _awaited(self, future):
        """What is being compiled; None where a signal or the deadline comes first."""
        while not self._stopped():
            try:
                return future.result(timeout=0.2)
            except concurrent.futures.TimeoutError:
                self._clock = time.monotonic()
        return None

    def _share_out_time(self):
        """Starts the clock, and with a deadline shares out what is left until then.

        What is left of this stage and of those to come gets its part of the time. They are measured
        by the clock that the deadline is compared with: by two, the deadline could be found past
        just before the last stage is done.
        """
        self._clock = time.monotonic()
        if self._deadline is None or self._clock >= self._deadline:
            return
        k, done, hours = (self.progress[key] for key in ("stage", "seconds", "hours"))
        if self._shared_out:
            rest = [3600 * hours[i] - done[i] for i in range(k, len(hours))]
        else:
            rest = [stage["share"] for stage in self._stages[k:]]
            rest[0] *= 1 - self._fraction(self._settings(self._stage()["parts"][0]))
        rest = [max(0.0, value) for value in rest]
        if not sum(rest):
            return
        for i, value in enumerate(rest, k):
            hours[i] = (done[i] + (self._deadline - self._clock) * value / sum(rest)) / 3600
        self._shared_out = True

    def _columns(self, settings, end):
        """What the next call's steps are given, all but the crops, and the lambdas' means."""
        rows, progress = [], self.progress
        for i in range(self._options.chunk):
            number, t = progress["step"] + i, progress["stage_step"] + i
            fraction = self._fraction(settings, i)
            lambdas, deltas = schedule.lambdas_of(settings, number)
            factor = schedule.learning_rate_factor(
                settings["schedule"], fraction, t, settings["warmup"]
            )
            rows.append(
                {
                    "number": np.int32(number),
                    "active": np.bool_(fraction < end),
                    "lmbda": lambdas * schedule.lmbda_factor(settings, fraction),
                    "delta": deltas,
                    "rate": settings["learning_rate"] * factor,
                    "pace": 1 - min(settings["average"], (1 + t) / (10 + t)),
                }
            )
        columns = {name: np.stack([row[name] for row in rows]) for name in rows[0]}
        wide = ("number", "active")
        return {n: v if n in wide else v.astype(np.float32) for n, v in columns.items()}

    def _pixels(self, settings, number):
        """The crops of a call from a step on, uint8; those after them are begun."""
        size, patch, seed = (settings[key] for key in ("batch", "patch", "seed"))

        def made(first):
            numbers = range(first, first + self._options.chunk)
            return np.stack([self._photographs.batch(size, patch, seed, n) for n in numbers])

        key = (number, size, patch)
        future = self._ahead[1] if self._ahead[0] == key else self._crops.submit(made, number)
        begun = time.monotonic()
        pixels = future.result()
        self._waited += time.monotonic() - begun
        after = number + self._options.chunk
        self._ahead = ((after, size, patch), self._crops.submit(made, after))
        return pixels

    def _turn(self, made, settings, end):
        """A call of several steps; returns whether it was suspended and has gone on since."""
        columns = self._columns(settings, end)
        pixels = self._pixels(settings, self.progress["step"])
        self._state, losses, fine = made.run(self._state, {**columns, "x": pixels}, self._quantiles)
        now, progress = time.monotonic(), self.progress
        suspended = self._signals.was_suspended()
        if not suspended:
            progress["seconds"][progress["stage"]] += now - self._clock
        self._clock = now
        active = columns["active"]
        count = int(active.sum())
        progress["step"] += count
        progress["stage_step"] += count
        progress["pixels"] += count * settings["batch"] * settings["patch"] ** 2
        progress["refused"] += int((active & ~fine).sum())
        columns["lmbda"] = np.exp(np.log(columns["lmbda"]).mean(axis=1))
        named = {**losses, "learning_rate": columns["rate"], "lmbda": columns["lmbda"]}
        for i in np.flatnonzero(active):
            values = {k: float(v[i]) for k, v in named.items()}
            self._rows.append((values, bool(fine[i])))
            self._refused = [] if fine[i] else [*self._refused, values]
            self._stop_if_refused(settings, columns["number"][i] + 1)
        if len(self._rows) >= LOG_EVERY:
            self._report(settings)
        return suspended

    def _stop_if_refused(self, settings, step):
        """Raises GlicError after several steps in a row, up to a step, that were not finite."""
        if len(self._refused) < REFUSALS_IN_A_ROW:
            return
        values = self._refused[0]
        suspect = next((n for n, v in values.items() if not math.isfinite(v)), "a gradient")
        raise GlicError(
            f"{len(self._refused)} steps in a row were not finite, {suspect} first, at step "
            f"{step}; the last checkpoint is kept. A lower --learning-rate than "
            f"{settings['learning_rate']:g} in a new bundle may help."
        )

    # --- Reports and files ----------------------------------------------------------------------

    def _report(self, settings):
        """A row of the log from the steps since the last one, and a line on the screen."""
        good, progress = [values for values, fine in self._rows if fine], self.progress
        count, now = len(self._rows), time.monotonic()
        seconds, self._rows = max(now - self._row_clock, 1e-9), []
        waited, self._waited, self._row_clock = self._waited, 0.0, now
        if not good:
            return
        means = {n: float(np.mean([values[n] for values in good])) for n in good[0]}
        speed = count * settings["batch"] * settings["patch"] ** 2 / seconds
        row = {
            **means,
            "step": progress["step"],
            "hours": sum(progress["seconds"]) / 3600,
            "psnr": 10 * math.log10(PEAK**2 / max(means["mse"], 1e-10)),
            "pixels_per_second": speed,
            "waiting": min(1.0, waited / seconds),
            "refused": progress["refused"],
        }
        if "ms_ssim" in means:
            row["ms_ssim_db"] = float(to_db(means["ms_ssim"]))
        self._log.append(row)
        similarity = f"MS-SSIM {row['ms_ssim_db']:.2f} dB, " if "ms_ssim" in means else ""
        print(
            f"step {row['step']}: loss {row['loss']:.4f} = {row['bpp_y']:.4f} + "
            f"{row['bpp_z']:.4f} bpp, {row['psnr']:.2f} dB, {similarity}"
            f"lr {row['learning_rate']:.2e}, {speed / 1e6:.3g} Mpixel/s, "
            f"waiting {row['waiting']:.1%}, {self._fraction(settings):.1%} of the stage",
            flush=True,
        )

    def save(self):
        """Writes weights and checkpoint; what was there stays whole if this fails."""
        begun, bundle = time.monotonic(), self._bundle
        record = {
            "bundle": bundle.record["id"],
            "progress": self.progress,
            "machine": self.machine(),
        }
        half = bundle.record["half"]
        files.write_arrays(bundle.results / WEIGHTS, self.weights(), record, half)
        state = {k: self._state[k] for k in ("norm", "optimiser")}
        arrays = {f"state/{k}": v for k, v in enumerate(jax.tree.leaves(state))}
        for kind in ("weights", "average"):
            arrays.update({f"{kind}/{n}": v for n, v in self._state[kind].items()})
        arrays[QUANTILES] = self._quantiles
        files.write_arrays(bundle.results / CHECKPOINT, arrays, record)
        taken = time.monotonic() - begun
        if self._signals.was_suspended():  # that says nothing of a saving's length
            return
        if self._deadline is not None:  # the last one may take as long
            self._deadline -= max(0.0, 2 * (taken - self._saving))
        self._saving = max(self._saving, taken)

    def machine(self):
        """What trained, a dict of plain values; see docs/training.md."""
        device, progress = jax.devices()[0], self.progress
        seconds, flops = sum(progress["seconds"]), progress["flops_per_pixel"]
        speed = progress["pixels"] / max(seconds, 1e-9)
        share = None
        if flops and self._options.peak:
            share = round(flops * speed / (1e12 * self._options.peak), 4)
        return {
            "device": device.device_kind,
            "platform": jax.default_backend(),
            "jax": jax.__version__,
            "steps": progress["step"],
            "seconds": round(seconds, 2),
            "compile_seconds": round(progress["compile_seconds"], 2),
            "pixels": progress["pixels"],
            "pixels_per_second": round(speed),
            "flops_per_pixel": flops,
            "share_of_peak": share,
        }
