#!/usr/bin/env python3
"""bindings_test.py SOURCE_DIR LIBKEEL_SO NM HELLO: the shared library exports the calls of keel.h and keel_lab.h and
nothing else; the committed signatures are what bindings/generate.py writes; their structs have the sizes and offsets of
tests/abi/layout.txt; where mono is there, so do those in C#;
and a model run through ctypes writes what samples/hello.c writes."""
import ctypes
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

source, library_path, nm, hello = pathlib.Path(sys.argv[1]), *sys.argv[2:]
sys.path.insert(0, str(source / "bindings/python"))
import keel  # noqa: E402

MODEL = str(source / "samples/models/books-7m-f16.gguf")
failures = []


def expect(condition, what):
    if not condition:
        failures.append(what)


def check_exports():
    lines = subprocess.run([nm, "-D", "--defined-only", library_path], check=True, capture_output=True, text=True).stdout
    exported = {line.split()[-1].split("@")[0] for line in lines.splitlines()}
    declared = set()
    for header in ("keel.h", "keel_lab.h"):
        text = (source / "include/keel" / header).read_text()
        declared |= set(re.findall(r"^KEEL_API [\w *]*?(keel_\w+)\(", text, re.M))
    expect(exported == declared, f"exported but not declared: {exported - declared}; the reverse: {declared - exported}")


def check_generated():
    try:
        import pycparser  # noqa: F401
    except ImportError:
        print("pycparser is missing (python3-pycparser): not compared with what generate.py writes")
        return
    done = subprocess.run([sys.executable, source / "bindings/generate.py", "--check"], capture_output=True, text=True)
    expect(done.returncode == 0, done.stdout + done.stderr)


def check_layout():
    struct, compared = None, 0
    for line in (source / "tests/abi/layout.txt").read_text().splitlines():
        if line.startswith("#") or not line.strip():
            continue
        words = line.split()
        if not line.startswith(" "):
            struct = getattr(keel, words[0], None)
            if struct:  # else of the experimental part
                expect(ctypes.sizeof(struct) == int(words[1]), f"{words[0]} has {ctypes.sizeof(struct)} bytes")
        elif struct:
            field = getattr(struct, words[2], None)
            expect(field is not None and (field.offset, field.size) == (int(words[0]), int(words[1])),
                   f"{struct.__name__}.{words[2]} is {field}, not at {words[0]} with {words[1]} bytes")
            compared += 1
    expect(compared > 200, f"only {compared} fields compared")


def check_csharp():
    """Keel.cs compiles, its structs are as large as ctypes' are, and a call arrives."""
    if not shutil.which("mcs") or not shutil.which("mono"):
        print("mcs or mono is missing (mono-mcs): Keel.cs not compiled")
        return
    names = [n for n, v in vars(keel).items() if isinstance(v, type) and hasattr(v, "_fields_")]
    lines = "".join(f'Console.WriteLine("{n} " + sizeof({n}));' for n in names)
    program = "using System; using Keel; static class Sizes { static unsafe void Main() { " + lines + \
              'Console.WriteLine("version " + Native.keel_version()); } }'
    with tempfile.TemporaryDirectory() as work:
        pathlib.Path(work, "sizes.cs").write_text(program)
        subprocess.run(["mcs", "-unsafe", "-nowarn:0649,0169", f"-out:{work}/sizes.exe", f"{work}/sizes.cs",
                        source / "bindings/csharp/Keel.cs"], check=True)
        environment = dict(os.environ, LD_LIBRARY_PATH=str(pathlib.Path(library_path).parent))
        out = subprocess.run(["mono", f"{work}/sizes.exe"], check=True, capture_output=True, text=True,
                             env=environment).stdout
    version = keel.KEEL_VERSION_MAJOR << 16 | keel.KEEL_VERSION_MINOR << 8 | keel.KEEL_VERSION_PATCH
    expected = "".join(f"{n} {ctypes.sizeof(getattr(keel, n))}\n" for n in names) + f"version {version}\n"
    expect(out == expected, f"sizes in C#: {out}")


def sized(kind, **fields):
    return kind(struct_size=ctypes.sizeof(kind), **fields)


def run():
    """hello.c, call by call."""
    lib = keel.load(library_path)
    ref = ctypes.byref

    def ok(status):
        if status != keel.KEEL_OK:
            raise RuntimeError(f"{lib.keel_status_name(status)} {error.field} {error.reason}")

    error, info = sized(keel.keel_error), sized(keel.keel_model_info)
    reader = sized(keel.keel_reader)
    expect(lib.keel_reader_open_file(b"/nowhere", ref(reader)) == keel.KEEL_E_FILE_MISSING, "a file that is missing")
    ok(lib.keel_reader_open_file(MODEL.encode(), ref(reader)))
    ok(lib.keel_inspect(ref(reader), None, None, 0, None, ref(info), ref(error)))
    model_memory = (ctypes.c_uint64 * (info.model_bytes // 8))()
    model = ctypes.POINTER(keel.keel_model)()
    ok(lib.keel_inspect(ref(reader), None, model_memory, info.model_bytes, ref(model), ref(info), ref(error)))
    config = sized(keel.keel_config, context_tokens=512, weights=keel.KEEL_WEIGHTS_MAP)
    plan, memory, kept = sized(keel.keel_memory_plan), sized(keel.keel_memory), []
    ok(lib.keel_plan(ref(reader), model, ref(config), ref(plan), ref(error)))
    for slot in range(keel.KEEL_REGION_SLOTS):
        wanted = plan.regions[slot]
        if wanted.bytes:
            block = ctypes.create_string_buffer(wanted.bytes + wanted.align_bytes)
            kept.append(block)
            start = -(-ctypes.addressof(block) // wanted.align_bytes) * wanted.align_bytes
            memory.regions[slot] = keel.keel_region(start, wanted.bytes)
    engine, session = keel.keel_engine(), keel.keel_session()
    ok(lib.keel_engine_init(ref(reader), model, ref(config), ref(memory), ref(engine), ref(error)))
    ok(lib.keel_session_open(engine, None, ref(session)))
    prompt, ids, count = b"It was a dark night", (ctypes.c_int32 * 64)(), ctypes.c_size_t()
    ok(lib.keel_tokenize(engine, prompt, len(prompt), keel.KEEL_TOKENIZE_BOS, ids, 64, ref(count)))
    ok(lib.keel_session_feed(session, ids, count.value, 0))
    sampling = sized(keel.keel_sampling, temperature=0.8, repetition_penalty=1.1, seed=1)
    ok(lib.keel_session_set_sampling(session, ref(sampling)))
    out = prompt
    for _ in range(64):
        result, token, text = sized(keel.keel_advance_result), ctypes.c_int32(), sized(keel.keel_text)
        ok(lib.keel_advance(engine, ref(session), 1, 0, ref(result)))
        ok(lib.keel_session_sample(session, ref(token)))
        ok(lib.keel_session_text(session, token, ref(text)))
        out += ctypes.string_at(text.data, text.bytes) if text.bytes else b""
        if text.stopped:
            break
        ok(lib.keel_session_feed(session, ref(token), 1, 0))
    ok(lib.keel_engine_close(engine))
    expect(lib.keel_session_feed(session, ids, 1, 0) == keel.KEEL_E_HANDLE, "a closed session")
    lib.keel_reader_close(ref(reader))
    expected = subprocess.run([hello, MODEL], check=True, capture_output=True).stdout
    expect(len(out) > 60 and expected.startswith(out), f"ctypes wrote {out!r}, hello {expected!r}")


check_exports()
check_generated()
check_layout()
check_csharp()
run()
for failure in failures:
    print("FAILED:", failure)
print(f"{len(failures)} failures")
sys.exit(1 if failures else 0)
