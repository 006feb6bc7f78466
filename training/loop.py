"""The loop around the training graph: steps by the clock, logs, validation, checkpoints."""

from __future__ import annotations

import math
import sys
import time
from typing import NamedTuple

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

import factorized_prior
import layers
from architecture import Architecture
from errors import GlicError
from pictures.metrics import to_db
from rates import Rate
from training.checkpoints import Checkpoints, latest_checkpoint, set_variables
from training.log import Averages, RunLog, plot_run, psnr
from training.losses import Losses
from training.photographs import Batches
from training.placement import SINGLE
from training.schedule import (
    fraction_done,
    lambdas_of,
    learning_rate_factor,
    lmbda_factor,
    validation_points,
)
from training.signals import Signals
from training.start import transfer
from training.step import build_training
from training.validation import build_validation, validate

LOG_EVERY = 50  # steps, averaged in a row of log.csv
REFUSALS_IN_A_ROW = 5  # steps that are not finite before the run stops
SHOWN_CROPS = 4  # reconstructions in TensorBoard at each validation
NORM_DECAY = 0.99  # of the running mean of the gradients' norm
_STEP_SETTINGS = ("precision", "optimizer", "seed", "batch", "patch", "average", "quantisation")


class TrainingStopped(GlicError):
    """Training cannot go on; the message says why and what is kept."""


class Options(NamedTuple):
    """How a run is carried out; see ``settings.OPTIONS``.

    Attributes:
      init_from: starting weights of a new run, see ``checkpoints.checkpoint_prefix``, or None.
    """

    init_from: str | None
    valid_every: int
    save_minutes: float
    cache_mib: int
    threads: int


class Loop:
    """One training run in its folder, or a part of it with crops of one size.

    Attributes:
      step: steps done, refused ones included.
      seconds: time spent training, over all resumed parts.
      refused: steps refused because they were not finite.
    """

    def __init__(self, folder, settings, photographs, crops, options, *, placement=SINGLE, end=1.0):
        """Builds the graph and restores the newest checkpoint, or initialises.

        Args:
          folder: pathlib.Path of the run, which exists.
          settings: see ``settings.resolve``.
          photographs: ``photographs.Photographs``.
          crops: validation images, uint8 (h, w, 3); may be empty.
          options: ``Options``.
          placement: ``placement.Placement`` of the step.
          end: share of the training at which to stop, with a checkpoint, below 1 for a part.
        """
        self._folder, self._settings, self._photographs = folder, settings, photographs
        self._crops, self._options, self._placement = crops, options, placement
        self._end, self._config = end, layers.session_config(options.threads)
        self._log, self._signals, self._refused_in_a_row = None, Signals(), 0
        self._graph = tf.Graph()
        with self._graph.as_default(), tf.device(placement.host):
            tf.set_random_seed(settings["seed"])
            self._build()
        self._open_session()
        self._start()

    def _build(self):
        settings, placement = self._settings, self._placement
        model = {"architecture": Architecture.of(settings), "metric": settings["metric"]}
        rest = {key: settings[key] for key in _STEP_SETTINGS}
        points, power = validation_points(settings), settings["lmbda_power"]
        self._lmbda = tf.placeholder(tf.float32, (settings["batch"],), "lmbda")
        self._delta = tf.placeholder(tf.float32, (settings["batch"],), "delta")
        delta = None if points[0][1] is None else self._delta
        rate = Rate(self._lmbda, delta, power)
        self._training = build_training(**model, rate=rate, placement=placement, **rest)
        self._validation = build_validation(**model, points=points, power=power)
        self._checkpoints = Checkpoints(self._folder, placement.home)
        self._initialiser = tf.global_variables_initializer()

    def _open_session(self):
        self._session = tf.Session(graph=self._graph, config=self._config)

    def _start(self):
        """Restores the newest checkpoint, or initialises; opens the logs there."""
        self.step, self.seconds, self.refused, self._norm = 0, 0.0, 0, 0.0
        checkpoint = latest_checkpoint(self._folder)
        with self._graph.as_default(), tf.device(self._placement.host):
            if checkpoint is None:
                self._initialise()
            else:
                self._restore(checkpoint)
        if self._log:
            self._log.close()
        self._log = RunLog(self._folder, self._settings, self.step)

    def _initialise(self):
        self._session.run(self._initialiser)
        source = self._options.init_from
        if source is not None:
            taken, adapted, new = transfer(self._session, tf.trainable_variables(), source)
            print(
                f"Took {len(taken)} variables from {source}, adapted {len(adapted)} to "
                f"this one; {len(new)} start anew."
            )
            for kind, names in (("adapted", adapted), ("new", new)):
                for name in names:
                    print(f"  {kind}: {name}")
        if self._settings["quantisation"] != "noise":
            prior = self._validation.prior
            solved = factorized_prior.solve_quantiles(self._session.run(prior))
            set_variables(self._session, [prior["quantiles"]], [solved])
        self._session.run(self._training.start_averages)

    def _restore(self, checkpoint):
        progress = self._checkpoints.restore(self._session, checkpoint)
        self.step, self.refused = int(progress["step"]), int(progress["refused"])
        self.seconds, self._norm = float(progress["seconds"]), float(progress["norm"])
        print(f"Resumed at step {self.step} after {self.seconds / 3600:.2f} hours.", flush=True)

    def _progress(self):
        values = (self.step, self.seconds, self.refused, self._norm)
        return dict(zip(("step", "seconds", "refused", "norm"), values))

    def save(self):
        """Writes a checkpoint; the previous one stays if this fails.

        Returns:
          None, or what went wrong in words.
        """
        return self._checkpoints.save(self._session, self._progress())

    def fraction(self):
        """Share of the training that is done, by steps or by hours."""
        return fraction_done(self._settings, self.step, self.seconds)

    def train(self):
        """Trains to the end of the run or part, or until a signal asks to leave; saves then.

        Returns:
          Whether the end was reached.

        Raises:
          TrainingStopped: several steps in a row were not finite, or the last save failed.
        """
        if self.fraction() >= 1:
            print("This run is complete; extend --steps or --hours to go on.")
            return True
        self._batches = self._new_batches()
        self._tty = sys.stderr.isatty()
        bar = tqdm(
            total=self._settings["steps"], initial=self.step, disable=not self._tty, unit="step"
        )
        try:
            with self._signals, bar as self._bar:
                self._saved = time.monotonic()
                self._restart_clock(self._saved)
                while self.fraction() < self._end and not self._signals.stop:
                    self._turn()
                if len(self._averages):
                    self._report()
        finally:
            self._batches.close()
        error = self.save()
        plot_run(self._folder, self._folder / "log.png")
        if error:
            raise TrainingStopped(f"The last checkpoint could not be saved: {error}")
        if self._signals.stop:
            print(f"Saved at step {self.step} after {self._signals.stop}; start again to go on.")
            return False
        return True

    def _new_batches(self):
        batch, patch, seed = (self._settings[key] for key in ("batch", "patch", "seed"))
        return Batches(self._photographs, batch, patch, seed, self.step)

    def _restart_clock(self, now):
        """What has passed since the last step was no training: it does not count."""
        self._clock, self._averages = now, Averages(self._batches.waited)

    def _turn(self):
        """A step and what is due after it."""
        values = self._one_step(self._batches.next())
        now = time.monotonic()
        self._refused_in_a_row = 0 if values else self._refused_in_a_row + 1
        if values:
            self._averages.add(values)
        if self._signals.was_suspended():  # then nobody knows how long this step took
            self._restart_clock(now)
        self.seconds, self._clock = self.seconds + now - self._clock, now
        if self._refused_in_a_row >= REFUSALS_IN_A_ROW:
            raise TrainingStopped(
                f"{self._refused_in_a_row} steps in a row were not finite, {self._suspect} first; "
                "the last checkpoint is kept. A lower --learning-rate may help."
            )
        self._bar.update(self.step - self._bar.n)
        if len(self._averages) >= LOG_EVERY:
            self._report()
        if self.step % self._options.valid_every == 0 or self.fraction() >= self._end:
            self._validate()
        if time.monotonic() - self._saved >= 60 * self._options.save_minutes:
            error = self.save()
            if error:
                print(f"Checkpoint not saved, the previous one stays: {error}")
            self._saved = time.monotonic()

    def _one_step(self, pixels):
        """One step; returns what is logged as a dict, or None if it was refused."""
        training, settings = self._training, self._settings
        lambdas, deltas = lambdas_of(settings, self.step)
        lambdas = lambdas * lmbda_factor(settings, self.fraction())
        learning_rate = settings["learning_rate"] * learning_rate_factor(
            settings["schedule"], self.fraction(), self.step, settings["warmup"]
        )
        feed = {
            training.x: pixels,
            training.step: self.step,
            training.learning_rate: learning_rate,
            self._lmbda: lambdas,
            self._delta: deltas,
            training.clip_norm: settings["clip"] * self._norm if self._norm else np.inf,
        }
        fetches = [training.losses.given(), training.gradient_norm, training.finite, training.train]
        losses, norm, finite, _ = self._session.run(fetches, feed)
        if not finite:
            suspects = self._session.run(training.suspects, feed)
            self._suspect = next((k for k, ok in suspects.items() if not ok), "the gradients' norm")
            self.refused += 1
            print(f"Step {self.step} refused: {self._suspect} is not finite.", flush=True)
        else:
            bounded = min(float(norm), settings["clip"] * self._norm or math.inf)
            self._norm = NORM_DECAY * (self._norm or bounded) + (1 - NORM_DECAY) * bounded
        self.step += 1
        lmbda = float(np.exp(np.mean(np.log(lambdas))))  # of a range its middle
        rates = {"gradient_norm": norm, "learning_rate": learning_rate, "lmbda": lmbda}
        return {**losses, **rates} if finite else None

    def _report(self):
        """A row of the log from the steps since the last one, and a line on the screen."""
        means, speed, waiting = self._averages.take(self._batches.waited)
        self._averages = Averages(self._batches.waited)
        loss = Losses(**{name: means[name] for name in Losses._fields if name in means})
        row = {
            **means,
            "step": self.step,
            "hours": self.seconds / 3600,
            "psnr": psnr(loss.mse),
            "pixels_per_second": speed * self._settings["batch"] * self._settings["patch"] ** 2,
            "waiting": waiting,
            "refused": self.refused,
        }
        similarity = lmbda = ""
        if loss.ms_ssim is not None:
            row["ms_ssim_db"] = to_db(loss.ms_ssim)
            similarity = f"MS-SSIM {row['ms_ssim_db']:.2f} dB, "
        if self._settings["lmbda_start"] is not None:
            lmbda = f"lambda {row['lmbda']:.4g}, "
        self._log.add("training", row)
        text = (
            f"loss {loss.loss:.4f} = {loss.bpp_y:.4f} + {loss.bpp_z:.4f} bpp, "
            f"{row['psnr']:.2f} dB, {similarity}{lmbda}lr {row['learning_rate']:.2e}, "
            f"{row['pixels_per_second'] / 1000:.0f} kpixel/s, waiting {waiting:.1%}"
        )
        if self._tty:
            self._bar.set_postfix_str(text)
        else:
            remaining = self.seconds * (1 / max(self.fraction(), 1e-9) - 1) / 3600
            print(f"step {self.step}: {text}, {remaining:.2f} h to go", flush=True)

    def _validate(self):
        """Validates, logs it, and keeps the weights if they are the best so far."""
        if not self._crops:
            return
        means, shown = validate(self._session, self._validation, self._crops)
        row = {"step": self.step, "hours": self.seconds / 3600, **means}
        self._log.add("validation", row, shown[:SHOWN_CROPS])
        text = f"validation loss {row['loss']:.4f}, {row['bpp']:.4f} bpp, {row['psnr']:.2f} dB"
        if "ms_ssim_db" in row:
            text += f", MS-SSIM {row['ms_ssim_db']:.2f} dB"
        print(f"step {self.step}: {text}", flush=True)
        self._checkpoints.keep_if_best(self._session, self._progress(), row)

    def close(self):
        """Closes the session and the logs."""
        self._session.close()
        self._log.close()
