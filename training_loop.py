"""The loop around the training graph: schedule, checkpoints, logs, validation, clean stops."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

import factorized_prior
import models_io
import training_graph
import training_init
from metrics import to_db
from training_data import Batches
from training_log import (
    LOG_COLUMNS,
    MS_SSIM_COLUMNS,
    VALID_COLUMNS,
    Averages,
    Summaries,
    Table,
    plot_run,
    psnr,
)

LOG_EVERY = 50  # steps, averaged in a row of log.csv
REFUSALS_IN_A_ROW = 5  # steps that are not finite before the run stops
CHECKPOINTS = 2  # kept
SHOWN_CROPS = 4  # reconstructions in TensorBoard at each validation
NORM_DECAY = 0.99  # of the running mean of the gradients' norm


class TrainingStopped(RuntimeError):
    """Training cannot go on; the message says why and what is kept."""


class Run:
    """One training run in its folder.

    Attributes:
      step: steps done, refused ones included.
      seconds: time spent training, over all resumed parts.
      refused: steps refused because they were not finite.
    """

    def __init__(
        self,
        folder,
        settings,
        photographs,
        crops,
        *,
        init_from=None,
        valid_every=2000,
        save_seconds=600.0,
        threads=0,
    ):
        """Builds the graph and restores the newest checkpoint, or initialises.

        Args:
          folder: pathlib.Path of the run, which exists.
          settings: see ``train.resolve_settings``.
          photographs: ``training_data.Photographs``.
          crops: validation images, uint8 (h, w, 3); may be empty.
          init_from: starting weights for a new run.
          valid_every: steps between validations.
          save_seconds: time between checkpoints.
          threads: of TensorFlow, 0 for all cores.
        """
        self._folder, self._settings, self._photographs = folder, settings, photographs
        self._crops, self._valid_every, self._save_seconds = crops, valid_every, save_seconds
        self._stop_signal = None
        self.step, self.seconds, self.refused, self._norm = 0, 0.0, 0, 0.0
        self._graph = tf.Graph()
        with self._graph.as_default():
            tf.set_random_seed(settings["seed"])
            self._build()
            self._session = tf.Session(config=training_graph.session_config(threads))
            self._start(init_from)
        more = MS_SSIM_COLUMNS if settings["metric"] == "ms-ssim" else []
        self._log = Table(folder / "log.csv", LOG_COLUMNS + more, self.step)
        self._valid = Table(folder / "valid.csv", VALID_COLUMNS + more, self.step)
        self._summaries = Summaries(folder / "tensorboard", self.step)

    def _build(self):
        settings = self._settings
        model = {key: settings[key] for key in ("family", "num_filters", "lmbda", "metric")}
        keys = ("precision", "optimizer", "seed", "batch", "patch", "average", "quantisation")
        rest = {key: settings[key] for key in keys}
        self._training = training_graph.build_training(**model, **rest)
        self._validation = training_graph.build_validation(**model)
        with tf.variable_scope("progress"):
            kinds = {
                "step": tf.int64,
                "seconds": tf.float64,
                "refused": tf.int64,
                "norm": tf.float64,
            }
            self._progress = {
                name: tf.get_variable(name, (), kind, tf.initializers.zeros(), trainable=False)
                for name, kind in kinds.items()
            }
        self._saver = tf.train.Saver(max_to_keep=CHECKPOINTS, save_relative_paths=True)
        # The optimiser's state is left out: best weights are exported, not trained on.
        scope = f"{training_graph.AVERAGE_SCOPE}/"
        kept = [v for v in tf.global_variables() if v.op.name.startswith(scope)]
        kept += tf.trainable_variables() + list(self._progress.values())
        self._best_saver = tf.train.Saver(kept, max_to_keep=None)

    def _start(self, init_from):
        checkpoint = models_io.latest_checkpoint(self._folder)
        if checkpoint is None:
            self._session.run(tf.global_variables_initializer())
            if init_from is not None:
                variables = tf.trainable_variables()
                taken, adapted, new = training_init.transfer(self._session, variables, init_from)
                print(
                    f"Took {len(taken)} variables from {init_from}, adapted {len(adapted)} to this "
                    f"family; {len(new)} start anew."
                )
                for kind, names in (("adapted", adapted), ("new", new)):
                    for name in names:
                        print(f"  {kind}: {name}")
            self._session.run(self._training.start_averages)
            return
        try:
            self._saver.restore(self._session, checkpoint)
        except (tf.errors.OpError, ValueError) as error:
            raise ValueError(
                f"The checkpoint {checkpoint} is damaged or from another version of train.py; "
                f"start a new run with --init-from {self._folder}."
            ) from error
        kept = tf.train.get_checkpoint_state(str(self._folder)).all_model_checkpoint_paths
        self._saver.recover_last_checkpoints(kept)
        progress = self._session.run(self._progress)
        self.step, self.refused = int(progress["step"]), int(progress["refused"])
        self.seconds, self._norm = float(progress["seconds"]), float(progress["norm"])
        print(f"Resumed at step {self.step} after {self.seconds / 3600:.2f} hours.")

    def save(self):
        """Writes a checkpoint; the previous one stays if this fails.

        Returns:
          None, or what went wrong in words.
        """
        return self._save(self._saver, "step")

    def _save(self, saver, kind, **options):
        values = {
            "step": self.step,
            "seconds": self.seconds,
            "refused": self.refused,
            "norm": self._norm,
        }
        variables = [self._progress[name] for name in values]
        models_io.set_variables(self._session, variables, values.values())
        prefix = str(self._folder / kind)
        try:
            with self._graph.as_default():
                saver.save(self._session, prefix, self.step, write_meta_graph=False, **options)
        except (tf.errors.OpError, OSError, ValueError) as error:
            self._remove(f"{kind}-{self.step}.*")
            return str(error).strip().splitlines()[0]
        return None

    def _remove(self, pattern, keep=None):
        for part in self._folder.glob(pattern):
            if part.stem != keep:
                with contextlib.suppress(OSError):
                    part.unlink()

    def _keep_if_best(self, row):
        """Saves the weights if no validation before (a dict like a row of valid.csv) was better."""
        best = models_io.best_checkpoint(self._folder)[1]
        if best and best["loss"] <= row["loss"]:
            return
        error = self._save(self._best_saver, "best", write_state=False)
        if error:
            print(f"Best weights not saved, the previous ones stay: {error}")
            return
        # In this order, so that the record always names a whole checkpoint.
        models_io.write_json(self._folder / models_io.BEST_RECORD, row)
        self._remove("best-*.*", keep=f"best-{self.step}")

    def fraction(self):
        """Share of the training that is done, by steps or by hours."""
        if self._settings["steps"] is not None:
            return self.step / self._settings["steps"]
        return self.seconds / (3600 * self._settings["hours"])

    def train(self):
        """Trains until the end, or until a signal asks to leave; saves in both cases.

        Returns:
          Whether the training is complete.

        Raises:
          TrainingStopped: several steps in a row were not finite, or the last save failed.
        """
        if self.fraction() >= 1:
            print("This run is complete; extend --steps or --hours to go on.")
            return True
        batches = Batches(
            self._photographs, self._settings["batch"], self._settings["seed"], self.step
        )
        previous = {s: signal.signal(s, self._on_signal) for s in (signal.SIGINT, signal.SIGTERM)}
        try:
            self._loop(batches)
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            batches.close()
        error = self.save()
        plot_run(self._folder, self._folder / "log.png")
        if error:
            raise TrainingStopped(f"The last checkpoint could not be saved: {error}")
        if self._stop_signal is not None:
            print(f"Saved at step {self.step} after {self._stop_signal}; start again to go on.")
            return False
        return True

    def _on_signal(self, number, frame):
        del frame
        self._stop_signal = signal.Signals(number).name
        signal.signal(signal.SIGINT, signal.default_int_handler)  # a second Ctrl-C ends at once

    def _loop(self, batches):
        tty = sys.stderr.isatty()
        total = self._settings["steps"]
        bar = tqdm(total=total, initial=self.step, disable=not tty, unit="step")
        averages, in_a_row = Averages(batches.waited), 0
        clock = saved = time.monotonic()
        with bar:
            while self.fraction() < 1 and self._stop_signal is None:
                values = self._one_step(batches.next())
                now = time.monotonic()
                self.seconds, clock = self.seconds + now - clock, now
                in_a_row = 0 if values else in_a_row + 1
                if values:
                    averages.add(*values)
                elif in_a_row >= REFUSALS_IN_A_ROW:
                    raise TrainingStopped(
                        f"{in_a_row} steps in a row were not finite, {self._suspect} first; the "
                        f"last checkpoint is kept. A lower --learning-rate may help."
                    )
                bar.update()
                if len(averages) >= LOG_EVERY:
                    self._report(averages, batches.waited, bar, tty)
                    averages = Averages(batches.waited)
                if self.step % self._valid_every == 0 or self.fraction() >= 1:
                    self._validate()
                if time.monotonic() - saved >= self._save_seconds:
                    error = self.save()
                    if error:
                        print(f"Checkpoint not saved, the previous one stays: {error}")
                    saved = time.monotonic()
            if len(averages):
                self._report(averages, batches.waited, bar, tty)

    def _one_step(self, pixels):
        """One step; returns what is logged, or None if it was refused."""
        training, settings = self._training, self._settings
        learning_rate = settings["learning_rate"] * training_graph.schedule(
            settings["schedule"], self.fraction(), self.step, settings["warmup"]
        )
        feed = {
            training.x: pixels,
            training.step: self.step,
            training.learning_rate: learning_rate,
            training.clip_norm: settings["clip"] * self._norm if self._norm else np.inf,
        }
        _, losses, norm, finite = self._session.run(
            [training.train, training.losses, training.gradient_norm, training.finite], feed
        )
        if not finite:
            suspects = self._session.run(training.suspects, feed)
            self._suspect = next((k for k, ok in suspects.items() if not ok), "the gradients' norm")
            self.refused += 1
            print(f"Step {self.step} refused: {self._suspect} is not finite.", flush=True)
        else:
            bounded = min(float(norm), settings["clip"] * self._norm or math.inf)
            self._norm = NORM_DECAY * (self._norm or bounded) + (1 - NORM_DECAY) * bounded
        self.step += 1
        if not finite:
            return None
        return (norm, learning_rate, *losses)

    def _report(self, averages, waited, bar, tty):
        (norm, rate, loss, bpp_y, bpp_z, mse, *ms_ssim), speed, waiting = averages.take(waited)
        pixels = speed * self._settings["batch"] * self._settings["patch"] ** 2
        db = psnr(mse)
        row = [
            self.step,
            self.seconds / 3600,
            *map(float, (loss, bpp_y, bpp_z, db, rate, norm, pixels, waiting)),
            self.refused,
            *map(to_db, ms_ssim),
        ]
        self._log.append(*row)
        self._summaries.scalars("training", LOG_COLUMNS + MS_SSIM_COLUMNS, row)
        text = (
            f"loss {loss:.4f} = {bpp_y:.4f} + {bpp_z:.4f} bpp, {db:.2f} dB, "
            + "".join(f"MS-SSIM {to_db(value):.2f} dB, " for value in ms_ssim)
            + f"lr {rate:.2e}, {pixels / 1000:.0f} kpixel/s, waiting {waiting:.1%}"
        )
        if tty:
            bar.set_postfix_str(text)
        else:
            remaining = self.seconds * (1 / max(self.fraction(), 1e-9) - 1) / 3600
            print(f"step {self.step}: {text}, {remaining:.2f} h to go", flush=True)

    def _validate(self):
        """Appends the mean over the validation crops, coded as in reality, to valid.csv."""
        if not self._crops:
            return
        graph = self._validation
        prior = self._session.run(graph.prior)
        medians = factorized_prior.medians_of(factorized_prior.solve_quantiles(prior))
        fetches = [graph.losses, graph.x_hat]
        coded = [
            self._session.run(fetches, {graph.x: crop[None], graph.medians: medians})
            for crop in self._crops
        ]
        losses = [row for row, _ in coded]
        loss, bpp_y, bpp_z, *_ = map(float, np.mean(losses, axis=0))
        decibels = [float(np.mean([psnr(row.mse) for row in losses]))]
        text = f"validation loss {loss:.4f}, {bpp_y + bpp_z:.4f} bpp, {decibels[0]:.2f} dB"
        if self._settings["metric"] == "ms-ssim":
            decibels.append(float(np.mean([to_db(row.ms_ssim) for row in losses])))
            text += f", MS-SSIM {decibels[1]:.2f} dB"
        rates = (bpp_y + bpp_z, bpp_y, bpp_z)
        row = (self.step, self.seconds / 3600, loss, *rates, *decibels)
        self._valid.append(*row)
        self._summaries.scalars("validation", VALID_COLUMNS + MS_SSIM_COLUMNS, row)
        shown = [x_hat[0] for _, x_hat in coded[:SHOWN_CROPS]]
        self._summaries.images("validation", shown, self.step)
        print(f"step {self.step}: {text}", flush=True)
        self._keep_if_best(dict(zip(VALID_COLUMNS + MS_SSIM_COLUMNS, row)))

    def close(self):
        """Closes the session and the logs."""
        self._session.close()
        self._log.close()
        self._valid.close()
        self._summaries.close()
