// Numbers of every dtype as f32 and back, sixteen bytes at a time, and sums over a warp.
#pragma once
#include <cuda_bf16.h>
#include <cuda_fp16.h>

template <typename T> __device__ float number(T value);
template <> __device__ float number(float value) { return value; }
template <> __device__ float number(__half value) { return __half2float(value); }
template <> __device__ float number(__nv_bfloat16 value) { return __bfloat162float(value); }

template <typename T> __device__ T rounded(float value);
template <> __device__ float rounded(float value) { return value; }
template <> __device__ __half rounded(float value) { return __float2half(value); }
template <> __device__ __nv_bfloat16 rounded(float value) { return __float2bfloat16(value); }

// Numbers that are read at once.
template <typename T> struct alignas(16) Pack {
    T of[16 / sizeof(T)];
};

__device__ inline float most_of_warp(float value) {
    for (int step = 16; step > 0; step /= 2) value = fmaxf(value, __shfl_xor_sync(~0u, value, step));
    return value;
}

__device__ inline float sum_of_warp(float value) {
    for (int step = 16; step > 0; step /= 2) value += __shfl_xor_sync(~0u, value, step);
    return value;
}
