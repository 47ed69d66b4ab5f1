#!/usr/bin/env python3
"""generate.py [--check]: signatures of include/keel/keel.h for other languages, without its experimental part.

    bindings/python/keel.py       ctypes
    bindings/csharp/Keel.cs       P/Invoke; structs are blittable, so `unsafe` and no marshalling

Both name everything as the C header does, and hold no code of their own. --check compares instead of writing; the exit
code is 1 when a file is not what this script writes. Needs pycparser and a C compiler (CC).
"""
import os
import pathlib
import re
import subprocess
import sys
import tempfile

from pycparser import c_ast, c_parser

ROOT = pathlib.Path(__file__).resolve().parent.parent
HEADER = ROOT / "include/keel/keel.h"
NOTE = "Written by bindings/generate.py from include/keel/keel.h, which is the manual. Do not edit."
NUMBERS = "int8_t uint8_t int16_t uint16_t int32_t uint32_t int64_t uint64_t".split()


def parse():
    """The header's declarations. Types of the standard library are declared empty: only their names are looked at."""
    with tempfile.TemporaryDirectory() as empty:
        types = "".join(f"typedef int {name};\n" for name in NUMBERS + ["size_t", "intptr_t"])
        for name in ("stddef.h", "stdint.h"):
            pathlib.Path(empty, name).write_text(types if name == "stdint.h" else "")
        text = subprocess.run([os.environ.get("CC", "cc"), "-E", "-P", "-nostdinc", "-I", empty, HEADER], check=True,
                              capture_output=True, text=True).stdout
    return c_parser.CParser().parse(text)


class Header:
    """What the shared library exports, and what it takes to call it. constants: name -> number; enums: name -> [(enumerator, number)]; structs: name -> [(field, type)], empty when
    opaque; functions: name -> (result type, [(parameter, type)]). Types are pycparser's."""

    def __init__(self):
        self.constants, self.enums, self.structs, self.functions = {}, {}, {}, {}
        for name, number in re.findall(r"^#define (KEEL_\w+) (\d+|0x[0-9a-f]+)u?$", HEADER.read_text(), re.M):
            self.constants[name] = int(number, 0)
        for node in parse().ext:
            self.take(node)
        exported = set(re.findall(r"^KEEL_API [\w *]*?(keel_\w+)\(", HEADER.read_text(), re.M))
        self.functions = {name: f for name, f in self.functions.items() if name in exported}

    def take(self, node):
        declared = node.type
        if isinstance(declared, c_ast.FuncDecl):
            parameters = [(p.name, p.type) for p in declared.args.params if not self.is_void(p.type)]
            self.functions[node.name] = (declared.type, parameters)
            return
        inner = declared.type if isinstance(declared, c_ast.TypeDecl) else declared
        if isinstance(inner, c_ast.Struct):
            fields = [(f.name, f.type) for f in inner.decls or []]
            if fields:  # in the order of definitions, which is that of use
                self.structs.pop(inner.name, None)
            self.structs.setdefault(inner.name, fields)
        elif isinstance(inner, c_ast.Enum):
            members, number = [], 0
            for member in inner.values.enumerators:
                number = self.number(member.value) if member.value else number
                members.append((member.name, number))
                number += 1
            if inner.name:
                self.enums[inner.name] = members
            else:
                self.constants.update(members)

    @staticmethod
    def number(node):
        return int(node.value.rstrip("uUlL"), 0)

    @staticmethod
    def is_void(node):
        return isinstance(node, c_ast.TypeDecl) and Header.name_of(node) == "void"

    @staticmethod
    def name_of(node):
        """The name of a type that is no pointer, array or function."""
        inner = node.type
        return inner.names[0] if isinstance(inner, c_ast.IdentifierType) else inner.name


# ---- ctypes ----

class Python:
    SCALARS = {"int": "c_int", "float": "c_float", "double": "c_double", "char": "c_char", "size_t": "c_size_t",
               **{name: "c_" + name[:-2] for name in NUMBERS}}

    def __init__(self, header):
        self.header = header

    def type(self, node, parameter=False):
        if isinstance(node, c_ast.ArrayDecl):
            return f"{self.type(node.type)} * {Header.number(node.dim)}"
        if isinstance(node, c_ast.PtrDecl):
            target = node.type
            if isinstance(target, c_ast.FuncDecl):
                arguments = [self.result(target.type)] + [self.type(p.type) for p in target.args.params]
                return f"ctypes.CFUNCTYPE({', '.join(arguments)})"
            if Header.is_void(target):
                return "ctypes.c_void_p"
            constant = isinstance(target, c_ast.TypeDecl) and "const" in target.quals
            if parameter and constant and Header.name_of(target) == "char":
                return "ctypes.c_char_p"  # takes bytes
            return f"ctypes.POINTER({self.type(target)})"
        name = Header.name_of(node)
        if name in self.header.enums:
            return "ctypes.c_int"
        return "ctypes." + self.SCALARS[name] if name in self.SCALARS else name

    def result(self, node):
        return "None" if Header.is_void(node) else self.type(node, parameter=True)

    def text(self):
        out = [f'"""{NOTE}', "", "    keel = load(\"libkeel.so\")", "    keel.keel_version()", '"""', "import ctypes", ""]
        for name, number in self.header.constants.items():
            out.append(f"{name} = {number}")
        for enum, members in self.header.enums.items():
            out += ["", f"# {enum}"] + [f"{name} = {number}" for name, number in members]
        out.append("")
        for name in self.header.structs:
            out += ["", f"class {name}(ctypes.Structure):", "    pass", ""]
        for name, fields in self.header.structs.items():
            if fields:
                out += ["", f"{name}._fields_ = ["] + [f'    ("{f}", {self.type(t)}),' for f, t in fields] + ["]"]
        out += ["", "", "def load(path):", '    """The library at `path`, every function with its types."""',
                "    library = ctypes.CDLL(path)"]
        for name, (result, parameters) in self.header.functions.items():
            types = ", ".join(self.type(t, parameter=True) for _, t in parameters)
            out += [f"    library.{name}.restype = {self.result(result)}", f"    library.{name}.argtypes = [{types}]"]
        return "\n".join(out + ["    return library", ""])


# ---- C# ----

class CSharp:
    SCALARS = {"int": "int", "float": "float", "double": "double", "char": "byte", "size_t": "UIntPtr",
               "int8_t": "sbyte", "uint8_t": "byte", "int16_t": "short", "uint16_t": "ushort", "int32_t": "int",
               "uint32_t": "uint", "int64_t": "long", "uint64_t": "ulong", "void": "void"}
    RESERVED = "base event fixed in out params ref string".split()

    def __init__(self, header):
        self.header, self.delegates = header, []

    def type(self, node, name=""):
        """`name`: of the field, for a function pointer, whose delegate is named after it."""
        if isinstance(node, c_ast.PtrDecl):
            if isinstance(node.type, c_ast.FuncDecl):
                if name:
                    self.delegates.append((name, node.type))
                return "IntPtr"
            return self.type(node.type) + "*"
        plain = Header.name_of(node)
        return self.SCALARS.get(plain, plain)

    def word(self, name):
        return "@" + name if name in self.RESERVED else name

    def field(self, struct, name, node):
        if not isinstance(node, c_ast.ArrayDecl):
            return f"public {self.type(node, struct + '_' + name)} {self.word(name)};"
        count, element = Header.number(node.dim), self.type(node.type)
        if element in self.header.structs:  # a fixed buffer holds numbers only: &regions_0 is the array
            return "public " + element + " " + ", ".join(f"{name}_{i}" for i in range(count)) + ";"
        return f"public fixed {element} {self.word(name)}[{count}];"

    def parameters(self, parameters):
        return ", ".join(f"{self.type(t)} {self.word(n)}" for n, t in parameters)

    def text(self):
        out = [f"// {NOTE}", "// Delegates belong to fields of the same name: Marshal.GetFunctionPointerForDelegate.", "using System;",
               "using System.Runtime.InteropServices;", "", "namespace Keel", "{"]
        for enum, members in self.header.enums.items():
            out += [f"    public enum {enum} : int", "    {"]
            out += [f"        {name} = {number}," for name, number in members] + ["    }", ""]
        for struct, fields in self.header.structs.items():
            out += ["    [StructLayout(LayoutKind.Sequential)]", f"    public unsafe struct {struct}", "    {"]
            out += ["        " + self.field(struct, name, node) for name, node in fields] + ["    }", ""]
        for name, function in self.delegates:
            parameters = self.parameters([(p.name, p.type) for p in function.args.params])
            out += ["    [UnmanagedFunctionPointer(CallingConvention.Cdecl)]",
                    f"    public unsafe delegate {self.type(function.type)} {name}({parameters});", ""]
        out += ["    public static unsafe class Native", "    {",
                '        public const string Library = "keel";  // libkeel.so, keel.dll']
        out += [f"        public const uint {name} = {number};" for name, number in self.header.constants.items()]
        for name, (result, parameters) in self.header.functions.items():
            out += ["", "        [DllImport(Library, CallingConvention = CallingConvention.Cdecl)]",
                    f"        public static extern {self.type(result)} {name}({self.parameters(parameters)});"]
        return "\n".join(out + ["    }", "}", ""])


def main():
    header = Header()
    same = True
    for path, language in ((ROOT / "bindings/python/keel.py", Python), (ROOT / "bindings/csharp/Keel.cs", CSharp)):
        text = language(header).text()
        if "--check" not in sys.argv:
            path.write_text(text)
        elif path.read_text() != text:
            print(f"{path} is not what bindings/generate.py writes: run it")
            same = False
    return 0 if same else 1


if __name__ == "__main__":
    sys.exit(main())
