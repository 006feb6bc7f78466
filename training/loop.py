"""The loop around the training graph: schedule, checkpoints, logs, validation, clean stops."""

from __future__ import annotations

import contextlib
import math
import signal
import sys
import threading
import time

import numpy as np
import tensorflow.compat.v1 as tf
from tqdm import tqdm

import factorized_prior
import layers
from architecture import Architecture
from errors import GlicError
from pictures.metrics import to_db
from training import cluster as training_cluster
from training import export as models_io
from training import graph as training_graph
from training import start as training_init
from training.checkpoints import Checkpoints
from training.log import (
    LMBDA_COLUMNS,
    LOG_COLUMNS,
    MS_SSIM_COLUMNS,
    VALID_COLUMNS,
    Averages,
    Summaries,
    Table,
    plot_run,
    psnr,
)
from training.photographs import Batches
from training.settings import fraction_done, lmbda_at

LOG_EVERY = 50  # steps, averaged in a row of log.csv
REFUSALS_IN_A_ROW = 5  # steps that are not finite before the run stops
SHOWN_CROPS = 4  # reconstructions in TensorBoard at each validation
NORM_DECAY = 0.99  # of the running mean of the gradients' norm
LOSSES_IN_A_ROW = 3  # of the same step on several machines, before the run stops


def _reason(error):
    """The part of a TensorFlow error that says what happened, on one line."""
    lines = [line.strip() for line in str(error).splitlines()]
    lines = [line.lstrip("= ") for line in lines if line and line != "Graph execution error:"]
    lines = list(filter(None, lines))
    return " ".join(lines[:2]) or type(error).__name__


def _close_lost(session):
    with contextlib.suppress(tf.errors.OpError):
        session.close()


class TrainingStopped(GlicError):
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
        end=1.0,
        placement=training_cluster.SINGLE,
        cluster=None,
    ):
        """Builds the graph and restores the newest checkpoint, or initialises.

        Args:
          folder: pathlib.Path of the run, which exists.
          settings: see ``settings.resolve_settings``.
          photographs: ``training_data.Photographs``.
          crops: validation images, uint8 (h, w, 3); may be empty.
          init_from: starting weights for a new run.
          valid_every: steps between validations.
          save_seconds: time between checkpoints.
          threads: of TensorFlow, 0 for all cores.
          end: share of the training at which to stop, with a checkpoint, below 1 for a part.
          placement: ``training_cluster.Placement`` of the step.
          cluster: ``training_cluster.Cluster`` of several machines, started; None for this one.
        """
        self._folder, self._settings, self._photographs = folder, settings, photographs
        self._crops, self._valid_every, self._save_seconds = crops, valid_every, save_seconds
        self._end, self._placement, self._cluster = end, placement, cluster
        self._init_from, self._config = init_from, layers.session_config(threads)
        self._stop_signal, self._suspended, self._lost_in_a_row = None, False, 0
        self._lmbda_changes = settings["lmbda_start"] is not None
        self._log = self._valid = self._summaries = None
        self._graph = tf.Graph()
        with self._graph.as_default(), tf.device(placement.host):
            tf.set_random_seed(settings["seed"])
            self._build()
        self._open_session()
        self._start()

    def _open_session(self, alone=False):
        config, target = self._config, ""
        if self._cluster:
            config, target = self._cluster.session_config(config, alone), self._cluster.target
        self._session = tf.Session(target, graph=self._graph, config=config)

    def _open_logs(self):
        if self._log:
            self._close_logs()
        more = MS_SSIM_COLUMNS if self._settings["metric"] == "ms-ssim" else []
        self._log_columns = LOG_COLUMNS + more + (LMBDA_COLUMNS if self._lmbda_changes else [])
        self._log = Table(self._folder / "log.csv", self._log_columns, self.step)
        self._valid = Table(self._folder / "valid.csv", VALID_COLUMNS + more, self.step)
        self._summaries = Summaries(self._folder / "tensorboard", self.step)

    def _build(self):
        settings = self._settings
        model = {key: settings[key] for key in ("lmbda", "metric")}
        model["architecture"] = Architecture.of(settings)
        keys = ("precision", "optimizer", "seed", "batch", "patch", "average", "quantisation")
        rest = {key: settings[key] for key in keys}
        rest["placement"] = self._placement
        self._lmbda = tf.placeholder(tf.float32, (), "lmbda")
        self._training = training_graph.build_training(**{**model, "lmbda": self._lmbda}, **rest)
        self._validation = training_graph.build_validation(**model)
        self._checkpoints = Checkpoints(self._folder, self._placement.home)
        self._initialiser = tf.global_variables_initializer()
        if self._cluster:
            initialised = [tf.is_variable_initialized(v) for v in tf.global_variables()]
            self._all_set = tf.reduce_all(tf.stack(initialised))

    def _start(self):
        """Restores the newest checkpoint, or initialises; opens the logs there."""
        self.step, self.seconds, self.refused, self._norm = 0, 0.0, 0, 0.0
        checkpoint = models_io.latest_checkpoint(self._folder)
        with self._graph.as_default(), tf.device(self._placement.host):
            if checkpoint is None:
                self._initialise()
            else:
                self._restore(checkpoint)
        self._open_logs()

    def _initialise(self):
        self._session.run(self._initialiser)
        if self._init_from is not None:
            variables = tf.trainable_variables()
            moved = training_init.transfer(self._session, variables, self._init_from)
            taken, adapted, new = moved
            print(
                f"Took {len(taken)} variables from {self._init_from}, adapted {len(adapted)} to "
                f"this one; {len(new)} start anew."
            )
            for kind, names in (("adapted", adapted), ("new", new)):
                for name in names:
                    print(f"  {kind}: {name}")
        if self._settings["quantisation"] == "rounded":
            prior = self._validation.prior
            solved = factorized_prior.solve_quantiles(self._session.run(prior))
            models_io.set_variables(self._session, [prior["quantiles"]], [solved])
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
        handlers = {s: self._on_signal for s in (signal.SIGINT, signal.SIGTERM)}
        handlers[signal.SIGCONT] = self._on_continue
        previous = {number: signal.signal(number, f) for number, f in handlers.items()}
        try:
            self._loop()
        finally:
            for number, handler in previous.items():
                signal.signal(number, handler)
            self._batches.close()
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

    def _on_continue(self, number, frame):
        del number, frame
        self._suspended = True

    def _new_batches(self):
        batch, patch, seed = (self._settings[key] for key in ("batch", "patch", "seed"))
        return Batches(self._photographs, batch, patch, seed, self.step)

    def _reconnect(self, error):
        """Goes on with a lost machine's successor: from this step, or the last checkpoint.

        The weights live on the parameter server: where that was lost they are restored. What was
        lost in the middle of an update may be updated twice, which is one more step for it.
        """
        while True:
            self._lost_in_a_row += 1
            reason = _reason(error)
            if self._lost_in_a_row > LOSSES_IN_A_ROW:
                raise TrainingStopped(
                    f"Step {self.step} failed {self._lost_in_a_row} times in a row ({reason}); "
                    "the last checkpoint is kept."
                ) from error
            print(f"Step {self.step} was lost: {reason}", flush=True)
            try:
                return self._reopen()
            except tf.errors.OpError as again:
                error = again

    def _reopen(self):
        # Its closing waits, for minutes, for what the lost machine was asked for.
        threading.Thread(target=_close_lost, args=(self._session,), daemon=True).start()
        if not self._cluster.wait(lambda: self._stop_signal is not None):
            self._reach_the_weights()
            return
        self._open_session()
        if not self._session.run(self._all_set):
            self._start()
        self._batches.close()
        self._batches = self._new_batches()
        print(f"All machines answer; training goes on at step {self.step}.", flush=True)

    def _reach_the_weights(self):
        """Prepares saving without lost workers: for a graph of the same variables and no more."""
        variables = self._graph.get_collection(tf.GraphKeys.GLOBAL_VARIABLES)
        self._graph = tf.Graph()
        with self._graph.as_default(), tf.device(self._placement.home):
            for v in variables:
                if not Checkpoints.owns(v):
                    tf.get_variable(v.op.name, v.shape, v.dtype.base_dtype, trainable=v.trainable)
            with tf.device(self._placement.host):
                self._checkpoints = Checkpoints(self._folder, self._placement.home)
        self._open_session(alone=True)

    def _loop(self):
        tty = sys.stderr.isatty()
        total = self._settings["steps"]
        bar = tqdm(total=total, initial=self.step, disable=not tty, unit="step")
        averages, in_a_row = Averages(self._batches.waited), 0
        clock = saved = time.monotonic()
        with bar:
            while self.fraction() < self._end and self._stop_signal is None:
                try:
                    values = self._one_step(self._batches.next())
                    self._lost_in_a_row = 0
                except tf.errors.OpError as error:
                    if not self._cluster:
                        raise
                    self._reconnect(error)
                    bar.n, averages = self.step, Averages(self._batches.waited)
                    clock = time.monotonic()  # waiting is no training
                    continue
                now = time.monotonic()
                if self._suspended:  # by Ctrl-Z or SIGSTOP, which is no training
                    clock, averages = now, Averages(self._batches.waited)
                    self._suspended = False
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
                    self._report(averages, bar, tty)
                    averages = Averages(self._batches.waited)
                if self.step % self._valid_every == 0 or self.fraction() >= self._end:
                    self._validate_unless_lost()
                if time.monotonic() - saved >= self._save_seconds:
                    error = self.save()
                    if error:
                        print(f"Checkpoint not saved, the previous one stays: {error}")
                    saved = time.monotonic()
            if len(averages):
                self._report(averages, bar, tty)

    def _one_step(self, pixels):
        """One step; returns what is logged, or None if it was refused."""
        training, settings = self._training, self._settings
        lmbda = lmbda_at(settings, self.fraction())
        learning_rate = settings["learning_rate"] * training_graph.schedule(
            settings["schedule"], self.fraction(), self.step, settings["warmup"]
        )
        feed = {
            training.x: pixels,
            training.step: self.step,
            training.learning_rate: learning_rate,
            self._lmbda: lmbda,
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
        return (norm, learning_rate, lmbda, *losses)

    def _report(self, averages, bar, tty):
        means, speed, waiting = averages.take(self._batches.waited)
        norm, rate, lmbda, loss, bpp_y, bpp_z, mse, *ms_ssim = means
        pixels = speed * self._settings["batch"] * self._settings["patch"] ** 2
        db = psnr(mse)
        row = [
            self.step,
            self.seconds / 3600,
            *map(float, (loss, bpp_y, bpp_z, db, rate, norm, pixels, waiting)),
            self.refused,
            *map(to_db, ms_ssim),
            *([float(lmbda)] if self._lmbda_changes else []),
        ]
        self._log.append(*row)
        self._summaries.scalars("training", self._log_columns, row)
        text = (
            f"loss {loss:.4f} = {bpp_y:.4f} + {bpp_z:.4f} bpp, {db:.2f} dB, "
            + "".join(f"MS-SSIM {to_db(value):.2f} dB, " for value in ms_ssim)
            + (f"lambda {lmbda:.4g}, " if self._lmbda_changes else "")
            + f"lr {rate:.2e}, {pixels / 1000:.0f} kpixel/s, waiting {waiting:.1%}"
        )
        if tty:
            bar.set_postfix_str(text)
        else:
            remaining = self.seconds * (1 / max(self.fraction(), 1e-9) - 1) / 3600
            print(f"step {self.step}: {text}, {remaining:.2f} h to go", flush=True)

    def _validate_unless_lost(self):
        try:
            self._validate()
        except tf.errors.OpError as error:
            if not self._cluster:
                raise
            print(f"No validation: {_reason(error)}", flush=True)

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
        row = dict(zip(VALID_COLUMNS + MS_SSIM_COLUMNS, row))
        self._checkpoints.keep_if_best(self._session, self._progress(), row)

    def close(self):
        """Closes the session and the logs."""
        self._session.close()
        self._close_logs()

    def _close_logs(self):
        self._log.close()
        self._valid.close()
        self._summaries.close()
