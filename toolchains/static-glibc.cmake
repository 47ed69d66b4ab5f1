# Programs without any shared library, for containers and initramfs images: the machine's own compilers, glibc's static
# archives (in libc6-dev on Debian). Keel uses nothing of glibc that needs a shared library at run time (no name service,
# locales or dlopen).
#     cmake -S . -B build/static -DCMAKE_TOOLCHAIN_FILE=$PWD/toolchains/static-glibc.cmake
# The library and the C samples; the keel command counts allocations by replacing malloc, which a static libc forbids.
# musl would be the smaller choice, but Debian has no C++ headers for it, which the build of libkeel.a needs.
set(CMAKE_EXE_LINKER_FLAGS_INIT "-static")
set(CMAKE_FIND_LIBRARY_SUFFIXES .a)
set(CMAKE_DISABLE_FIND_PACKAGE_mimalloc ON)  # Debian has it as a shared library only: no keel::memory here
set(KEEL_BUILD_TOOLS OFF CACHE BOOL "")
