# libkeel_cuda.a: the CUDA backend (include/keel/keel_cuda.h) with its kernels as one fatbin. Needs nvcc to build and nothing of CUDA to
# link: the driver is found when an engine is made. KEEL_CUDA_ARCHITECTURES says for which GPUs there is machine code; those that follow
# the last one start from its PTX.
set(KEEL_CUDA_ARCHITECTURES "80;87;89;90;120" CACHE STRING "Compute capabilities that libkeel_cuda has machine code for (80 runs on 86)")
set(KEEL_CUDA_PTX "90" CACHE STRING "Compute capability whose PTX is in libkeel_cuda for later GPUs (empty: none)")
find_program(KEEL_NVCC nvcc HINTS /usr/local/cuda/bin REQUIRED)

set(KEEL_CUDA_GENCODE)
foreach(architecture IN LISTS KEEL_CUDA_ARCHITECTURES)
    if(architecture LESS 80)
        message(FATAL_ERROR "KEEL_CUDA_ARCHITECTURES: ${architecture} has no 8-bit matrix units of the shape that kernels use; 80 is the first")
    endif()
    list(APPEND KEEL_CUDA_GENCODE -gencode arch=compute_${architecture},code=sm_${architecture})
endforeach()
foreach(architecture IN LISTS KEEL_CUDA_PTX)
    list(APPEND KEEL_CUDA_GENCODE -gencode arch=compute_${architecture},code=compute_${architecture})
endforeach()

# One translation unit, so that there is one image. --fmad=false: a multiply-add is fused only where the code says so (sdk/NUMERICS.md).
file(GLOB KEEL_CUDA_KERNELS CONFIGURE_DEPENDS kernels/cuda/*.cu)
set(KEEL_CUDA_UNIT ${CMAKE_CURRENT_BINARY_DIR}/keel_cuda_kernels.cu)
set(KEEL_CUDA_FATBIN ${CMAKE_CURRENT_BINARY_DIR}/keel_cuda_kernels.fatbin)
set(text "")
foreach(source IN LISTS KEEL_CUDA_KERNELS)
    string(APPEND text "#include \"${source}\"\n")
endforeach()
file(GENERATE OUTPUT ${KEEL_CUDA_UNIT} CONTENT "${text}")
add_custom_command(OUTPUT ${KEEL_CUDA_FATBIN}
    COMMAND ${KEEL_NVCC} -std=c++20 -O3 --fmad=false -I${CMAKE_CURRENT_SOURCE_DIR} ${KEEL_CUDA_GENCODE} -fatbin -o ${KEEL_CUDA_FATBIN}
        -MD -MF ${KEEL_CUDA_FATBIN}.d ${KEEL_CUDA_UNIT}
    DEPENDS ${KEEL_CUDA_UNIT} ${KEEL_CUDA_KERNELS} DEPFILE ${KEEL_CUDA_FATBIN}.d VERBATIM)

set(KEEL_CUDA_IMAGE ${CMAKE_CURRENT_BINARY_DIR}/keel_cuda_image.S)
file(WRITE ${KEEL_CUDA_IMAGE} "    .section .rodata
    .global keel_cuda_fatbin
    .balign 64
keel_cuda_fatbin:
    .incbin \"${KEEL_CUDA_FATBIN}\"
    .section .note.GNU-stack,\"\",%progbits
")
enable_language(ASM)
set_source_files_properties(${KEEL_CUDA_IMAGE} PROPERTIES OBJECT_DEPENDS ${KEEL_CUDA_FATBIN})

file(GLOB KEEL_CUDA_SOURCES CONFIGURE_DEPENDS sdk/backend/cuda/*.cpp sdk/backend/offload/*.cpp platform/cuda/*.cpp)
add_library(keel_cuda STATIC ${KEEL_CUDA_SOURCES} ${KEEL_CUDA_IMAGE})
add_library(keel::cuda ALIAS keel_cuda)
set_target_properties(keel_cuda PROPERTIES EXPORT_NAME cuda)
keel_core_library(keel_cuda ${KEEL_SECTIONS})
target_link_libraries(keel_cuda PUBLIC keel INTERFACE ${CMAKE_DL_LIBS})
