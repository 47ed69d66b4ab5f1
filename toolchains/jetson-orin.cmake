# NVIDIA Jetson Orin from a PC: the host's code for 64-bit ARM by Debian's cross compiler (package g++-aarch64-linux-gnu), the GPU's for
# sm_87 by this machine's nvcc. On the Jetson itself no toolchain file is needed: -DKEEL_CUDA=ON -DKEEL_CUDA_ARCHITECTURES=87.
#     cmake -G Ninja -S . -B build/orin -DCMAKE_TOOLCHAIN_FILE=toolchains/jetson-orin.cmake -DCMAKE_BUILD_TYPE=Release -DKEEL_CUDA=ON
#         -DKEEL_BUILD_TOOLS=OFF -DKEEL_BUILD_TESTS=OFF -DKEEL_BUILD_PERF=OFF
include(${CMAKE_CURRENT_LIST_DIR}/aarch64-linux-gnu.cmake)
set(KEEL_CUDA_ARCHITECTURES 87 CACHE STRING "Jetson Orin: code for desktop GPUs does not run on it")
set(KEEL_CUDA_PTX "" CACHE STRING "")
