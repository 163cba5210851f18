"""The progress of the complete comparison: a bar on a terminal, otherwise a line for each task."""

import sys
import time

from tqdm import tqdm

from minicnn.console import SafeStream, show


class Progress:
    """Progress over tasks of very different length, each weighted by its expected seconds."""

    def begin(self, total, tasks, missing):
        self.count, self.total = total - len(missing), total
        self.work = sum(task.cost for task in tasks)
        self.left = sum(task.cost for task in missing)
        self.started, self.at_start = time.perf_counter(), self.left
        if self.count:
            self.say(f"{self.count} of {total} results were there before")
        shape = "{desc} {percentage:3.0f} %|{bar}| {elapsed} elapsed, {remaining} left"
        stream = SafeStream(sys.stderr)
        self.bar = tqdm(total=self.at_start, bar_format=shape, file=stream, disable=not stream.isatty())

    def start(self, task):
        self.task, self.task_done = task, 0.0
        self.bar.set_description_str(f"{self.count + 1}/{self.total} {task.name}")

    def advance(self, fraction):
        """Count a fraction of the current task as done."""
        fraction = min(fraction, 1 - self.task_done)
        self.task_done += fraction
        self.bar.update(self.task.cost * fraction)

    def finish(self, task, result, seconds):
        self.advance(1.0)
        self.count += 1
        self.left -= task.cost
        done = self.at_start - self.left
        seconds_left = (time.perf_counter() - self.started) / done * self.left if done else 0
        accuracy = f"{100 * result['test_accuracy']:.1f} % on test, " if "test_accuracy" in result else ""
        if result.get("diverged"):
            accuracy = "diverged, "
        percent = 100 * (1 - self.left / self.work)
        self.say(
            f"[{self.count}/{self.total}] {task.name}: {accuracy}{seconds:.1f} s; {percent:.0f} % of the work done, "
            f"about {int(seconds_left) // 60} min {int(seconds_left) % 60:02d} s left"
        )

    def say(self, text):
        with tqdm.external_write_mode():  # the bar is drawn again below the line
            show(text)

    def close(self):
        self.bar.close()
