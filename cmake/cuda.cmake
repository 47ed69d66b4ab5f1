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

# keel_cuda_image(SYMBOL KERNELS...): the image of some .cu files, which an assembler file embeds as SYMBOL; its path is in ${SYMBOL}_SOURCE.
# One translation unit, so that there is one image. --fmad=false: a multiply-add is fused only where the code says so (sdk/NUMERICS.md).
function(keel_cuda_image symbol)
    set(unit ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.cu)
    set(fatbin ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.fatbin)
    set(text "")
    foreach(source IN LISTS ARGN)
        string(APPEND text "#include \"${source}\"\n")
    endforeach()
    file(GENERATE OUTPUT ${unit} CONTENT "${text}")
    add_custom_command(OUTPUT ${fatbin}
        COMMAND ${KEEL_NVCC} -std=c++20 -O3 --fmad=false -I${PROJECT_SOURCE_DIR} ${KEEL_CUDA_GENCODE} -fatbin -o ${fatbin}
            -MD -MF ${fatbin}.d ${unit}
        DEPENDS ${unit} ${ARGN} DEPFILE ${fatbin}.d VERBATIM)
    set(image ${CMAKE_CURRENT_BINARY_DIR}/${symbol}.S)
    file(WRITE ${image} "    .section .rodata
    .global ${symbol}
    .balign 64
${symbol}:
    .incbin \"${fatbin}\"
    .section .note.GNU-stack,\"\",%progbits
")
    set_source_files_properties(${image} PROPERTIES OBJECT_DEPENDS ${fatbin})
    set(${symbol}_SOURCE ${image} PARENT_SCOPE)
endfunction()

enable_language(ASM)
file(GLOB KEEL_CUDA_KERNELS CONFIGURE_DEPENDS kernels/cuda/*.cu)
keel_cuda_image(keel_cuda_fatbin ${KEEL_CUDA_KERNELS})

file(GLOB KEEL_CUDA_SOURCES CONFIGURE_DEPENDS sdk/backend/cuda/*.cpp sdk/backend/offload/*.cpp platform/cuda/*.cpp)
add_library(keel_cuda STATIC ${KEEL_CUDA_SOURCES} ${keel_cuda_fatbin_SOURCE})
add_library(keel::cuda ALIAS keel_cuda)
set_target_properties(keel_cuda PROPERTIES EXPORT_NAME cuda)
keel_core_library(keel_cuda ${KEEL_SECTIONS})
target_link_libraries(keel_cuda PUBLIC keel INTERFACE ${CMAKE_DL_LIBS})
if(KEEL_NVTX)
    get_filename_component(KEEL_CUDA_ROOT ${KEEL_NVCC} DIRECTORY)
    find_path(KEEL_NVTX_INCLUDE nvtx3/nvToolsExt.h HINTS ${KEEL_CUDA_ROOT}/../include /usr/local/cuda/include REQUIRED)
    target_include_directories(keel_cuda SYSTEM PRIVATE ${KEEL_NVTX_INCLUDE})
    target_compile_definitions(keel_cuda PRIVATE KEEL_NVTX)
endif()
