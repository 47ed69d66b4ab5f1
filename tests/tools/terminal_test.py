#!/usr/bin/env python3
"""terminal_test.py KEEL MODELS_DIR: the keel command on a terminal: editing and history in chat, Ctrl-C, progress."""
import os
import pty
import re
import select
import signal
import struct
import subprocess
import sys
import tempfile
import time
import fcntl
import termios

keel, models = sys.argv[1:3]
model = os.path.join(models, "books-7m-f16.gguf")
failures = 0


def expect(what, ok, seen=""):
    global failures
    if not ok:
        print(f"FAILED: {what}\n{seen!r}")
        failures += 1


class Terminal:
    """A program on a terminal of its own."""

    def __init__(self, *arguments, columns=60):
        self.pid, self.fd = pty.fork()
        if self.pid == 0:
            os.execvpe(keel, [keel, *arguments], os.environ | settings)
        fcntl.ioctl(self.fd, termios.TIOCSWINSZ, struct.pack("HHHH", 24, columns, 0, 0))
        self.seen, self.at = "", 0

    def read_until(self, pattern, seconds=60):
        """What came behind the last match, up to the next one; all that came where there is none."""
        end = time.time() + seconds
        start = self.at
        while time.time() < end:
            match = re.compile(pattern).search(self.seen, start)
            if match:
                self.at = match.end()
                return self.seen[start:self.at]
            if select.select([self.fd], [], [], 0.05)[0]:
                try:
                    data = os.read(self.fd, 4096)
                except OSError:
                    break
                if not data:
                    break
                self.seen += data.decode("utf-8", "replace")
        return self.seen[start:]

    def edits(self, seconds=5):
        """Whether the program reads keys, not lines. What is typed before it does is not edited, so this waits for it."""
        end = time.time() + seconds
        while time.time() < end:
            if not termios.tcgetattr(self.fd)[3] & termios.ICANON:
                return True
            time.sleep(0.02)
        return False

    def type(self, keys):
        os.write(self.fd, keys.encode())

    def exit_code(self):
        self.read_until(r"(?!)", 60)  # the end
        for _ in range(100):
            pid, status = os.waitpid(self.pid, os.WNOHANG)
            if pid:
                return os.waitstatus_to_exitcode(status)
            time.sleep(0.1)
        os.kill(self.pid, signal.SIGKILL)  # it does not end
        return os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])


with tempfile.TemporaryDirectory() as work:
    settings = {"TERM": "xterm", "LC_ALL": "C.UTF-8", "LSAN_OPTIONS": f"suppressions={work}/leaks"}
    with open(os.path.join(work, "leaks"), "w") as file:
        file.write("leak:wcsdup\n")  # libedit never frees the name and help of a function added to it (EL_ADDFN)
    template = os.path.join(work, "chatml.jinja")
    with open(template, "w") as file:
        file.write("{% for message in messages %}{{'<|im_start|>' + message['role'] + '\\n' + message['content'] + "
                   "'<|im_end|>' + '\\n'}}{% endfor %}")
    chat = ["chat", model, "--template", template, "-n", "4", "--min-tokens", "4", "--stats"]
    t = Terminal(*chat)
    t.read_until(r"> (?=$)")
    if t.edits() or os.environ.get("KEEL_EXPECT_EDITING"):
        t.type("Good evenning\x02\x02\x02\x02\x7f\n")  # back before the second n, and away with the first
        t.read_until(r"decode 4 tokens")
        t.read_until(r"> (?=$)")
        t.edits()
        t.type("\x1b[A")  # the line before
        expect("the line before comes back, as it was edited", "Good evening" in t.read_until(r"Good evening", 5), t.seen)
        t.type(" again\n")
        t.read_until(r"decode 4 tokens")
        t.read_until(r"> (?=$)")
        t.edits()
        t.type("\x03")
    else:
        print("skipped: editing and history, this keel was built without libedit")
        os.kill(t.pid, signal.SIGINT)
    expect("Ctrl-C at the prompt", t.exit_code() == 5, t.seen)

    t = Terminal(*chat[:3], template, "-n", "2000", "--min-tokens", "2000")
    t.read_until(r"> (?=$)")
    t.type("Tell me a story\n")
    t.read_until(r"(?s)story\r\n.{20}")
    os.kill(t.pid, signal.SIGINT)
    expect("Ctrl-C stops an answer", "[stopped]" in t.read_until(r"\[stopped\]\r\n"), t.seen)
    t.read_until(r"> (?=$)")
    t.type("/quit\n")
    expect("and the conversation goes on", t.exit_code() == 0, t.seen)

    if "KV formats" in subprocess.run([keel, "eval", "--help"], capture_output=True, text=True).stdout:
        t = Terminal("eval", "kv", model, os.path.join(models, "books-val-sample.jsonl"), "--formats", "tcq-2,q8_0", "--tokens", "1024")
        t.read_until(r"document [23] of 4")
        os.kill(t.pid, signal.SIGINT)
        expect("Ctrl-C in eval kv", t.exit_code() == 5, t.seen)
        expect("shows whole documents", re.search(r"reference  f16, [123] documents", t.seen), t.seen)
        expect("of every format", all(re.search(rf"^{name} ", t.seen, re.M) for name in ("tcq-2", "q8_0")), t.seen)

    t = Terminal("eval", "ppl", model, os.path.join(models, "books-val-sample.jsonl"), "--documents", "2", columns=40)
    code = t.exit_code()
    lines = [line for line in re.split(r"[\r\n]|\x1b\[K", t.seen) if line.startswith("scoring")]
    expect("progress is shown", code == 0 and lines, t.seen)
    expect("progress fits 40 columns", all(len(line) < 40 for line in lines), lines)
    expect("no colour", not re.search(r"\x1b\[[0-9;]*m", t.seen), t.seen)

print("terminal: ok" if failures == 0 else f"{failures} failed")
sys.exit(failures > 0)
