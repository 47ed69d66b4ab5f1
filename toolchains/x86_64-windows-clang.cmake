# 64-bit Windows from Linux: Debian's clang and lld with the headers and libraries of mingw-w64 (packages clang, lld and
# g++-mingw-w64-x86-64-posix, of which GCC itself is not used: see CMakeLists.txt). Programs, tests among them, run under wine
# (package wine64).
#     cmake --preset windows
# On Windows, or with llvm-mingw, nothing of this is needed: cmake -DCMAKE_CXX_COMPILER=clang++ -DCMAKE_C_COMPILER=clang.
set(CMAKE_SYSTEM_NAME Windows)
set(CMAKE_SYSTEM_PROCESSOR x86_64)
set(CMAKE_C_COMPILER clang)
set(CMAKE_CXX_COMPILER clang++)
set(CMAKE_C_COMPILER_TARGET x86_64-w64-windows-gnu)
set(CMAKE_CXX_COMPILER_TARGET x86_64-w64-windows-gnu)
set(CMAKE_RC_COMPILER x86_64-w64-mingw32-windres)
# Clang 14 does not find what Debian keeps under a name with the kind of threads in it.
file(GLOB KEEL_MINGW_DIR /usr/lib/gcc/x86_64-w64-mingw32/*-posix)
set(CMAKE_CXX_FLAGS_INIT "-isystem ${KEEL_MINGW_DIR}/include/c++ -isystem ${KEEL_MINGW_DIR}/include/c++/x86_64-w64-mingw32")
foreach(kind EXE SHARED MODULE)
    set(CMAKE_${kind}_LINKER_FLAGS_INIT "-fuse-ld=lld -static -L${KEEL_MINGW_DIR}")
endforeach()
# In the cache, or the first configuration puts what CMake has for GCC in its place (policy CMP0126).
set(CMAKE_CXX_STANDARD_LIBRARIES "-lstdc++ -lpthread" CACHE STRING "")
set(CMAKE_FIND_ROOT_PATH /usr/x86_64-w64-mingw32)
set(CMAKE_FIND_ROOT_PATH_MODE_PROGRAM NEVER)
set(CMAKE_FIND_ROOT_PATH_MODE_LIBRARY ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_INCLUDE ONLY)
set(CMAKE_FIND_ROOT_PATH_MODE_PACKAGE ONLY)
find_program(KEEL_WINE NAMES wine64 wine PATHS /usr/lib/wine)
if(KEEL_WINE)
    set(CMAKE_CROSSCOMPILING_EMULATOR ${KEEL_WINE})
endif()
