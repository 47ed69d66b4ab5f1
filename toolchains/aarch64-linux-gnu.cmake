# Debian's cross compiler for 64-bit ARM (package g++-aarch64-linux-gnu). Programs built with it, tests among them, run
# under qemu-user (package qemu-user), with every instruction set extension that it knows.
#     cmake --preset aarch64
set(CMAKE_SYSTEM_NAME Linux)
set(CMAKE_SYSTEM_PROCESSOR aarch64)
set(CMAKE_C_COMPILER aarch64-linux-gnu-gcc)
set(CMAKE_CXX_COMPILER aarch64-linux-gnu-g++)
set(CMAKE_FIND_ROOT_PATH /usr/aarch64-linux-gnu)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
find_program(KEEL_QEMU_AARCH64 NAMES qemu-aarch64 qemu-aarch64-static)
if(KEEL_QEMU_AARCH64)
    set(CMAKE_CROSSCOMPILING_EMULATOR ${KEEL_QEMU_AARCH64} -cpu max -L /usr/aarch64-linux-gnu)
endif()
